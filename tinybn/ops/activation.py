"""Activation functions. (softmax stands with the reductions that it is made of.)"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinybn.backend import Array
from tinybn.recording import primitive

LONG = 128
"""From this length of a row, NumPy's maximum of two arrays is faster than that with a number."""


@primitive(lambda g, y, a: g * (y > 0))
def relu(xp: Any, a: Array) -> Array:
    """max(a, 0); its gradient at 0 is 0."""
    if type(a) is np.ndarray and a.ndim and a.shape[-1] >= LONG:
        return np.maximum(a, np.zeros(a.shape[-1], a.dtype))
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
