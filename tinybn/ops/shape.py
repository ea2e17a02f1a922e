"""Ops that rearrange elements, with NumPy's names and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinybn.backend import Array
from tinybn.op import primitive
from tinybn.tensor import Input, Tensor

__all__ = [
    "broadcast_to", "concatenate", "expand_dims", "getitem", "reshape", "squeeze", "stack",
    "swapaxes", "transpose",
]  # fmt: skip


@primitive(lambda g, a: reshape(g, a.shape))
def reshape(xp: Any, a: Array, shape: int | tuple[int, ...]) -> Array:
    """a with another shape of the same size; one length may be -1."""
    return a.reshape(shape)


@primitive(lambda g, axes: transpose(g, _inverse(axes)))
def transpose(xp: Any, a: Array, axes: tuple[int, ...] | None = None) -> Array:
    """a with its axes in the order `axes`, or reversed."""
    return a.transpose(axes)


def _inverse(axes: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if axes is None:
        return None
    return tuple(sorted(range(len(axes)), key=lambda i: axes[i] % len(axes)))


@primitive(lambda g, axis1, axis2: swapaxes(g, axis1, axis2))
def swapaxes(xp: Any, a: Array, axis1: int, axis2: int) -> Array:
    """a with two axes exchanged."""
    return a.swapaxes(axis1, axis2)


@primitive(lambda g, a: reshape(g, a.shape))
def expand_dims(xp: Any, a: Array, axis: int | tuple[int, ...]) -> Array:
    """a with new axes of length 1, at the positions `axis` of the result."""
    return xp.expand_dims(a, axis)


@primitive(lambda g, a: reshape(g, a.shape))
def squeeze(xp: Any, a: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """a without its axes of length 1, or without those in `axis`."""
    return a.squeeze(axis)


@primitive(lambda g: g)
def broadcast_to(xp: Any, a: Array, shape: tuple[int, ...]) -> Array:
    """a repeated along new axes and axes of length 1."""
    return xp.broadcast_to(a, shape)


def concatenate(arrays: Sequence[Input], axis: int = 0) -> Tensor:
    """The arrays joined along an existing axis."""
    return _concatenate(*_several("concatenate", arrays), axis=axis)


def stack(arrays: Sequence[Input], axis: int = 0) -> Tensor:
    """The arrays, all of one shape, joined along a new axis."""
    arrays = _several("stack", arrays)
    if len({a.shape for a in arrays}) > 1:
        raise ValueError(f"stack: expected equal shapes, got {[a.shape for a in arrays]}")
    return _concatenate(*(expand_dims(a, axis) for a in arrays), axis=axis)


def _several(name: str, arrays: Sequence[Input]) -> list[Any]:
    if not isinstance(arrays, list | tuple) or not arrays:
        raise ValueError(f"{name}: expected a list or tuple of at least one Tensor or array")
    return list(arrays)


@primitive(lambda g, arrays, axis, i: getitem(g, _place(arrays, axis, i)))
def _concatenate(xp: Any, *arrays: Array, axis: int) -> Array:
    return xp.concatenate(arrays, axis=axis)


def _place(arrays: Sequence[Any], axis: int, i: int) -> tuple[slice, ...]:
    """Where the i-th array is in the result of concatenate."""
    axis %= arrays[i].ndim
    start = sum(a.shape[axis] for a in arrays[:i])
    return (*[slice(None)] * axis, slice(start, start + arrays[i].shape[axis]))


def getitem(a: Input, index: Any) -> Tensor:
    """a[index]: integers, slices, None, `...`, and arrays (or Tensors) of integers or bools."""
    if isinstance(index, tuple):
        index = tuple(i.data if isinstance(i, Tensor) else i for i in index)
    elif isinstance(index, Tensor):
        index = index.data
    return _getitem(a, index=index)


@primitive(lambda g, a, index: _put(g, index=index, shape=a.shape))
def _getitem(xp: Any, a: Array, *, index: Any) -> Array:
    if xp.__name__ != "numpy":
        _check_bounds(a.shape, index)
    return a[index]


def _check_bounds(shape: tuple[int, ...], index: Any) -> None:
    """Raise IndexError if an index on the host is out of bounds: CuPy would wrap it around.

    An index on the GPU is not checked, since that would wait for the GPU.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if all(isinstance(part, _ON_HOST) or part is None or part is ... for part in parts):
        np.broadcast_to(False, shape)[index]


_ON_HOST = (np.ndarray, list, slice, int, np.integer)


@primitive(lambda g, index: _getitem(g, index=index))
def _put(xp: Any, a: Array, *, index: Any, shape: tuple[int, ...]) -> Array:
    """Zeros of `shape`, with a added at `index`; values for the same element add up."""
    out = xp.zeros(shape, dtype=a.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is ... or isinstance(part, int | slice) for part in parts):
        out[index] = a
    else:
        xp.add.at(out, index, a)
    return out
