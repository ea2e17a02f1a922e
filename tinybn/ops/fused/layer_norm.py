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
from tinybn.ops.fused.sums import cast, column_sums, dtypes, long_rows, row_sums


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
    d, n = x.reshape(shape), shape[1]
    mean = rest = None
    with long_rows(n):
        if centred:
            mean = row_sums(xp, d) / n
            d = d - mean[:, None]
            rest = row_sums(xp, d) / n
            d -= rest[:, None]
        r = 1 / xp.sqrt(xp.einsum("ij,ij->i", d, d) / n + eps)
        y = xp.multiply(d, r[:, None], out=d if centred else None)
        if gamma is not None:
            y *= gamma.reshape(-1)
        if beta is not None:
            y += beta.reshape(-1)
    return y.reshape(x.shape).astype(output, copy=False), Rows(mean, rest, r)


def _gradients(
    xp: Any, needed: Any, dy: Array, rows: Rows, x: Array, gamma: Any, shape: tuple[int, int]
) -> tuple[Any, Any, Any]:
    """dx, dγ and dβ, the last two flat."""
    mean, rest, r = rows
    dy, x, gamma = cast(r.dtype, dy, x, gamma)
    dy, d, n = dy.reshape(shape), x.reshape(shape), shape[1]
    dbeta = column_sums(xp, dy) if needed[2] else None
    if not (needed[0] or needed[1]):
        return None, None, dbeta
    with long_rows(n):
        if mean is not None:
            d = d - mean[:, None]
        products = dy * d
        dgamma = None
        if needed[1]:
            dgamma = column_sums(xp, products, r)
            if rest is not None:
                dgamma -= column_sums(xp, dy, r * rest)
        if not needed[0]:
            return None, dgamma, dbeta
        gamma = xp.ones(n, dtype=r.dtype) if gamma is None else gamma.reshape(-1)
        slope = products @ gamma / n  # mean(g x̂), but for a factor
        if rest is not None:
            mean_g = dy @ gamma / n
            slope -= rest * mean_g
        slope *= -(r**3)
        dx = xp.multiply(d, slope[:, None], out=None if rest is None else d)
        if rest is not None:
            dx -= (r * mean_g + slope * rest)[:, None]
        g = xp.multiply(dy, gamma, out=products)
        g *= r[:, None]
        dx += g
    return dx.reshape(x.shape), dgamma, dbeta


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
    return gradient if gradient is None else gradient.reshape(parameter.shape)
