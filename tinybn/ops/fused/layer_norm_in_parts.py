"""Layer norm and RMS norm of large arrays: the closed form (see layer_norm.py) part by part.

A part is some rows that fit in the cache. Nothing of the size of x is kept: with d = x - mean and
x̂ = r (d - rest), where rest is what rounding took from the mean, all sums are matrix products, of
dy and dy · d with γ, or with r.
"""

from __future__ import annotations

from typing import Any

from tinybn.backend import Array
from tinybn.ops.fused.sums import (
    channel_sums,
    column_sums,
    long_rows,
    number,
    parts,
    row_dots,
    row_sums,
    total,
)


def forward(xp: Any, a: Array, gamma: Any, beta: Any, eps: Array, centred: bool) -> tuple[Any, ...]:
    """y, and of each row of a the mean and the rest (None without centring) and r."""
    rows, dtype = len(a), a.dtype
    n = number(xp, a.shape[1], dtype)
    y = xp.empty(a.shape, dtype=dtype)
    mean: Any = xp.empty(rows, dtype=dtype) if centred else None
    rest: Any = xp.empty(rows, dtype=dtype) if centred else None
    r = xp.empty(rows, dtype=dtype)
    with long_rows(a.shape[1]):
        for s in parts(a):
            d = a[s]
            if centred:
                mean[s] = row_sums(xp, d) / n
                d = xp.subtract(d, mean[s, None], out=y[s])
                rest[s] = row_sums(xp, d) / n
                d -= rest[s, None]
            r[s] = xp.reciprocal(xp.sqrt(row_dots(xp, d, d) / n + eps))
            d = xp.multiply(d, r[s, None], out=y[s])
            if gamma is not None:
                d *= gamma
            if beta is not None:
                d += beta
    return y, mean, rest, r


def backward(
    xp: Any, needed: Any, dy: Array, x: Array, gamma: Any, mean: Any, rest: Any, r: Array
) -> tuple[Any, Any, Any]:
    """dx, dγ and dβ, the last two flat; dy comes as rows. (dx is no view: a leaf would copy it.)"""
    shape, a = dy.shape, x.reshape(dy.shape)
    if not (needed[0] or needed[1]):
        return None, None, channel_sums(xp, dy) if needed[2] else None
    whole = xp.empty(x.shape, dtype=r.dtype) if needed[0] else None
    dx: Any = None if whole is None else whole.reshape(shape)
    dgamma, dbeta = [], []
    gamma = xp.ones(shape[1], dtype=r.dtype) if gamma is None else gamma
    minus_n = number(xp, -shape[1], r.dtype)
    with long_rows(shape[1]):
        for s in parts(a):
            d, g, r_s = a[s], dy[s], r[s]
            if mean is not None:
                d = xp.subtract(d, mean[s, None], out=None if dx is None else dx[s])
            products = g * d
            if needed[2]:
                dbeta.append(channel_sums(xp, g))
            if needed[1]:
                dgamma.append(column_sums(xp, products, r_s))
                if rest is not None:
                    dgamma[-1] -= column_sums(xp, g, r_s * rest[s])
            if dx is None:
                continue
            slope = products.dot(gamma)  # Σ g x̂, but for a factor
            if rest is not None:
                sum_g = g.dot(gamma)
                slope -= rest[s] * sum_g
            slope /= minus_n
            slope *= r_s * r_s * r_s
            d = xp.multiply(d, slope[:, None], out=dx[s])
            if rest is not None:
                d -= (slope * rest[s] - r_s * sum_g / minus_n)[:, None]
            scale = xp.multiply(r_s[:, None], gamma, out=products)
            scale *= g
            d += scale
    return whole, total(dgamma) if needed[1] else None, total(dbeta) if needed[2] else None
