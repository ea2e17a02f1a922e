"""Sums that keep their digits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinybn.backend import MODULES

FEW = 32
"""Rounding takes no more than a few ULP of a sum of so many terms."""


def add_up(a: Any, axis: Any, keepdims: bool) -> Any:
    """Σ a over an axis, several, or all (None), in the dtype of a; of an array or a Tensor.

    NumPy adds rows one after another, so N of them cost up to √N ULP of float32, or more. Long sums
    therefore accumulate in float64. (A GPU adds in a tree, which costs log N.)
    """
    if a.size > FEW and _is_narrow(a.dtype) and _is_on_numpy(a) and _terms(a, axis) > FEW:
        return a.sum(axis=axis, keepdims=keepdims, dtype=np.float64).astype(a.dtype)
    return a.sum(axis=axis, keepdims=keepdims)


def average(a: Any, axis: Any, keepdims: bool) -> Any:
    """The mean, by `add_up`."""
    total = add_up(a, axis, keepdims)
    return total / (a.size // total.size)


def _is_narrow(dtype: np.dtype) -> bool:
    return dtype.kind == "f" and dtype.itemsize < 8


def _is_on_numpy(a: Any) -> bool:
    return getattr(MODULES.get(type(a)), "__name__", None) == "numpy"  # a Tensor is on neither


def _terms(a: Any, axis: Any) -> int:
    """How many elements of a go into each sum. (What is wrong with an axis is for sum to say.)"""
    if axis is None:
        return a.size
    axes = axis if isinstance(axis, tuple) else (axis,)
    return math.prod([n for i, n in enumerate(a.shape) if i in axes or i - a.ndim in axes])
