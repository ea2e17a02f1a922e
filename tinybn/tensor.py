"""Tensor: an array, its gradient, and how it was computed.

A Tensor is a *leaf*, made by `tensor(...)`, or the output of a recorded op. An output knows the
Node that made it (`_node`, see op.py). A leaf has none; it is where gradients end up.

One clock ticks at every recorded op and every change of an array through `data`. A backward pass
therefore knows the order in which ops ran, and whether an array changed after an op read it.
Tensors that share memory (views, `detach()`) share the time of its last change.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from tinybn import backend as backends
from tinybn.arrays import as_array, holds, new_array
from tinybn.backend import MODULES, Array
from tinybn.modes import current_mode

if TYPE_CHECKING:
    from tinybn.methods import Methods
else:
    Methods = object  # ops/__init__.py binds operators and methods to their ops

tick: Callable[[], int] = itertools.count(1).__next__

Input: TypeAlias = "Tensor | Array"
"""What an op takes: a Tensor, or an array, which is a constant."""

Operand: TypeAlias = "Tensor | Array | float"
"""What an elementwise op takes: a Tensor, an array or a number."""

Axis: TypeAlias = int | tuple[int, ...] | None
"""The axes of a reduction: one, several, or all of them (None)."""


class Tensor(Methods):
    """An array with a gradient. `Tensor(...)` and `tb.tensor(...)` are the same call.

    Args:
        data: a Tensor, an array of any library, a number, or nested lists of numbers; it is copied.
            Lists and Python numbers become float32. Arrays and NumPy scalars keep their dtype.
        dtype: the dtype to convert to.
        requires_grad: whether backward passes compute its gradient; needs a floating-point dtype.
        backend: "numpy" or "cupy"; by default the one of `use_backend`, or else the one of `data`.

    Attributes:
        grad: a leaf's gradient, which backward passes add to; a Tensor, or None.

    Raises:
        TypeError: `data` holds no real numbers, or its dtype can't require grad.
    """

    __slots__ = ("__weakref__", "_changed", "_data", "_grad", "_node", "_tracked")
    # NumPy and CuPy arrays leave `array + tensor` to the Tensor; np.exp(tensor) asks __array__.
    __array_priority__ = 1000

    _grad: Tensor | None
    _data: Array

    def __init__(
        self,
        data: Any,
        *,
        dtype: DTypeLike | None = None,
        requires_grad: bool = False,
        backend: str | None = None,
    ) -> None:
        if isinstance(data, Tensor):
            data = data._data
        elif holds(data, Tensor):
            raise TypeError("a list of Tensors would lose their gradients: use tb.ops.stack")
        self._data = new_array(data, dtype, backend or current_mode().backend)
        self._node: Any = None
        self._changed: list[int] | None = None
        self._tracked = False
        self._grad = None
        self.requires_grad = requires_grad

    @property
    def data(self) -> Array:
        """The array. A backward pass notices if it was set, also by `t.data -= a`. It does not
        notice writes into the array, such as `t.data[0] = 1`.
        """
        return self._data

    @data.setter
    def data(self, array: Array) -> None:
        if array is self._data:  # and has changed, as by `t.data -= a`
            time_of_change(self)[0] = tick()
            return
        if isinstance(array, Tensor) or MODULES[type(as_array(array))] is None:
            raise TypeError(
                f"data must be an array, got {type(array).__name__}: use the `data` of a Tensor, "
                "as in p.data -= lr * p.grad.data"
            )
        if self._node is not None:
            raise ValueError("the data of an op's output can't be replaced: detach() it first")
        if self._tracked and array.dtype.kind != "f":
            raise _not_differentiable(array.dtype)
        self._data = as_array(array)
        self._changed = [tick()]

    @property
    def requires_grad(self) -> bool:
        """Whether a backward pass computes a gradient for this Tensor (or through it)."""
        return self._tracked

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if self._node is not None and not wanted:
            raise ValueError("the output of a recorded op always requires grad: use detach()")
        if wanted and self.dtype.kind != "f":
            raise _not_differentiable(self.dtype)
        self._tracked = bool(wanted)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    @property
    def backend(self) -> str:
        """Where the array lives: "numpy" or "cupy"."""
        return backends.name_of(self._data)

    def numpy(self) -> np.ndarray:
        """A copy as a NumPy array, on the host, without history."""
        return np.array(backends.move(self._data, "numpy"))

    def item(self) -> float:
        """The value of a Tensor with one element, as a Python number."""
        if self.size != 1:
            raise ValueError(f"item() needs exactly one element, got shape {self.shape}")
        return self._data.item()

    def detach(self) -> Tensor:
        """The same array as a leaf without history: no gradient flows through it."""
        leaf = wrap(self._data)
        leaf._changed = time_of_change(self)
        return leaf

    def __copy__(self) -> Tensor:
        leaf = self.detach()
        leaf._tracked = self._tracked
        return leaf

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        """For np.asarray(tensor): a copy; with copy=False, the array itself."""
        if self._tracked:
            raise TypeError(
                "a Tensor that requires grad would lose its history in NumPy: use an op of tb.ops, "
                "or detach() it"
            )
        if self.backend != "numpy":
            raise TypeError("a CuPy Tensor is not converted silently: use .numpy()")
        return np.array(self._data, dtype=dtype, copy=copy is not False)

    def __dlpack__(self, **options: Any) -> Any:
        """For the from_dlpack of other libraries, which share the memory."""
        if self._tracked:
            raise BufferError(
                "a Tensor that requires grad can't be exported: its gradient would be lost, and "
                "changes to its memory would go unnoticed: use detach()"
            )
        return self._data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._data.__dlpack_device__()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a Tensor without axes (shape ())")
        return self.shape[0]

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __repr__(self) -> str:
        values = np.array2string(
            backends.move(self._data, "numpy"), separator=", ", prefix="tensor(", threshold=100
        )
        notes = ["" if self.dtype == np.float32 else f", dtype={self.dtype}"]
        if self.backend != "numpy":
            notes.append(f", backend={self.backend!r}")
        if self._node is not None:
            notes.append(f", from {self._node.op.name}")
        elif self._tracked:
            notes.append(", requires_grad=True")
        return f"tensor({values}{''.join(notes)})"

    __hash__ = object.__hash__  # == is elementwise


tensor = Tensor


def wrap(array: Array, node: Any = None) -> Tensor:
    """A Tensor around `array` itself, without a copy or a check: how ops make their outputs."""
    out = Tensor.__new__(Tensor)
    out._data = array
    out._node = node
    out._changed = None
    out._tracked = node is not None
    out._grad = None
    return out


def time_of_change(tensor: Tensor) -> list[int]:
    """When the memory of a Tensor last changed: a list, which all that share the memory share."""
    holder = tensor._node or tensor
    holder._changed = holder._changed or [0]
    return holder._changed


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a Tensor or an array; () for anything else."""
    return getattr(value, "shape", ())


def _not_differentiable(dtype: np.dtype) -> TypeError:
    return TypeError(
        f"only floating-point Tensors can require gradients, and this one is {dtype}: "
        "pass dtype=np.float32"
    )
