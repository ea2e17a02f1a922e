"""Layer norm and RMS norm.

Batch norm along each row of n, with the γ of each element inside the sums, since it varies along
the row: with g = γ dy,

    dx = r (g - mean(g) - x̂ mean(g x̂))        dγ = Σ(dy x̂), dβ = Σ dy over the rows

and without mean(g) for RMS norm, which does not centre. (Ba, Kiros & Hinton 2016, section 3.) All
sums are matrix products: the means of g and g x̂ are those of dy and dy x̂ with the weights γ / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinybn.backend import Array
from tinybn.fusion import fused
from tinybn.ops import norm
from tinybn.ops.fused import layer_norm_in_parts as in_parts
from tinybn.ops.fused.plans import planned
from tinybn.ops.fused.sums import cast, channel_adders, dtypes, flat, number, row_dots, small


class Plan(NamedTuple):
    """shape: of x as rows, each normalized by itself. output: the dtype of y. dtype: to compute in.

    casts: whether an input has another. add: Σ over the rows. weights: 1 / n for each of a row.
    """

    shape: tuple[int, int]
    output: np.dtype
    dtype: np.dtype
    casts: bool
    add: Callable[[Array], Array]
    weights: Array
    n: Array
    eps: Array


class Rows(NamedTuple):
    """Of each row: the mean (+ rest; both are None without centring) and r = 1 / √(σ² + ε).

    x_hat, plan: what the backward pass of a small array uses; x̂ as rows.
    """

    mean: Array | None
    rest: Array | None
    r: Array
    x_hat: Array | None = None
    plan: Plan | None = None


@planned
def _plan(xp: Any, arrays: tuple[Any, ...], name: str, axis: Any, eps: float) -> Plan:
    norm.check_last_axes(name, arrays[0], axis, *arrays[1:], eps=eps)
    x = arrays[0]
    n = math.prod(x.shape[i] for i in (axis if isinstance(axis, tuple) else (axis,)))
    shape = x.size // n, n
    output, dtype = dtypes(*arrays)
    casts = any(a is not None and a.dtype != dtype for a in arrays)
    add, _ = channel_adders(xp, shape, dtype)
    weights = xp.full(n, 1 / n, dtype)
    return Plan(
        shape, output, dtype, casts, add, weights, number(xp, n, dtype), number(xp, eps, dtype)
    )


def _normalize(
    xp: Any, x: Array, gamma: Any, beta: Any, plan: Plan, centred: bool
) -> tuple[Array, Rows]:
    if plan.casts:
        x, gamma, beta = cast(plan.dtype, x, gamma, beta)
    a, gamma, beta = _shaped(x, plan.shape), flat(gamma), flat(beta)
    if small(x):
        x_hat = a - a.dot(plan.weights)[:, None] if centred else a
        if centred:
            x_hat -= x_hat.dot(plan.weights)[:, None]
        r = xp.reciprocal(xp.sqrt(row_dots(xp, x_hat, x_hat) / plan.n + plan.eps))
        x_hat = xp.multiply(x_hat, r[:, None], out=x_hat if centred else None)
        y = x_hat if gamma is None else x_hat * gamma
        if beta is not None:
            y = y + beta
        rows = Rows(None, None, r, x_hat, plan)
    else:
        y, *moments = in_parts.forward(xp, a, gamma, beta, plan.eps, centred)
        rows = Rows(*moments)
    y = _shaped(y, x.shape)
    return y.astype(plan.output, copy=False) if plan.casts else y, rows


def _gradients(
    xp: Any, needed: Any, dy: Array, rows: Rows, x: Array, gamma: Any, plan: Plan, centred: bool
) -> tuple[Any, Any, Any]:
    """dx, dγ and dβ, the last two flat."""
    if plan.casts:
        dy, x, gamma = cast(plan.dtype, dy, x, gamma)
    dy, gamma = _shaped(dy, plan.shape), flat(gamma)
    mean, rest, r, x_hat, _ = rows
    if x_hat is None:
        return in_parts.backward(xp, needed, dy, x, gamma, mean, rest, r)
    products = dy * x_hat
    dgamma, dbeta = plan.add(products), plan.add(dy)
    if not needed[0]:
        return None, dgamma, dbeta
    weights = plan.weights if gamma is None else gamma * plan.weights
    dx = x_hat * products.dot(weights)[:, None]
    dx -= dy if gamma is None else dy * gamma
    if centred:
        dx += dy.dot(weights)[:, None]
    dx *= -r[:, None]
    return _shaped(dx, x.shape), dgamma, dbeta


@fused(composition=norm.layer_norm)
def layer_norm(
    xp: Any, x: Array, gamma: Any, beta: Any, *, axis: Any, eps: float
) -> tuple[Array, Rows]:
    plan = _plan(xp, (x, gamma, beta), "layer_norm", axis, eps)
    return _normalize(xp, x, gamma, beta, plan, centred=True)


@layer_norm.backward
def _(
    xp: Any, needed: Any, dy: Array, rows: Rows, x: Array, gamma: Any, beta: Any, *,
    axis: Any, eps: float,
) -> Any:  # fmt: skip
    plan = rows.plan or _plan(xp, (x, gamma, beta), "layer_norm", axis, eps)
    dx, dgamma, dbeta = _gradients(xp, needed, dy, rows, x, gamma, plan, centred=True)
    return dx, _like(dgamma, gamma), _like(dbeta, beta)


@fused(composition=norm.rms_norm)
def rms_norm(xp: Any, x: Array, gamma: Any, *, axis: Any, eps: float) -> tuple[Array, Rows]:
    plan = _plan(xp, (x, gamma), "rms_norm", axis, eps)
    return _normalize(xp, x, gamma, None, plan, centred=False)


@rms_norm.backward
def _(
    xp: Any, needed: Any, dy: Array, rows: Rows, x: Array, gamma: Any, *, axis: Any, eps: float
) -> Any:
    plan = rows.plan or _plan(xp, (x, gamma), "rms_norm", axis, eps)
    dx, dgamma, _ = _gradients(xp, [*needed, False], dy, rows, x, gamma, plan, centred=False)
    return dx, _like(dgamma, gamma)


def _shaped(a: Array, shape: tuple[int, ...]) -> Array:
    return a if a.shape == shape else a.reshape(shape)


def _like(gradient: Any, parameter: Any) -> Any:
    return gradient if gradient is None or parameter is None else _shaped(gradient, parameter.shape)
