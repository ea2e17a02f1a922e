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
from tinybn.ops.fused.sums import cast, channel_sums, dtypes, long_rows, parts, total


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
    y = xp.empty(x.shape, dtype=dtype)
    slices = parts(x)
    with long_rows(x.shape[-1]):
        if mean is None:
            n = x.size // x.shape[1]
            mean = channel_sums(xp, x) / n
            rests, squares = [], []
            for s in slices:
                d = xp.subtract(x[s], per_channel(mean, x), out=y[s])
                rests.append(channel_sums(xp, d))
                squares.append(channel_sums(xp, d * d))
            rest = total(rests) / n
            var = total(squares) / n - rest * rest
        else:
            mean, var = cast(dtype, norm.constant(mean), norm.constant(var))
            xp.subtract(x, per_channel(mean, x), out=y)
            rest = 0.0
        r = 1 / xp.sqrt(var + eps)
        scale = r if gamma is None else gamma * r
        shift = -rest * scale if beta is None else beta - rest * scale
        for s in slices:
            d = y[s]
            d *= per_channel(scale, x)
            d += per_channel(shift, x)
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
    slices = parts(x)
    with long_rows(x.shape[-1]):
        d = xp.empty(x[slices[0]].shape, dtype=r.dtype)
        products, sums = [], []
        for s in slices:
            d = xp.subtract(x[s], per_channel(mean, x), out=d[: s.stop - s.start])
            products.append(channel_sums(xp, d * dy[s]))
            sums.append(channel_sums(xp, dy[s]))
        dbeta = total(sums)
        dgamma = (total(products) - rest * dbeta) * r
        if not needed[0]:
            return None, dgamma, dbeta
        if not training:
            return dy * per_channel(scale, x), dgamma, dbeta
        n = x.size // x.shape[1]
        slope = dgamma * r / -n
        shift = dbeta / n + slope * rest
        dx = d if len(slices) == 1 else xp.empty(x.shape, dtype=r.dtype)
        for s in slices:
            d = dx[s]
            if len(slices) > 1:
                xp.subtract(x[s], per_channel(mean, x), out=d)
            d *= per_channel(slope, x)
            d += dy[s]
            d -= per_channel(shift, x)
            d *= per_channel(scale, x)
    return dx, dgamma, dbeta
