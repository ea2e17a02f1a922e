"""Group norm and instance norm.

Layer norm (see there) over a group of channels and space; γ and β belong to channels. So x is laid
out in two ways: as rows, each normalized by itself, and as (N, C, space), where γ and β run along
the channels. (Wu & He 2018, section 3.1; Ulyanov et al. 2016, section 2.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinybn.backend import Array
from tinybn.fusion import fused
from tinybn.ops import norm
from tinybn.ops.fused.sums import cast, channel_sums, dtypes, per_channel, row_dots, row_sums


class Rows(NamedTuple):
    """Of each row, as columns: the mean is mean + rest (see batch norm); r = 1 / √(σ² + ε)."""

    mean: Array
    rest: Array
    r: Array


def _layouts(x: Array, groups: int) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """The shapes of x as rows, and as samples, channels and space."""
    samples, channels = x.shape[:2]
    rows = samples * groups
    return (rows, x.size // rows), (samples, channels, -1)


def _normalize(
    xp: Any, x: Array, gamma: Any, beta: Any, groups: int, eps: float
) -> tuple[Array, Rows]:
    output, dtype = dtypes(x, gamma, beta)
    x, gamma, beta = cast(dtype, x, gamma, beta)
    rows, wide = _layouts(x, groups)
    a, n = x.reshape(rows), rows[1]
    mean = row_sums(xp, a)[:, None] / n
    d = a - mean
    rest = row_sums(xp, d)[:, None] / n
    d -= rest
    r = xp.reciprocal(xp.sqrt(row_dots(xp, d, d)[:, None] / n + eps))
    d *= r
    y = d.reshape(wide)
    if gamma is not None:
        y *= per_channel(gamma, y)
    if beta is not None:
        y += per_channel(beta, y)
    return y.reshape(x.shape).astype(output, copy=False), Rows(mean, rest, r)


def _gradients(
    xp: Any, needed: Any, dy: Array, saved: Rows, x: Array, gamma: Any, groups: int
) -> tuple[Any, Any, Any]:
    dy, x, gamma = cast(saved.r.dtype, dy, x, gamma)
    rows, wide = _layouts(x, groups)
    dy, n = dy.reshape(wide), rows[1]
    dgamma = dbeta = None
    if needed[2]:
        dbeta = channel_sums(xp, dy)
    if not (needed[0] or needed[1]):
        return None, None, dbeta
    dx = xp.empty(x.shape, dtype=saved.r.dtype)
    x_hat = xp.subtract(x.reshape(rows), saved.mean, out=dx.reshape(rows))
    x_hat -= saved.rest
    x_hat *= saved.r
    if needed[1]:
        dgamma = channel_sums(xp, x_hat.reshape(wide) * dy)
    if not needed[0]:
        return None, dgamma, dbeta
    g = (dy if gamma is None else dy * per_channel(gamma, dy)).reshape(rows)
    x_hat *= row_dots(xp, g, x_hat)[:, None] / -n
    x_hat += g
    x_hat -= row_sums(xp, g)[:, None] / n
    x_hat *= saved.r
    return dx, dgamma, dbeta


@fused(composition=norm.group_norm)
def group_norm(
    xp: Any, x: Array, gamma: Any, beta: Any, *, groups: int, eps: float
) -> tuple[Array, Rows]:
    norm.check_group_norm(x, groups, gamma, beta, eps)
    return _normalize(xp, x, gamma, beta, groups, eps)


@group_norm.backward
def _(
    xp: Any, needed: Any, dy: Array, rows: Rows, x: Array, gamma: Any, beta: Any, *,
    groups: int, eps: float,
) -> Any:  # fmt: skip
    return _gradients(xp, needed, dy, rows, x, gamma, groups)


@fused(composition=norm.instance_norm)
def instance_norm(xp: Any, x: Array, gamma: Any, beta: Any, *, eps: float) -> tuple[Array, Rows]:
    norm.check_instance_norm(x, gamma, beta, eps)
    return _normalize(xp, x, gamma, beta, x.shape[1], eps)


@instance_norm.backward
def _(
    xp: Any, needed: Any, dy: Array, rows: Rows, x: Array, gamma: Any, beta: Any, *, eps: float
) -> Any:
    return _gradients(xp, needed, dy, rows, x, gamma, x.shape[1])
