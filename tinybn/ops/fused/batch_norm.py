"""Batch norm.

Per channel, with n values: x̂ = (x - μ) r, r = 1/√(σ² + ε), y = γ x̂ + β. Into x lead three paths:
direct, through μ, and through σ² (with dL/dσ² = -½ r² Σ γ dy x̂ and ∂σ²/∂x = 2 (x - μ) / n):

    dx = γ r dy  -  γ r Σ dy / n  -  γ r x̂ Σ(dy x̂) / n        dγ = Σ(dy x̂)        dβ = Σ dy

and the path x → μ → σ² carries nothing, because Σ(x - μ) = 0. (Ioffe & Szegedy 2015, section 3.)
d = x - μ is computed with a rounded μ; what that leaves, the mean of d, is subtracted afterwards.
In evaluation μ and σ² are constants and only the direct path is left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinybn.backend import Array
from tinybn.fusion import fused
from tinybn.ops import norm
from tinybn.ops.fused.sums import cast, channel_sums, dtypes, long_rows


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
    with long_rows(x.shape[-1]):
        if mean is None:
            n = x.size // x.shape[1]
            mean = channel_sums(xp, x) / n
            d = x - per_channel(mean, x)
            rest = channel_sums(xp, d) / n
            var = channel_sums(xp, d * d) / n - rest * rest
        else:
            mean, var = cast(dtype, norm.constant(mean), norm.constant(var))
            d, rest = x - per_channel(mean, x), 0.0
        r = 1 / xp.sqrt(var + eps)
        scale = r if gamma is None else gamma * r
        d *= per_channel(scale, x)
        shift = -rest * scale if beta is None else beta - rest * scale
        d += per_channel(shift, x)
    return d.astype(output, copy=False), Moments(mean, rest, var, r)


@batch_norm.backward
def _(
    xp: Any, needed: Any, dy: Array, moments: Moments, x: Array, gamma: Any, beta: Any, *,
    mean: Any, var: Any, eps: float,
) -> Any:  # fmt: skip
    training = mean is None
    mean, rest, _, r = moments
    dy, x, gamma = cast(r.dtype, dy, x, gamma)
    scale = r if gamma is None else gamma * r
    with long_rows(x.shape[-1]):
        dx = dgamma = dbeta = None
        if needed[2] or needed[1] or training:
            dbeta = channel_sums(xp, dy)
        if needed[1] or training:
            d = x - per_channel(mean, x)
            dgamma = (channel_sums(xp, d * dy) - rest * dbeta) * r
        if needed[0] and training:
            n = x.size // x.shape[1]
            slope = dgamma * r / -n
            d *= per_channel(slope, x)
            d += dy
            d -= per_channel(dbeta / n + slope * rest, x)
            d *= per_channel(scale, x)
            dx = d
        elif needed[0]:
            dx = dy * per_channel(scale, x)
    return dx, dgamma, dbeta
