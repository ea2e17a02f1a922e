"""Elementwise ops, with NumPy's names, broadcasting and dtypes.

At kinks, the gradient of abs is 0, clip passes the gradient on, and maximum and minimum give half
of it to each of two equal values. NaN stays NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinybn import backend as backends
from tinybn.backend import Array
from tinybn.op import module_of, primitive
from tinybn.parameters import number

__all__ = [
    "abs", "add", "astype", "bitwise_and", "bitwise_or", "clip", "divide", "equal", "exp",
    "greater", "greater_equal", "invert", "less", "less_equal", "log", "maximum", "minimum",
    "multiply", "negative", "not_equal", "power", "sign", "sqrt", "subtract", "to", "where",
]  # fmt: skip


@primitive(lambda g: g, lambda g: g)
def add(xp: Any, a: Array, b: Array) -> Array:
    """a + b."""
    return a + b


@primitive(
    lambda g: g,
    lambda g: -g,
)
def subtract(xp: Any, a: Array, b: Array) -> Array:
    """a - b."""
    return a - b


@primitive(
    lambda g, b: g * b,
    lambda g, a: g * a,
)
def multiply(xp: Any, a: Array, b: Array) -> Array:
    """a * b."""
    return a * b


@primitive(
    lambda g, b: g / b,
    lambda g, y, b: -g * y / b,
)
def divide(xp: Any, a: Array, b: Array) -> Array:
    """a / b."""
    return a / b


@primitive(lambda g: -g)
def negative(xp: Any, a: Array) -> Array:
    """-a."""
    return -a


@primitive(
    lambda g, a, b: g * b * a ** _one_less(a, b),
    lambda g, y, a: g * y * _log_or_0(a),
)
def power(xp: Any, a: Array, b: Array) -> Array:
    """a ** b. At a = 0, the gradient of b is 0, its limit for every b > 0."""
    return a**b


def _one_less(a: Any, b: Any) -> Any:
    """b - 1; but 1 where a and b are 0, since 0 * 0 ** -1 would be NaN."""
    if hasattr(b, "shape"):
        return where((a == 0) * (b == 0), 1, b - 1)
    return b - 1 if b else 0


def _log_or_0(a: Any) -> Any:
    """log a, and 0 where a is 0."""
    if hasattr(a, "shape"):
        return log(where(a == 0, 1, a))
    return math.log(a) if a > 0 else 0.0 if a == 0 else math.nan


@primitive(lambda g, y: g * y)
def exp(xp: Any, a: Array) -> Array:
    """e ** a."""
    return xp.exp(a)


@primitive(lambda g, a: g / a)
def log(xp: Any, a: Array) -> Array:
    """The natural logarithm of a."""
    return xp.log(a)


@primitive(lambda g, y: g / (2 * y))
def sqrt(xp: Any, a: Array) -> Array:
    """The square root of a; its gradient at 0 is inf."""
    return xp.sqrt(a)


@primitive(lambda g, a: g * sign(a))
def abs(xp: Any, a: Array) -> Array:
    """|a|."""
    return xp.abs(a)


@primitive(None)
def sign(xp: Any, a: Array) -> Array:
    """The sign of a: -1, 0 or 1. It has no gradient."""
    return xp.sign(a)


@primitive(
    lambda g, a, b: _share(g, a > b, a == b),
    lambda g, a, b: _share(g, b > a, a == b),
)
def maximum(xp: Any, a: Array, b: Array) -> Array:
    """The larger of a and b."""
    return xp.maximum(a, b)


@primitive(
    lambda g, a, b: _share(g, a < b, a == b),
    lambda g, a, b: _share(g, b < a, a == b),
)
def minimum(xp: Any, a: Array, b: Array) -> Array:
    """The smaller of a and b."""
    return xp.minimum(a, b)


def _share(g: Any, chosen: Any, tied: Any) -> Any:
    return g * chosen + g * 0.5 * tied


@primitive(lambda g, a, a_min, a_max: g * (a >= _bound(a_min, -1)) * (a <= _bound(a_max, 1)))
def clip(xp: Any, a: Array, a_min: Any = None, a_max: Any = None) -> Array:
    """a within [a_min, a_max]: numbers, arrays (constants), or None for no bound.

    Raises:
        ValueError: the number a_min is larger than the number a_max.
    """
    low, high = _bound(a_min, -1), _bound(a_max, 1)
    if number(low) > number(high):
        raise ValueError(f"a_min ({a_min}) is larger than a_max ({a_max})")
    return xp.clip(a, low, high)


def _bound(bound: Any, side: int) -> Any:
    return side * math.inf if bound is None else bound


@primitive(
    None,
    lambda g, condition: where(condition, g, 0),
    lambda g, condition: where(condition, 0, g),
)
def where(xp: Any, condition: Array, a: Array, b: Array) -> Array:
    """a where the condition (bool) is true, b elsewhere."""
    return xp.where(condition, a, b)


@primitive(lambda g: g)
def astype(xp: Any, a: Array, dtype: DTypeLike) -> Array:
    """A copy in another dtype; the gradient is converted back to the dtype of a."""
    return a.astype(dtype)


def wide(a: Any) -> Any:
    """a in a dtype in which squares and exponentials are safe: at least float32.

    Integers become float64, as in NumPy's mean.
    """
    if a.dtype == np.float16:
        return astype(a, np.float32)
    return a if a.dtype.kind == "f" else astype(a, np.float64)


def narrow(y: Any, *inputs: Any) -> Any:
    """float32 y in float16, if the inputs promote to it (as with int8); None is no input."""
    dtypes = [a.dtype for a in inputs if a is not None]
    half = y.dtype == np.float32 and np.result_type(*dtypes) == np.float16
    return astype(y, np.float16) if half else y


@primitive(lambda g, a: to(g, module_of(a).__name__))
def to(xp: Any, a: Array, backend: str) -> Array:
    """a on another backend, "numpy" or "cupy"; the gradient moves back to that of a."""
    return backends.move(a, backend)


@primitive(None, None)
def bitwise_and(xp: Any, a: Array, b: Array) -> Array:
    """a & b: "and" of bools, or of the bits of integers."""
    return a & b


@primitive(None, None)
def bitwise_or(xp: Any, a: Array, b: Array) -> Array:
    """a | b: "or" of bools, or of the bits of integers."""
    return a | b


@primitive(None)
def invert(xp: Any, a: Array) -> Array:
    """~a: "not" of bools, or of the bits of integers."""
    return ~a


@primitive(None, None)
def equal(xp: Any, a: Array, b: Array) -> Array:
    """a == b, as bools."""
    return a == b


@primitive(None, None)
def not_equal(xp: Any, a: Array, b: Array) -> Array:
    """a != b, as bools."""
    return a != b


@primitive(None, None)
def less(xp: Any, a: Array, b: Array) -> Array:
    """a < b, as bools."""
    return a < b


@primitive(None, None)
def less_equal(xp: Any, a: Array, b: Array) -> Array:
    """a <= b, as bools."""
    return a <= b


@primitive(None, None)
def greater(xp: Any, a: Array, b: Array) -> Array:
    """a > b, as bools."""
    return a > b


@primitive(None, None)
def greater_equal(xp: Any, a: Array, b: Array) -> Array:
    """a >= b, as bools."""
    return a >= b
