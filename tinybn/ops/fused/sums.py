"""What makes the closed forms fast and exact: parts that fit in the cache, and sums by BLAS.

a.dot(b) is a @ b for matrices and vectors; it takes NumPy half a microsecond less to get there.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from tinybn.backend import Array

BLOCK = 256
"""Rows that are added up one after another; the sums of such blocks add up in float64."""


CACHED = 2**17
"""Elements of a part that several passes go over while it is in the processor's cache: 512 KiB."""


KEPT = 2**15
"""Elements of an x̂ that is kept for the backward pass; a larger one is computed again there."""


def small(x: Array) -> bool:
    """Whether calls of NumPy's for x take longer than its passes, so that memory is no matter."""
    return x.size <= KEPT


def large(x: Array) -> bool:
    """Whether x is an array of NumPy's that does not fit in the cache."""
    return x.size >= 2 * CACHED and type(x) is np.ndarray


def parts(x: Array) -> list[slice]:
    """Slices of the first axis such that each part of x fits in the cache."""
    n = len(x)
    rows = max(1, CACHED * n // x.size) if large(x) else n
    return [slice(i, min(i + rows, n)) for i in range(0, n, rows)]


@functools.lru_cache(maxsize=256)
def number(xp: Any, value: float, dtype: Any) -> Array:
    """A 0-d array; for Python's numbers NumPy needs half a microsecond more, each time."""
    return xp.asarray(value, dtype)


@functools.cache
def _ones(xp: Any, n: int, dtype: Any) -> Array:
    return xp.ones(n, dtype=dtype)


def total(sums: list[Array]) -> Array:
    """The sum of the sums of all parts; of one part, just that."""
    return functools.reduce(operator.add, sums)


def row_sums(xp: Any, a: Array) -> Array:
    """Σ over the last axis of a (rows, n): a matrix product, in which BLAS adds in many lanes."""
    n = a.shape[1]
    return a.dot(_ones(xp, n, a.dtype)) if n <= 16 * BLOCK else a.sum(axis=1)


def row_dots(xp: Any, a: Array, b: Array) -> Array:
    """Σ a · b over the last axis of both (rows, n): by BLAS, or of long rows in pairs, since its
    error grows with n. (That of einsum grows the fastest.)
    """
    return xp.vecdot(a, b) if a.shape[1] <= 32 * BLOCK else (a * b).sum(axis=1)


def column_sums(xp: Any, a: Array, weights: Array) -> Array:
    """Σ weights · row over the rows of a (n, columns), weights (n,)."""
    n = len(a)
    if n <= 2 * BLOCK:
        return weights.dot(a)
    whole = n - n % BLOCK
    blocks = weights[:whole].reshape(-1, 1, BLOCK) @ a[:whole].reshape(-1, BLOCK, a.shape[1])
    rest = weights[whole:] @ a[whole:]
    return (blocks.sum(axis=(0, 1), dtype=np.float64) + rest).astype(a.dtype)


Sums: TypeAlias = Callable[[Array], Array]


def channel_adders(xp: Any, shape: tuple[int, ...], dtype: np.dtype) -> tuple[Sums, Sums]:
    """For arrays of that shape: `channel_sums` with the least ado, and averages, which are those
    over n; both to be broadcast against the array.
    """
    if len(shape) == 2 and shape[0] <= 2 * BLOCK:
        ones = _ones(xp, shape[0], dtype)
        return ones.dot, (ones / shape[0]).dot

    def add(a: Array) -> Array:
        return per_channel(channel_sums(xp, a), a)

    n = number(xp, math.prod(shape) // shape[1], dtype)
    return add, lambda a: add(a) / n


def per_channel(v: Array, x: Array) -> Array:
    """One number per channel, to be broadcast against x (N, C, …)."""
    return v if x.ndim == 2 else v.reshape((-1,) + (1,) * (x.ndim - 2))


def flat(a: Any) -> Any:
    """a with one axis; None stays None."""
    return a if a is None or a.ndim == 1 else a.reshape(-1)


def channel_sums(xp: Any, a: Array) -> Array:
    """Σ over every axis of a (N, C, …) but axis 1: (C,)."""
    if a.ndim > 2:
        n, channels = a.shape[:2]
        a = row_sums(xp, a.reshape(n * channels, -1)).reshape(n, channels)
    return column_sums(xp, a, _ones(xp, len(a), a.dtype))


@functools.cache
def _dtypes(*given: np.dtype) -> tuple[np.dtype, np.dtype]:
    output = np.result_type(*given)
    if output.kind != "f":
        output = np.dtype(np.float64)
    return output, np.result_type(output, np.float32)


def dtypes(*arrays: Array | None) -> tuple[np.dtype, np.dtype]:
    """The dtype of the output, as the composition's, and that to compute in: at least float32."""
    return _dtypes(*[a.dtype for a in arrays if a is not None])


def cast(dtype: np.dtype, *arrays: Any) -> list[Any]:
    """The arrays in that dtype, without copies where they have it; None stays None."""
    return [a if a is None or a.dtype is dtype else a.astype(dtype, copy=False) for a in arrays]


class _LongRows:
    def __init__(self, n: int) -> None:
        self.size = n - n % 16

    def __enter__(self) -> None:
        self.before = np.setbufsize(self.size)

    def __exit__(self, *_: object) -> None:
        np.setbufsize(self.before)


_SHORT_ROWS = contextlib.nullcontext()


def long_rows(n: int) -> contextlib.AbstractContextManager[None]:
    """NumPy passes broadcast operands through buffers of 8192 elements. That joins short rows into
    longer loops, but of long ones it only makes copies: no buffer longer than a row of n, then.
    """
    return _LongRows(n) if n >= 512 else _SHORT_ROWS
