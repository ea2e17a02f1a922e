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
    flat,
    long_rows,
    number,
    per_channel,
    small,
)


class Plan(NamedTuple):
    """output: the dtype of y. dtype: to compute in.

    add, average: Σ per channel, of n values, and Σ / n, to be broadcast against x.
    """

    output: np.dtype
    dtype: np.dtype
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
    add, average = channel_adders(xp, x.shape, dtype)
    n = x.size // x.shape[1]
    return Plan(output, dtype, add, average, number(xp, -n, dtype), number(xp, eps, dtype))


@fused(composition=norm.batch_norm)
def batch_norm(
    xp: Any, x: Array, gamma: Any, beta: Any, *, mean: Any, var: Any, eps: float
) -> tuple[Array, Moments]:
    plan = _plan(xp, (x, gamma, beta, mean, var), eps)
    if mean is not None:
        y, moments = _evaluate(xp, x, gamma, beta, mean, var, plan)
    elif small(x):
        y, moments = _normalize(xp, x, gamma, beta, plan)
    else:
        x, gamma, beta = cast(plan.dtype, x, gamma, beta)
        y, *found = in_parts.forward(x, gamma, beta, eps)
        moments = Moments(*found)
    return y if plan.output == plan.dtype else y.astype(plan.output), moments


def _normalize(xp: Any, x: Array, gamma: Any, beta: Any, plan: Plan) -> tuple[Array, Moments]:
    # What the plan holds has the dtype to compute in, and so have all results.
    average = plan.average
    mean = average(x)
    x_hat = x - mean
    rest = average(x_hat)
    x_hat -= rest
    var = average(x_hat * x_hat)
    r = xp.reciprocal(xp.sqrt(var + plan.eps))
    x_hat *= r
    y = x_hat if gamma is None else x_hat * per_channel(gamma, x)
    if beta is not None:
        y = y + per_channel(beta, x)
    return y, Moments(flat(mean), flat(rest), flat(var), r, x_hat, plan)


@batch_norm.backward
def _(
    xp: Any, needed: Any, dy: Array, moments: Moments, x: Array, gamma: Any, beta: Any, *,
    mean: Any, var: Any, eps: float,
) -> Any:  # fmt: skip
    r, x_hat, plan = moments.r, moments.x_hat, moments.plan
    if plan is None:
        dy, x, gamma = cast(r.dtype, dy, x, gamma)
        if mean is not None:
            return _gradients_in_evaluation(xp, needed, dy, x, gamma, moments)
        return in_parts.backward(dy, x, gamma, moments.mean, moments.rest, r)
    dgamma, dbeta = plan.add(dy * x_hat), plan.add(dy)
    if not needed[0]:
        return None, flat(dgamma), flat(dbeta)
    dx = x_hat * (dgamma / plan.minus_n)
    dx += dy
    dx += dbeta / plan.minus_n
    dx *= r if gamma is None else r * per_channel(gamma, x)
    return dx, flat(dgamma), flat(dbeta)


def _evaluate(
    xp: Any, x: Array, gamma: Any, beta: Any, mean: Any, var: Any, plan: Plan
) -> tuple[Array, Moments]:
    mean, var = cast(plan.dtype, norm.constant(mean), norm.constant(var))
    r = xp.reciprocal(xp.sqrt(var + plan.eps))
    with long_rows(x.shape[-1]):
        y = x - per_channel(mean, x)
        y *= per_channel(r if gamma is None else gamma * r, x)
        if beta is not None:
            y += per_channel(beta, x)
    return y, Moments(mean, 0.0, var, r)


def _gradients_in_evaluation(
    xp: Any, needed: Any, dy: Array, x: Array, gamma: Any, moments: Moments
) -> tuple[Any, Any, Any]:
    mean, r = moments.mean, moments.r
    dx = dgamma = None
    with long_rows(x.shape[-1]):
        if needed[0]:
            dx = dy * per_channel(r if gamma is None else gamma * r, x)
        if needed[1]:
            dgamma = channel_sums(xp, dy * (x - per_channel(mean, x))) * r
        return dx, dgamma, channel_sums(xp, dy)
