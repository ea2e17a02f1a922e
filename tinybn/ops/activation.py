"""Activation functions. (softmax lives with the reductions it is built from.)"""

from __future__ import annotations

from typing import Any

from tinybn.backend import Array
from tinybn.op import primitive

__all__ = ["relu", "sigmoid", "tanh"]


@primitive(lambda g, y: g * (y > 0))
def relu(xp: Any, a: Array) -> Array:
    """max(a, 0); its gradient at 0 is 0."""
    return xp.maximum(a, 0)


@primitive(lambda g, y: g * (1 - y * y))
def tanh(xp: Any, a: Array) -> Array:
    """The hyperbolic tangent of a."""
    return xp.tanh(a)


@primitive(lambda g, y: g * y * (1 - y))
def sigmoid(xp: Any, a: Array) -> Array:
    """1 / (1 + exp(-a)), computed without overflow and exact in both tails."""
    e = xp.exp(-xp.abs(a))  # in (0, 1]
    return xp.where(a >= 0, 1, e) / (1 + e)
