"""Sums that keep their digits."""

from __future__ import annotations

from typing import Any

import numpy as np

FEW = 512
"""Up to this size of an array, rounding takes no more than a few ULP of any sum."""


def add_up(a: Any, axis: Any, keepdims: bool) -> Any:
    """Σ a over an axis, several, or all (None), in the dtype of a; of an array or a Tensor.

    NumPy adds rows one after another, and N of them in float32 cost up to √N ULP, or more. So many
    are added in float64. (A GPU adds in a tree, which loses log N.)
    """
    if a.size > FEW and type(a) is np.ndarray and a.dtype.kind == "f" and a.itemsize < 8:
        wide = a.sum(axis=axis, keepdims=keepdims, dtype=np.float64)
        return wide.astype(a.dtype)
    return a.sum(axis=axis, keepdims=keepdims)
