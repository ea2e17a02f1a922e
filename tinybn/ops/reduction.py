"""Sums, means, variances and extrema over axes, with NumPy's arguments.

`axis` is an int, a tuple of ints, or None for all axes. `keepdims` keeps the reduced axes, with
length 1. If several elements are the largest (or smallest), they share its gradient equally.
"""

from __future__ import annotations

from typing import Any

from tinybn.backend import Array
from tinybn.op import module_of, primitive
from tinybn.ops.elementwise import astype, exp, log, narrow, wide
from tinybn.ops.shape import broadcast_to, expand_dims, squeeze
from tinybn.summation import add_up, average
from tinybn.tensor import Axis, Input, Tensor

__all__ = [
    "log_softmax", "logsumexp", "max", "mean", "min", "softmax", "sum", "var",
]  # fmt: skip


def _spread(g: Any, axis: Axis, keepdims: bool) -> Any:
    """A result of a reduction (or its gradient) with the reduced axes put back, of length 1."""
    return g if keepdims or axis is None else expand_dims(g, axis)


@primitive(lambda g, a, axis, keepdims: broadcast_to(_spread(g, axis, keepdims), a.shape))
def sum(xp: Any, a: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Σ a."""
    return add_up(a, axis, keepdims)


@primitive(
    lambda g, y, a, axis, keepdims: broadcast_to(
        _spread(g * (y.size / a.size), axis, keepdims), a.shape
    )
)
def mean(xp: Any, a: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Σ a / n, where each sum has n terms. ValueError if there are none."""
    if a.size == 0:
        raise ValueError("there are no elements to take the mean of (an empty batch?)")
    return average(a, axis, keepdims)


def _shared(g: Any, y: Any, a: Any, axis: Axis, keepdims: bool) -> Any:
    """The gradient of an extremum y of a, shared by the elements that equal y."""
    chosen = astype(a == _spread(y, axis, keepdims), a.dtype)
    return _spread(g, axis, keepdims) * (chosen / sum(chosen, axis, keepdims=True))


@primitive(_shared)
def max(xp: Any, a: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The largest element."""
    return a.max(axis=axis, keepdims=keepdims)


@primitive(_shared)
def min(xp: Any, a: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The smallest element."""
    return a.min(axis=axis, keepdims=keepdims)


@primitive(lambda g, y, d, axis: g)
def recentre(xp: Any, d: Array, axis: Axis = None) -> Array:
    """d - mean(d), for d = x - mean(x): removes the rounding error of mean(x) from d.

    All elements along the axis have the same error. At mean 1e4, float32 gains three digits. In
    exact arithmetic, d has mean 0 and this is the identity, so the rule passes the gradient on.
    """
    return d - mean(d, axis, keepdims=True)


def var(a: Input, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """Σ (a - mean(a))² / (n - ddof). ValueError unless n > ddof."""
    b = wide(a)
    d = recentre(b - mean(b, axis, keepdims=True), axis)
    squares = sum(d * d, axis, keepdims)
    n = d.size // squares.size
    if n <= ddof:
        raise ValueError(f"var: {n} elements along axis {axis} are too few for ddof={ddof}")
    return narrow(squares / (n - ddof), a)


def _peak(a: Input, axis: Axis) -> Array:
    """The largest finite element, as a constant: exp(a - peak) does not overflow."""
    peak = max(a.data if isinstance(a, Tensor) else a, axis, keepdims=True)
    xp = module_of(peak)
    return xp.where(xp.isfinite(peak), peak, 0)


def logsumexp(a: Input, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log Σ exp(a), without overflow: m + log Σ exp(a - m) with m = max(a)."""
    b = wide(a)
    peak = _peak(b, axis)
    y = narrow(log(sum(exp(b - peak), axis, keepdims=True)) + peak, a)
    return y if keepdims else squeeze(y, axis=tuple(range(y.ndim)) if axis is None else axis)


def softmax(a: Input, axis: Axis = -1) -> Tensor:
    """exp(a) / Σ exp(a), without overflow."""
    b = wide(a)
    e = exp(b - _peak(b, axis))
    return narrow(e / sum(e, axis, keepdims=True), a)


def log_softmax(a: Input, axis: Axis = -1) -> Tensor:
    """log softmax(a) = a - logsumexp(a), exact even where softmax(a) rounds to 0."""
    b = wide(a)
    d = b - _peak(b, axis)
    return narrow(d - log(sum(exp(d), axis, keepdims=True)), a)
