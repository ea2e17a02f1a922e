"""Layer norm and RMS norm.

Batch norm along each row of n, with the γ of each element inside the sums, since it varies along
the row: with g = γ dy,

    dx = r (g - mean(g) - x̂ mean(g x̂))        dγ = Σ(dy x̂), dβ = Σ dy over the rows

and without mean(g) for RMS norm, which does not centre. (Ba, Kiros & Hinton 2016, section 3.) With
d = x - mean and x̂ = r (d - rest), where rest is what rounding took from the mean, all sums are
matrix products: of dy and dy · d with γ, or with r.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tinybn.backend import Array
from tinybn.fusion import fused
from tinybn.ops import norm
from tinybn.ops.fused.sums import (
    cast,
    channel_sums,
    column_sums,
    dtypes,
    long_rows,
    number,
    parts,
    row_dots,
    row_sums,
    total,
)


class Rows(NamedTuple):
    """Of each row: the mean (+ rest; both are None without centring) and r = 1 / √(σ² + ε)."""

    mean: Array | None
    rest: Array | None
    r: Array


def _rows(x: Array, axis: Any) -> tuple[int, int]:
    """The shape of x as rows to be normalized, each by itself."""
    n = math.prod(x.shape[i] for i in (axis if isinstance(axis, tuple) else (axis,)))
    return x.size // n, n


def _normalize(
    xp: Any, x: Array, gamma: Any, beta: Any, shape: tuple[int, int], eps: float, centred: bool
) -> tuple[Array, Rows]:
    output, dtype = dtypes(x, gamma, beta)
    x, gamma, beta = cast(dtype, x, gamma, beta)
    a = x.reshape(shape)
    n, eps = number(xp, shape[1], dtype), number(xp, eps, dtype)
    y = xp.empty(shape, dtype=dtype)
    mean: Any = xp.empty(shape[0], dtype=dtype) if centred else None
    rest: Any = xp.empty(shape[0], dtype=dtype) if centred else None
    r = xp.empty(shape[0], dtype=dtype)
    with long_rows(shape[1]):
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
                d *= gamma.reshape(-1)
            if beta is not None:
                d += beta.reshape(-1)
    return y.reshape(x.shape).astype(output, copy=False), Rows(mean, rest, r)


def _gradients(
    xp: Any, needed: Any, dy: Array, rows: Rows, x: Array, gamma: Any, shape: tuple[int, int]
) -> tuple[Any, Any, Any]:
    """dx, dγ and dβ, the last two flat. (No view where an array will do: of a leaf's `.grad`, views
    are copied.)
    """
    mean, rest, r = rows
    dy, x, gamma = cast(r.dtype, dy, x, gamma)
    dy, a = dy.reshape(shape), x.reshape(shape)
    if not (needed[0] or needed[1]):
        return None, None, channel_sums(xp, dy) if needed[2] else None
    whole = xp.empty(x.shape, dtype=r.dtype) if needed[0] else None
    dx: Any = None if whole is None else whole.reshape(shape)
    dgamma, dbeta = [], []
    gamma = xp.ones(shape[1], dtype=r.dtype) if gamma is None else gamma.reshape(-1)
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


@fused(composition=norm.layer_norm)
def layer_norm(
    xp: Any, x: Array, gamma: Any, beta: Any, *, axis: Any, eps: float
) -> tuple[Array, Rows]:
    norm.check_last_axes("layer_norm", x, axis, gamma, beta, eps=eps)
    return _normalize(xp, x, gamma, beta, _rows(x, axis), eps, centred=True)


@layer_norm.backward
def _(
    xp: Any, needed: Any, dy: Array, rows: Rows, x: Array, gamma: Any, beta: Any, *,
    axis: Any, eps: float,
) -> Any:  # fmt: skip
    dx, dgamma, dbeta = _gradients(xp, needed, dy, rows, x, gamma, _rows(x, axis))
    return dx, _like(dgamma, gamma), _like(dbeta, beta)


@fused(composition=norm.rms_norm)
def rms_norm(xp: Any, x: Array, gamma: Any, *, axis: Any, eps: float) -> tuple[Array, Rows]:
    norm.check_last_axes("rms_norm", x, axis, gamma, eps=eps)
    return _normalize(xp, x, gamma, None, _rows(x, axis), eps, centred=False)


@rms_norm.backward
def _(
    xp: Any, needed: Any, dy: Array, rows: Rows, x: Array, gamma: Any, *, axis: Any, eps: float
) -> Any:
    dx, dgamma, _ = _gradients(xp, [*needed, False], dy, rows, x, gamma, _rows(x, axis))
    return dx, _like(dgamma, gamma)


def _like(gradient: Any, parameter: Any) -> Any:
    return (
        gradient if gradient is None or parameter.ndim == 1 else gradient.reshape(parameter.shape)
    )
