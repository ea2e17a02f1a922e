"""Initial weights: initializers, and the random generator that layers share.

An initializer takes the shape (in, out) of a weight and a `numpy.random.Generator`, and returns a
float32 array. Numbers are always drawn on the host, so a seed gives the same weights everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Initializer: TypeAlias = Callable[[tuple[int, int], np.random.Generator], np.ndarray]

_shared = np.random.default_rng()


def seed(n: int) -> None:
    """Restart the generator that is used wherever no `rng=` is given."""
    global _shared
    _shared = np.random.default_rng(n)


def generator(rng: np.random.Generator | None = None) -> np.random.Generator:
    """`rng` itself, or the shared generator for None; TypeError for anything else."""
    if rng is None:
        return _shared
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"expected rng to be a numpy.random.Generator, got {type(rng).__name__}: "
            "make one with np.random.default_rng(seed)"
        )
    return rng


def he_normal(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """N(0, 2 / in), which keeps activations in scale with ReLU (He et al. 2015, section 2.2)."""
    return normal(np.sqrt(2 / max(shape[0], 1)))(shape, rng)


def xavier_uniform(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """U(±√(6 / (in + out))), for tanh and sigmoid (Glorot & Bengio 2010, equation 16)."""
    return _uniform(np.sqrt(6 / max(shape[0] + shape[1], 1)), shape, rng)


def fan_in_uniform(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """U(±1/√in), the default of PyTorch's Linear (after LeCun et al. 1998, section 4.6)."""
    return _uniform(1 / np.sqrt(max(shape[0], 1)), shape, rng)


def normal(std: float) -> Initializer:
    """An initializer N(0, std²), whatever the shape."""
    if not std >= 0:
        raise ValueError(f"expected a standard deviation >= 0, got {std}")
    return lambda shape, rng: (std * rng.standard_normal(shape)).astype(np.float32)


def _uniform(bound: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-bound, bound, shape).astype(np.float32)


INITIALIZERS = {"he": he_normal, "xavier": xavier_uniform, "default": fan_in_uniform}


def initializer(choice: str | Initializer) -> Initializer:
    """The initializer of that name in INITIALIZERS; a function is returned as it is."""
    if callable(choice):
        return choice
    if choice not in INITIALIZERS:
        known = [*INITIALIZERS]
        raise ValueError(f"unknown init {choice!r}: expected a function or one of {known}")
    return INITIALIZERS[choice]
