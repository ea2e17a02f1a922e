"""Batch norm of large arrays on NumPy: the closed form (see batch_norm.py) part by part.

A part is some rows of x that fit in the cache, so that all passes but the first find their numbers
there. Sums over parts add up; what follows from them is the same.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tinybn.ops.fused.sums import channel_sums, long_rows, parts, per_channel


def forward(x: np.ndarray, gamma: Any, beta: Any, eps: float) -> tuple[Any, ...]:
    """y, and of each channel the mean, the rest, σ² and r."""
    n, add, slices = x.size // x.shape[1], partial(channel_sums, np), parts(x)
    y = np.empty(x.shape, x.dtype)
    rest = square = 0.0
    with long_rows(x.shape[-1]):
        mean = add(x) / n
        centre = per_channel(mean, x)
        for s in slices:
            d = np.subtract(x[s], centre, out=y[s])
            rest += add(d)
            square += add(d * d)
        rest /= n
        var = square / n - rest * rest
        r = 1 / np.sqrt(var + eps)
        scale = r if gamma is None else gamma * r
        shift = -rest * scale if beta is None else beta - rest * scale
        scale, shift = per_channel(scale, x), per_channel(shift, x)
        for s in slices:
            y[s] *= scale
            y[s] += shift
    return y, mean, rest, var, r


def backward(
    dy: np.ndarray, x: np.ndarray, gamma: Any, mean: np.ndarray, rest: np.ndarray, r: np.ndarray
) -> tuple[np.ndarray, ...]:
    """dx, dγ and dβ."""
    n, add, slices = x.size // x.shape[1], partial(channel_sums, np), parts(x)
    dx = np.empty(x.shape, r.dtype)
    product: Any = 0.0
    dbeta: Any = 0.0
    with long_rows(x.shape[-1]):
        centre = per_channel(mean, x)
        for s in slices:
            d = np.subtract(x[s], centre, out=dx[s])
            product += add(d * dy[s])
            dbeta += add(dy[s])
        dgamma = (product - rest * dbeta) * r
        slope = dgamma * r / -n
        shift = per_channel(dbeta / n + slope * rest, x)
        scale = per_channel(r if gamma is None else gamma * r, x)
        slope = per_channel(slope, x)
        for s in slices:
            d = dx[s]
            d *= slope
            d += dy[s]
            d -= shift
            d *= scale
    return dx, dgamma, dbeta
