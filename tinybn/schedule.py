"""Around the steps of an optimizer: learning-rate schedules, and clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from tinybn.op import module_of
from tinybn.tensor import Tensor, wrap


class HasRate(Protocol):
    """An optimizer."""

    lr: float


class Schedule:
    """Sets `optimizer.lr` to its first value times factor(t); t counts the calls of step().

    schedule = Schedule(optimizer, warmup(100, cosine(1000)))
    """

    def __init__(self, optimizer: HasRate, factor: Callable[[int], float]) -> None:
        self.optimizer = optimizer
        self.factor = factor
        self.base_lr = optimizer.lr
        self.t = 0
        optimizer.lr = self.base_lr * factor(0)

    def step(self) -> None:
        """Go on to the learning rate of the next t."""
        self.t += 1
        self.optimizer.lr = self.base_lr * self.factor(self.t)


def step_decay(every: int, factor: float = 0.1) -> Callable[[int], float]:
    """factor to the power ⌊t / every⌋."""
    if every < 1 or not factor > 0:
        raise ValueError(
            f"step_decay: expected every >= 1 and factor > 0, got {every} and {factor}"
        )
    return lambda t: factor ** (t // every)


def cosine(total: int, floor: float = 0.0) -> Callable[[int], float]:
    """From 1 at t = 0 along half a cosine to `floor` at t = total, and there it stays.

    Source: Loshchilov & Hutter 2017 (SGDR), equation 5, without restarts.
    """
    if total < 1 or not 0 <= floor <= 1:
        raise ValueError(
            f"cosine: expected total >= 1 and 0 <= floor <= 1, got {total} and {floor}"
        )
    return lambda t: floor + (1 - floor) * (1 + math.cos(math.pi * min(t, total) / total)) / 2


def warmup(
    steps: int, after: Callable[[int], float] | None = None, start: float = 0.0
) -> Callable[[int], float]:
    """From `start` at t = 0 straight up to 1 at t = steps, then after(t - steps) (or 1)."""
    if steps < 1 or not 0 <= start <= 1:
        raise ValueError(
            f"warmup: expected steps >= 1 and 0 <= start <= 1, got {steps} and {start}"
        )

    def factor(t: int) -> float:
        if t < steps:
            return start + (1 - start) * t / steps
        return after(t - steps) if after else 1.0

    return factor


def clip_grad_norm(params: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients together so that their common norm is at most `max_norm`.

    Returns the norm √Σ g² as it was before. As PyTorch's, the factor is max_norm / (norm + 1e-6),
    but at most 1. Source: Pascanu, Mikolov & Bengio 2013, algorithm 1.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm: expected max_norm > 0, got {max_norm}")
    params = [p for p in params if p.grad is not None]
    if not params:
        raise ValueError("clip_grad_norm: no parameter has a gradient: call backward() first")
    gradients = [p.grad.data for p in params if p.grad is not None]
    xp = module_of(gradients[0])
    wide = (g.astype(np.float32) if g.dtype == np.float16 else g for g in gradients)
    norm = xp.sqrt(sum((g * g).sum() for g in wide))  # no stack: its copies come from the host
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    for p, g in zip(params, gradients, strict=True):
        p.grad = wrap(g * factor.astype(g.dtype))
    return wrap(xp.asarray(norm))
