"""Make arrays from user data: lists, numbers, and the arrays of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinybn.backend import MODULES, Array, module, move


def new_array(data: Any, dtype: DTypeLike | None, backend: str | None) -> Array:
    """A copy of an array, a number or nested lists of numbers, on a backend; see `Tensor`."""
    if isinstance(data, np.ndarray | np.generic):
        array = np.array(data, dtype=dtype)
    elif xp := MODULES.get(type(data)):
        array = xp.array(data, dtype=dtype)
    elif hasattr(data, "__dlpack__"):
        array = from_dlpack(data)
        array = array.astype(array.dtype if dtype is None else dtype)  # a copy
    else:
        has_dtype = hasattr(data, "__array__")
        try:
            array = np.array(data, dtype=dtype if has_dtype else None)
        except ValueError as error:  # rows of different lengths
            raise TypeError(_no_tensor(data, error)) from error
        if array.dtype.kind in "fiub" and not has_dtype:
            array = array.astype(np.float32 if dtype is None else dtype)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"a Tensor holds real numbers, got {type(data).__name__} with dtype {array.dtype}"
        )
    return array if backend is None else move(array, backend)


_HOST_DEVICES = (1, 3, 11)  # kDLCPU, kDLCUDAHost, kDLROCMHost of DLPack's dlpack.h


def from_dlpack(data: Any) -> Array:
    """The array of another library, without a copy; TypeError if it cannot be exported."""
    xp = module("numpy" if data.__dlpack_device__()[0] in _HOST_DEVICES else "cupy")
    try:
        return xp.from_dlpack(data)
    except (BufferError, RuntimeError, ValueError) as error:
        raise TypeError(_no_tensor(data, error)) from error


def _no_tensor(data: Any, error: Exception) -> str:
    return f"cannot make a Tensor of this {type(data).__name__}: {error}"


def as_array(y: Any) -> Array:
    """`y` as an array: where a result has no axes, NumPy returns a scalar."""
    return np.asarray(y) if isinstance(y, np.generic) else y


def shares_memory(y: Array, a: Array) -> bool:
    """Whether y is the array a, or both are views of one array."""
    return y is a or (getattr(y, "base", None) is not None and _owner(y) is _owner(a))


def _owner(array: Any) -> Array:
    while type(base := getattr(array, "base", None)) is type(array):
        array = base
    return array


def holds(data: Any, kind: type) -> bool:
    """Whether nested lists hold something of this kind."""
    return isinstance(data, list | tuple) and any(
        isinstance(item, kind) or holds(item, kind) for item in data
    )
