"""The updates of the optimizers as CuPy's kernels: one for each array (the formulas: optim.py)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinybn.backend import Array
from tinybn.kernels import kernel
from tinybn.recording import module_of

COMPUTED_IN = "typedef decltype(0.0f + T()) A;"
"""At least float32."""


@kernel
def sgd(xp: Any) -> Any:
    """p ← p - lr · (g + weight_decay · p)."""
    return xp.ElementwiseKernel(
        "T grad, float64 lr, float64 weight_decay",
        "T p",
        "p -= (A)lr * (grad + (A)weight_decay * p)",
        "sgd",
        preamble=COMPUTED_IN,
    )


@kernel
def sgd_momentum(xp: Any) -> Any:
    """The same with momentum."""
    return xp.ElementwiseKernel(
        "T grad, float64 lr, float64 weight_decay, float64 momentum, bool nesterov",
        "T p, T velocity",
        """
        A g = grad + (A)weight_decay * p;
        A v = (A)momentum * velocity + g;
        velocity = v;
        p -= (A)lr * (nesterov ? g + (A)momentum * v : v);
        """,
        "sgd_momentum",
        preamble=COMPUTED_IN,
    )


@kernel
def adam(xp: Any) -> Any:
    """rate: lr / (1 - β₁ᵗ). kept: what AdamW leaves of p. rest: 1 - β. correction: √(1 - β₂ᵗ)."""
    return xp.ElementwiseKernel(
        "T grad, float64 rate, float64 kept, float64 weight_decay, float64 beta1, float64 rest1, "
        "float64 beta2, float64 rest2, float64 correction, float64 eps",
        "T p, T mean, T square",
        """
        A g = grad + (A)weight_decay * p;
        A m = (A)beta1 * mean + (A)rest1 * g;
        A v = (A)beta2 * square + (A)rest2 * (g * g);
        mean = m;
        square = v;
        p = (A)kept * p - (A)rate * m / (sqrt(v) / (A)correction + (A)eps);
        """,
        "adam",
        preamble=COMPUTED_IN,
    )


def on_cupy(
    update_there: Callable[..., None], **static: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare what an optimizer's `update` does with the arrays of CuPy (a decorator)."""

    def decorate(update: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(update)
        def choose(optimizer: Any, p: Array, *rest: Any) -> None:
            if type(p) is np.ndarray:
                update(optimizer, p, *rest)
            else:
                update_there(optimizer, p, *rest, **static)

        return choose

    return decorate


def sgd_step(optimizer: Any, p: Array, g: Array, step: int, *velocity: Array) -> None:
    """SGD.update."""
    numbers = [optimizer.lr, optimizer.weight_decay]
    if velocity:
        numbers += [optimizer.momentum, optimizer.nesterov]
        sgd_momentum(module_of(p))(g, *numbers, p, *velocity)
    else:
        sgd(module_of(p))(g, *numbers, p)


def adam_step(optimizer: Any, p: Array, g: Array, step: int, *mv: Array, decoupled: bool) -> None:
    """Adam.update, or AdamW.update (decoupled)."""
    lr, decay, (beta1, beta2) = optimizer.lr, optimizer.weight_decay, optimizer.betas
    numbers = [
        lr / (1 - beta1**step),
        1 - lr * decay if decoupled else 1.0,
        0.0 if decoupled else decay,
        *(beta1, 1 - beta1, beta2, 1 - beta2),
        math.sqrt(1 - beta2**step),
        optimizer.eps,
    ]
    adam(module_of(p))(g, *numbers, p, *mv)
