"""Batch norm.

Per channel, with n values: x̂ = (x - μ) r, r = 1/√(σ² + ε), y = γ x̂ + β. Into x lead three paths:
direct, through μ, and through σ² (with dL/dσ² = -½ r² Σ γ dy x̂ and ∂σ²/∂x = 2 (x - μ) / n):

    dx = γ r dy  -  γ r Σ dy / n  -  γ r x̂ Σ(dy x̂) / n        dγ = Σ(dy x̂)        dβ = Σ dy

and the path x → μ → σ² carries nothing, because Σ(x - μ) = 0. (Ioffe & Szegedy 2015, section 3.)
x - μ is computed with a rounded μ; what that leaves, the mean of x - μ, is subtracted afterwards.
In evaluation μ and σ² are constants and only the direct path is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinybn.backend import Array
from tinybn.fusion import fused
from tinybn.ops import norm
from tinybn.ops.fused import batch_norm_in_parts as in_parts
from tinybn.ops.fused.plans import planned
from tinybn.ops.fused.sums import (
    cast,
    channel_adders,
    channel_sums,
    dtypes,
    long_rows,
    number,
    per_channel,
    small,
)


class Plan(NamedTuple):
    """output: the dtype of y. dtype: to compute in. casts: whether an input has another dtype.

    add, average: Σ per channel, of n values, and Σ / n.
    """

    output: np.dtype
    dtype: np.dtype
    casts: bool
    add: Callable[[Array], Array]
    average: Callable[[Array], Array]
    minus_n: Array
    eps: Array


class Moments(NamedTuple):
    """Of each channel: the mean is mean + rest, where rest is what rounding took; σ²; and r.

    x_hat, plan: what the backward pass of a small array uses in their place.
    """

    mean: Array
    rest: Array
    var: Array
    r: Array
    x_hat: Array | None = None
    plan: Plan | None = None


@planned
def _plan(xp: Any, arrays: tuple[Any, ...], eps: float) -> Plan:
    x, gamma, beta, mean, var = arrays
    norm.check_batch_norm(x, gamma, beta, mean, var, eps)
    output, dtype = dtypes(x, gamma, beta)
    casts = any(a is not None and a.dtype != dtype for a in (x, gamma, beta))
    add, average = channel_adders(xp, x.shape, dtype)
    n = x.size // x.shape[1]
    return Plan(output, dtype, casts, add, average, number(xp, -n, dtype), number(xp, eps, dtype))


@fused(composition=norm.batch_norm)
def batch_norm(
    xp: Any, x: Array, gamma: Any, beta: Any, *, mean: Any, var: Any, eps: float
) -> tuple[Array, Moments]:
    mean, var = norm.constant(mean), norm.constant(var)
    plan = _plan(xp, (x, gamma, beta, mean, var), eps)
    if plan.casts:
        x, gamma, beta = cast(plan.dtype, x, gamma, beta)
    if mean is not None:
        mean, var = cast(plan.dtype, mean, var)
        y, *moments = _evaluate(xp, x, gamma, beta, mean, var, plan.eps)
    elif small(x):
        y, *moments = _normalize(xp, x, gamma, beta, plan)
    else:
        y, *moments = in_parts.forward(x, gamma, beta, eps)
    return y.astype(plan.output, copy=False) if plan.casts else y, Moments(*moments)


def _normalize(xp: Any, x: Array, gamma: Any, beta: Any, plan: Plan) -> tuple[Any, ...]:
    average = plan.average
    mean = average(x)
    x_hat = x - per_channel(mean, x)
    rest = average(x_hat)
    x_hat -= per_channel(rest, x)
    var = average(x_hat * x_hat)
    r = xp.reciprocal(xp.sqrt(var + plan.eps))
    x_hat *= per_channel(r, x)
    y = x_hat if gamma is None else x_hat * per_channel(gamma, x)
    if beta is not None:
        y = y + per_channel(beta, x)
    return y, mean, rest, var, r, x_hat, plan


@batch_norm.backward
def _(
    xp: Any, needed: Any, dy: Array, moments: Moments, x: Array, gamma: Any, beta: Any, *,
    mean: Any, var: Any, eps: float,
) -> Any:  # fmt: skip
    training = mean is None
    mean, rest, _, r, x_hat, plan = moments
    if plan is None or plan.casts:
        dy, x, gamma = cast(r.dtype, dy, x, gamma)
    scale = r if gamma is None else gamma * r
    if not training:
        return _evaluation_backward(xp, needed, dy, x, scale, mean, r)
    if plan is None:
        return in_parts.backward(dy, x, scale, mean, rest, r)
    add, minus_n = plan.add, plan.minus_n
    dgamma, dbeta = add(dy * x_hat), add(dy)
    dx = x_hat * per_channel(dgamma / minus_n, x)
    dx += dy
    dx += per_channel(dbeta / minus_n, x)
    dx *= per_channel(scale, x)
    return dx, dgamma, dbeta


def _evaluate(
    xp: Any, x: Array, gamma: Any, beta: Any, mean: Array, var: Array, eps: Array
) -> tuple[Any, ...]:
    r = xp.reciprocal(xp.sqrt(var + eps))
    with long_rows(x.shape[-1]):
        y = x - per_channel(mean, x)
        y *= per_channel(r if gamma is None else gamma * r, x)
        if beta is not None:
            y += per_channel(beta, x)
    return y, mean, 0.0, var, r


def _evaluation_backward(
    xp: Any, needed: Any, dy: Array, x: Array, scale: Array, mean: Array, r: Array
) -> tuple[Any, Any, Any]:
    dx = dgamma = None
    with long_rows(x.shape[-1]):
        if needed[0]:
            dx = dy * per_channel(scale, x)
        if needed[1]:
            dgamma = channel_sums(xp, dy * (x - per_channel(mean, x))) * r
        return dx, dgamma, channel_sums(xp, dy)
