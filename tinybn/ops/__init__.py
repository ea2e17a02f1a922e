"""All ops, and the operators and methods of Tensor that are ops.

An op takes Tensors, arrays and numbers. Given a Tensor, it returns a Tensor, otherwise an array.
float32 stays float32: Python numbers and NumPy scalars do not promote it.
"""

# ruff: noqa: F403, F405 (each file lists its ops in __all__)

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tinybn import autodiff
from tinybn.backend import MODULES
from tinybn.ops import activation, elementwise, fused, linalg, loss, reduction, shape
from tinybn.ops.activation import *
from tinybn.ops.elementwise import *
from tinybn.ops.fused import *
from tinybn.ops.linalg import *
from tinybn.ops.loss import *
from tinybn.ops.reduction import *
from tinybn.ops.shape import *
from tinybn.tensor import Tensor

__all__: list[str] = []
__all__ += activation.__all__
__all__ += elementwise.__all__
__all__ += fused.__all__
__all__ += linalg.__all__
__all__ += loss.__all__
__all__ += reduction.__all__
__all__ += shape.__all__


def _swapped(op: Callable[..., Tensor]) -> Callable[[Tensor, Any], Tensor]:
    return lambda self, other: op(other, self)


def _comparison(op: Callable[..., Tensor]) -> Callable[[Tensor, Any], Any]:
    """Leaves `tensor == None` and the like to Python."""

    def compare(self: Tensor, other: Any) -> Any:
        known = hasattr(other, "shape") or type(other) in MODULES
        return op(self, other) if known else NotImplemented

    return compare


def _many(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Accepts x.reshape(2, 3) as well as x.reshape((2, 3))."""
    return lambda self, *args: op(self, args[0] if len(args) == 1 else args or None)


def _iterate(self: Tensor) -> Iterator[Tensor]:
    return (self[i] for i in range(len(self)))


for _name, _op in {
    "add": add,
    "sub": subtract,
    "mul": multiply,
    "truediv": divide,
    "pow": power,
    "matmul": matmul,
}.items():
    setattr(Tensor, f"__{_name}__", _op)
    setattr(Tensor, f"__r{_name}__", _swapped(_op))

for _name, _op in {
    "lt": less,
    "le": less_equal,
    "gt": greater,
    "ge": greater_equal,
    "eq": equal,
    "ne": not_equal,
}.items():
    setattr(Tensor, f"__{_name}__", _comparison(_op))

_method: Any
for _name, _method in {
    "__neg__": negative,
    "__abs__": abs,
    "__getitem__": getitem,
    "__iter__": _iterate,
    "T": property(transpose),
    "reshape": _many(reshape),
    "transpose": _many(transpose),
    "backward": autodiff.backward,
}.items():
    setattr(Tensor, _name, _method)

for _method in (
    *(abs, exp, log, sqrt, tanh, sigmoid, relu, clip, astype, to),
    *(sum, mean, var, max, min, logsumexp, softmax, log_softmax),
    *(swapaxes, expand_dims, squeeze, broadcast_to),
):
    setattr(Tensor, _method.__name__, _method)
