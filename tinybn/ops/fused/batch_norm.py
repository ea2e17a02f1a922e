"""Batch norm.

Per channel, with n values: x̂ = (x - μ) r, r = 1/√(σ² + ε), y = γ x̂ + β. Into x lead three paths:
direct, through μ, and through σ² (with dL/dσ² = -½ r² Σ γ dy x̂ and ∂σ²/∂x = 2 (x - μ) / n):

    dx = γ r dy  -  γ r Σ dy / n  -  γ r x̂ Σ(dy x̂) / n        dγ = Σ(dy x̂)        dβ = Σ dy

and the path x → μ → σ² carries nothing, because Σ(x - μ) = 0. (Ioffe & Szegedy 2015, section 3.)
d = x - μ is computed with a rounded μ; what that leaves, the mean of d, is subtracted afterwards.
Large arrays are worked on part by part, each pass of which then finds its numbers in the cache.
In evaluation μ and σ² are constants and only the direct path is left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinybn.backend import Array
from tinybn.fusion import fused
from tinybn.ops import norm
from tinybn.ops.fused.sums import (
    cast,
    channel_adder,
    channel_sums,
    dtypes,
    long_rows,
    number,
    parts,
    total,
)


class Moments(NamedTuple):
    """Of each channel: the mean is mean + rest, where rest is what rounding took; σ²; and r."""

    mean: Array
    rest: Array
    var: Array
    r: Array


def per_channel(v: Array, x: Array) -> Array:
    """One number per channel, to be broadcast against x (N, C, …)."""
    return v if x.ndim == 2 else v.reshape((-1,) + (1,) * (x.ndim - 2))


@fused(composition=norm.batch_norm)
def batch_norm(
    xp: Any, x: Array, gamma: Any, beta: Any, *, mean: Any, var: Any, eps: float
) -> tuple[Array, Moments]:
    norm.check_batch_norm(x, gamma, beta, mean, var, eps)
    output, dtype = dtypes(x, gamma, beta)
    x, gamma, beta = cast(dtype, x, gamma, beta)
    y = xp.empty(x.shape, dtype)
    slices = parts(x)
    add = channel_adder(xp, x)
    with long_rows(x.shape[-1]):
        if mean is None:
            n = number(xp, x.size // x.shape[1], dtype)
            mean = add(x) / n
            across = per_channel(mean, x)
            rests, squares = [], []
            for s in slices:
                d = xp.subtract(x[s], across, y[s])
                rests.append(add(d))
                squares.append(add(d * d))
            rest = total(rests) / n
            var = total(squares) / n - rest * rest
        else:
            mean, var = cast(dtype, norm.constant(mean), norm.constant(var))
            xp.subtract(x, per_channel(mean, x), y)
            rest = 0.0
        r = xp.reciprocal(xp.sqrt(var + number(xp, eps, dtype)))
        scale = r if gamma is None else gamma * r
        shift = -rest * scale if beta is None else beta - rest * scale
        across = per_channel(scale, x), per_channel(shift, x)
        for s in slices:
            d = y[s]
            d *= across[0]
            d += across[1]
    return y.astype(output, copy=False), Moments(mean, rest, var, r)


@batch_norm.backward
def _(
    xp: Any, needed: Any, dy: Array, moments: Moments, x: Array, gamma: Any, beta: Any, *,
    mean: Any, var: Any, eps: float,
) -> Any:  # fmt: skip
    training = mean is None
    mean, rest, _, r = moments
    dy, x, gamma = cast(r.dtype, dy, x, gamma)
    scale = r if gamma is None else gamma * r
    if not (needed[1] or training):
        dbeta = channel_sums(xp, dy) if needed[2] else None
        return needed[0] and dy * per_channel(scale, x), None, dbeta
    add = channel_adder(xp, x)
    dx = xp.empty(x.shape, r.dtype)
    slices = parts(x)
    with long_rows(x.shape[-1]):
        across = per_channel(mean, x)
        products, sums = [], []
        for s in slices:
            d, g = xp.subtract(x[s], across, dx[s]), dy[s]
            products.append(add(d * g))
            sums.append(add(g))
        dbeta = total(sums)
        dgamma = (total(products) - rest * dbeta) * r
        if not needed[0]:
            return None, dgamma, dbeta
        if not training:
            return dy * per_channel(scale, x), dgamma, dbeta
        minus_n = number(xp, -(x.size // x.shape[1]), r.dtype)
        slope = dgamma * r / minus_n
        shift = per_channel(slope * rest - dbeta / minus_n, x)
        slope, scale = per_channel(slope, x), per_channel(scale, x)
        for s in slices:
            d = dx[s]
            d *= slope
            d += dy[s]
            d -= shift
            d *= scale
    return dx, dgamma, dbeta
