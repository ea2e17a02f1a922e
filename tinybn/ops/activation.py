"""Activation functions. (softmax stands with the reductions that it is made of.)"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tinybn.backend import Array
from tinybn.recording import primitive

KEPT, LONG = 2**14, 128
"""Elements of the zeros that relu keeps at most, and of a row that is long enough to repeat."""


@functools.lru_cache(maxsize=64)
def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.zeros(shape, dtype)


@primitive(lambda g, y, a: g * (y > 0))
def relu(xp: Any, a: Array) -> Array:
    """max(a, 0); its gradient at 0 is 0."""
    # NumPy's maximum of two arrays is two to three times as fast as that of an array and a number;
    # also where the second is one row, if that is long.
    if type(a) is np.ndarray and a.dtype.kind == "f":
        if a.size <= KEPT:
            return np.maximum(a, _zeros(a.shape, a.dtype))
        if a.shape[-1] >= LONG:
            return np.maximum(a, _zeros(a.shape[-1:], a.dtype))
    return xp.maximum(a, 0)


@primitive(lambda g, y, a: g * (1 - y * y))
def tanh(xp: Any, a: Array) -> Array:
    """The hyperbolic tangent of a."""
    return xp.tanh(a)


@primitive(lambda g, y, a: g * y * (1 - y))
def sigmoid(xp: Any, a: Array) -> Array:
    """1 / (1 + exp(-a)), computed without overflow and exact in both tails."""
    e = xp.exp(-xp.abs(a))  # in (0, 1]
    return xp.where(a >= 0, 1, e) / (1 + e)
