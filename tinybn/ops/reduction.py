"""Sums, means, variances and extrema over axes, with NumPy's arguments.

`axis` is an int, a tuple of ints, or None for all axes. `keepdims` keeps the reduced axes, with
length 1. If several elements are the largest (or smallest), they share its gradient equally.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinybn.backend import Array
from tinybn.op import module_of, primitive
from tinybn.ops import checks
from tinybn.ops.elementwise import astype, exp, log, narrow, sqrt, wide
from tinybn.ops.shape import broadcast_to, expand_dims, squeeze
from tinybn.parameters import number
from tinybn.summation import add_up, average
from tinybn.tensor import Axis, Input, Tensor

__all__ = [
    "argmax", "log_softmax", "logsumexp", "max", "mean", "min", "softmax", "std", "sum", "var",
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


@primitive(None)
def argmax(xp: Any, a: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    """Where the largest element is, the first if there are several. It has no gradient."""
    return a.argmax(axis=axis, keepdims=keepdims)


@primitive(lambda g, y, d, axis: g)
def recentre(xp: Any, d: Array, axis: Axis = None) -> Array:
    """d - mean(d), for d = x - mean(x): removes the rounding error of mean(x) from d.

    All elements along the axis have the same error. At mean 1e4, float32 gains three digits. In
    exact arithmetic, d has mean 0 and this is the identity, so the rule passes the gradient on.
    """
    return d - mean(d, axis, keepdims=True)


def _checked(name: str, a: Any, axis: Any) -> Any:
    """`wide(a)`. What is wrong with a or the axis is said in the name of the function."""
    axes = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    n = len(checks.array_shape(name, a))
    if not all(isinstance(i, int | np.integer) for i in axes):
        raise TypeError(f"{name}: expected axis as an int or a tuple of ints, got {axis!r}")
    if not all(-n <= i < n for i in axes):
        raise np.exceptions.AxisError(f"{name}: a {a.shape} has no axis {axis}")
    return wide(a)


def var(a: Input, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """Σ (a - mean(a))² / (n - ddof). ValueError unless n > ddof.

    ddof is 0 by default, as in NumPy, and 1 in PyTorch.
    """
    b = _checked("var", a, axis)
    d = recentre(b - mean(b, axis, keepdims=True), axis)
    squares = sum(d * d, axis, keepdims)
    n = d.size // squares.size
    if not n > number(ddof):
        raise ValueError(f"var: {n} elements along axis {axis} are too few for ddof={ddof!r}")
    return narrow(squares / (n - ddof), a)


def std(a: Input, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """The square root of `var`; where all elements are equal, its gradient is NaN.

    ddof is 0 by default, as in NumPy, and 1 in PyTorch. Normalization adds ε first: see `ops.norm`.
    """
    return narrow(sqrt(var(_checked("std", a, axis), axis, ddof, keepdims)), a)


def _peak(a: Input, axis: Axis) -> Array:
    """The largest element, as a constant: exp(a - peak) does not overflow."""
    return max(a.data if isinstance(a, Tensor) else a, axis, keepdims=True)


def logsumexp(a: Input, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log Σ exp(a), without overflow: m + log Σ exp(a - m) with m = max(a)."""
    b = _checked("logsumexp", a, axis)
    peak = _peak(b, axis)
    xp = module_of(peak)
    peak = xp.where(xp.isfinite(peak), peak, 0)  # log Σ exp(±inf) is ±inf
    y = narrow(log(sum(exp(b - peak), axis, keepdims=True)) + peak, a)
    return y if keepdims else squeeze(y, axis=tuple(range(y.ndim)) if axis is None else axis)


def softmax(a: Input, axis: Axis = -1) -> Tensor:
    """exp(a) / Σ exp(a), without overflow."""
    b = _checked("softmax", a, axis)
    e = exp(b - _peak(b, axis))
    return narrow(e / sum(e, axis, keepdims=True), a)


def log_softmax(a: Input, axis: Axis = -1) -> Tensor:
    """log softmax(a) = a - logsumexp(a), exact even where softmax(a) rounds to 0."""
    b = _checked("log_softmax", a, axis)
    d = b - _peak(b, axis)
    return narrow(d - log(sum(exp(d), axis, keepdims=True)), a)
