"""Sums and means with little rounding error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinybn.backend import MODULES

FEW = 64
"""Sums of up to this many terms stay in float32, which costs only a few ULP."""


HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)


def add_up(a: Any, axis: Any, keepdims: bool) -> Any:
    """Σ a over an axis, several, or all (None), in the dtype of a; of an array or a Tensor."""
    dtype = _accumulator(a, axis)
    if dtype is None:
        return a.sum(axis=axis, keepdims=keepdims)
    return a.sum(axis=axis, keepdims=keepdims, dtype=dtype).astype(a.dtype)


def average(a: Any, axis: Any, keepdims: bool) -> Any:
    """The mean of an array, also where the sum is too large for its dtype."""
    dtype = _accumulator(a, axis)
    total = a.sum(axis=axis, keepdims=keepdims, dtype=dtype)
    n = a.size // total.size
    return total / n if dtype is None else (total / n).astype(a.dtype)


def _accumulator(a: Any, axis: Any) -> Any:
    """The dtype in which a sum of a accumulates, if not in its own.

    NumPy adds rows one after another, so the sum of N rows loses up to √N ULP of float32, or more.
    Long sums therefore accumulate in float64. (A GPU adds in a tree, which loses log N.) float16
    always accumulates in more.
    """
    if a.dtype == HALF and type(a) in MODULES:
        return np.float64 if _on_numpy(a) else np.float32
    if a.size > FEW and a.dtype == SINGLE and _terms(a, axis) > FEW and _on_numpy(a):
        return np.float64
    return None


def _on_numpy(a: Any) -> bool:
    return getattr(MODULES.get(type(a)), "__name__", "") == "numpy"  # a Tensor has no library


def _terms(a: Any, axis: Any) -> int:
    """The number of terms in each sum; 0 for a bad axis, which `sum` will reject."""
    if axis is None:
        return a.size
    try:
        return math.prod(map(a.shape.__getitem__, axis)) if type(axis) is tuple else a.shape[axis]
    except (IndexError, TypeError):
        return 0
