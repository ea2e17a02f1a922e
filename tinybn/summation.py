"""Sums and means with little rounding error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinybn.backend import MODULES

FEW = 32
"""Sums of up to this many terms stay in float32, which costs only a few ULP."""

NARROW = {np.dtype(np.float16), np.dtype(np.float32)}


def add_up(a: Any, axis: Any, keepdims: bool) -> Any:
    """Σ a in the dtype of a, over one axis, several, or all (None); a is an array or a Tensor.

    NumPy adds rows one after another, so a sum of N rows can lose √N ULP or more in float32. Long
    sums therefore accumulate in float64. (A GPU adds in a tree, which loses only log N ULP.)
    """
    if a.size > FEW and a.dtype in NARROW and _terms(a, axis) > FEW and _on_numpy(a):
        return a.sum(axis=axis, keepdims=keepdims, dtype=np.float64).astype(a.dtype)
    return a.sum(axis=axis, keepdims=keepdims)


def average(a: Any, axis: Any, keepdims: bool) -> Any:
    """The mean, computed with `add_up`."""
    total = add_up(a, axis, keepdims)
    return total / (a.size // total.size)


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
