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
from tinybn.ops.fused import batch_norm_in_parts as in_parts
from tinybn.ops.fused.sums import (
    cast,
    channel_adder,
    dtypes,
    large,
    long_rows,
    number,
    per_channel,
)


class Moments(NamedTuple):
    """Of each channel: the mean is mean + rest, where rest is what rounding took; σ²; and r."""

    mean: Array
    rest: Array
    var: Array
    r: Array


@fused(composition=norm.batch_norm)
def batch_norm(
    xp: Any, x: Array, gamma: Any, beta: Any, *, mean: Any, var: Any, eps: float
) -> tuple[Array, Moments]:
    norm.check_batch_norm(x, gamma, beta, mean, var, eps)
    output, dtype = dtypes(x, gamma, beta)
    x, gamma, beta = cast(dtype, x, gamma, beta)
    if mean is None and large(x):
        y, *moments = in_parts.forward(x, gamma, beta, eps)
        return y.astype(output, copy=False), Moments(*moments)
    with long_rows(x.shape[-1]):
        if mean is None:
            add, n = channel_adder(xp, x), number(xp, x.size // x.shape[1], dtype)
            mean = add(x) / n
            d = x - per_channel(mean, x)
            rest = add(d) / n
            var = add(d * d) / n - rest * rest
        else:
            mean, var = cast(dtype, norm.constant(mean), norm.constant(var))
            d = x - per_channel(mean, x)
            rest = 0.0
        r = xp.reciprocal(xp.sqrt(var + number(xp, eps, dtype)))
        scale = r if gamma is None else gamma * r
        shift = -rest * scale if beta is None else beta - rest * scale
        d *= per_channel(scale, x)
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
    if training and needed[0] and large(x):
        return in_parts.backward(dy, x, gamma, mean, rest, r)
    scale = r if gamma is None else gamma * r
    add = channel_adder(xp, x)
    dgamma = None
    with long_rows(x.shape[-1]):
        dbeta = add(dy)
        if training or needed[1]:
            d = x - per_channel(mean, x)
            dgamma = (add(d * dy) - rest * dbeta) * r
        if not needed[0]:
            return None, dgamma, dbeta
        if not training:
            return dy * per_channel(scale, x), dgamma, dbeta
        minus_n = number(xp, -(x.size // x.shape[1]), r.dtype)
        slope = dgamma * r / minus_n
        shift = slope * rest - dbeta / minus_n
        d *= per_channel(slope, x)
        d += dy
        d -= per_channel(shift, x)
        d *= per_channel(scale, x)
    return d, dgamma, dbeta
