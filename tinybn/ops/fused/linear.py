"""Linear: x W + b is linear in each, so dx = dy Wᵀ, dW = xᵀ dy and db = Σ dy, over all rows."""

from __future__ import annotations

from typing import Any

from tinybn.backend import Array
from tinybn.fusion import fused
from tinybn.ops import linalg
from tinybn.ops.fused.sums import channel_sums


@fused(composition=linalg.linear)
def linear(xp: Any, x: Array, weight: Array, bias: Array | None) -> tuple[Array, Any]:
    linalg.check_linear(x, weight, bias)
    y = x.dot(weight) if x.ndim == 2 else x @ weight
    if bias is None:
        return y, ()
    if bias.dtype == y.dtype:
        y += bias  # nothing else knows y yet
        return y, ()
    return y + bias, ()


@linear.backward
def _(xp: Any, needed: Any, g: Array, saved: Any, x: Array, weight: Array, bias: Any) -> Any:
    rows = _rows(g)
    dx = needed[0] and rows.dot(weight.T)
    return (
        dx.reshape(x.shape) if needed[0] and x.ndim != 2 else dx,
        needed[1] and _rows(x).T.dot(rows),
        needed[2] and channel_sums(xp, rows),
    )


def _rows(a: Array) -> Array:
    """a (…, n) as (rows, n)."""
    return a if a.ndim == 2 else a.reshape(-1, a.shape[-1])
