"""Sums that keep their digits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinybn.backend import MODULES

FEW = 64
"""So many terms may be added in float32: rounding costs a few ULP."""


NARROW = {np.dtype(np.float16), np.dtype(np.float32)}


def add_up(a: Any, axis: Any, keepdims: bool) -> Any:
    """Σ a over an axis, several, or all (None), in the dtype of a; of an array or a Tensor.

    NumPy adds rows one after another, so the sum of N rows loses up to √N ULP of float32, or more.
    Long sums therefore accumulate in float64. (A GPU adds in a tree, which loses log N.)
    """
    if a.size > FEW and a.dtype in NARROW and _terms(a, axis) > FEW and _on_numpy(a):
        return a.sum(axis=axis, keepdims=keepdims, dtype=np.float64).astype(a.dtype)
    return a.sum(axis=axis, keepdims=keepdims)


def average(a: Any, axis: Any, keepdims: bool) -> Any:
    """The mean, by `add_up`."""
    total = add_up(a, axis, keepdims)
    return total / (a.size // total.size)


def _on_numpy(a: Any) -> bool:
    return getattr(MODULES.get(type(a)), "__name__", "") == "numpy"  # a Tensor has no library


def _terms(a: Any, axis: Any) -> int:
    """How many elements of a go into each sum; 0 for a bad axis, about which `sum` complains."""
    if axis is None:
        return a.size
    try:
        return math.prod(map(a.shape.__getitem__, axis)) if type(axis) is tuple else a.shape[axis]
    except (IndexError, TypeError):
        return 0
