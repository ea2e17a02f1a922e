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


def _in_place(name: str, op: Callable[..., Tensor]) -> Callable[[Tensor, Any], Tensor]:
    """`a += b` gives the name a to another Tensor: no use for a parameter."""

    def change(self: Tensor, other: Any) -> Tensor:
        if self._tracked and self._node is None:
            raise TypeError(
                f"{name} would not change a leaf that requires grad, but only what its name refers "
                "to: write p.data = …, as in p.data -= lr * p.grad.data"
            )
        return op(self, other)

    return change


HARMLESS = {"shape", "ndim", "size", "result_type", "shares_memory", "may_share_memory"}
"""NumPy's functions that look at no element."""


def _numpy_function(self: Tensor, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
    """NumPy's functions work on Tensors without history, as on arrays; others are refused."""

    name = function.__name__

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(plain, value))
        if not isinstance(value, Tensor):
            return value
        if value._tracked and name not in HARMLESS:
            op = f"tb.ops.{name}" if name in __all__ else "tb.ops"
            raise TypeError(
                f"numpy.{name} would lose the history of a Tensor: use {op}, or detach()"
            )
        return value._data

    return function(*map(plain, args), **{key: plain(value) for key, value in kwargs.items()})


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
    setattr(Tensor, f"__i{_name}__", _in_place(f"__i{_name}__", _op))

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
    "__array_function__": _numpy_function,
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
