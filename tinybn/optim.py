"""SGD, Adam and AdamW as in their papers, learning-rate schedules, and clipping.

`update` is a formula on arrays: it returns the new parameter and the new memory, and changes
nothing. Optimizer, which calls it for every parameter, is in optimizer.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeAlias

import numpy as np

from tinybn.backend import Array
from tinybn.op import module_of
from tinybn.optimizer import Arrays, Optimizer
from tinybn.tensor import Tensor, wrap

__all__ = [
    "SGD", "Adam", "AdamW", "Optimizer",
    "Schedule", "clip_grad_norm", "cosine", "step_decay", "warmup",
]  # fmt: skip


class SGD(Optimizer):
    """Stochastic gradient descent, optionally with momentum.

        v ← momentum · v + g
        p ← p - lr · v        or, with nesterov, p ← p - lr · (g + momentum · v)

    weight_decay adds weight_decay · p to g.

    Source: Sutskever, Martens, Dahl & Hinton 2013, section 2 (Nesterov 1983), with lr outside of v.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        if not 0 <= momentum < math.inf:
            raise ValueError(f"SGD: expected momentum >= 0, got {momentum}")
        if nesterov and momentum == 0:
            raise ValueError("SGD: nesterov=True needs a momentum > 0")
        super().__init__(params, lr, weight_decay)
        self.momentum = momentum
        self.nesterov = nesterov
        self.memory = ("velocity",) if momentum else ()

    def update(self, p: Array, g: Array, v: Array = None, *, lr: Any) -> Arrays:
        if self.weight_decay:
            g = g + self.weight_decay * p
        if v is None:
            return (p - lr * g,)
        v = self.momentum * v + g
        direction = g + self.momentum * v if self.nesterov else v
        return p - lr * direction, v


class Adam(Optimizer):
    """Steps in units of the gradient's own size, from running means of g and g².

        m ← β₁ m + (1 - β₁) g         m̂ = m / (1 - β₁ᵗ)
        v ← β₂ v + (1 - β₂) g²        v̂ = v / (1 - β₂ᵗ)
        p ← p - lr · m̂ / (√v̂ + ε)

    weight_decay adds weight_decay · p to g. Each parameter counts its own steps t.

    Source: Kingma & Ba 2015 (1412.6980), algorithm 1.
    """

    memory = ("m", "v")
    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"{type(self).__name__}: expected betas in [0, 1), got {betas}")
        if not eps >= 0:
            raise ValueError(f"{type(self).__name__}: expected eps >= 0, got {eps}")
        super().__init__(params, lr, weight_decay)
        self.betas = betas
        self.eps = eps

    def numbers(self, step: Any) -> dict[str, Any]:
        beta1, beta2 = self.betas
        return {"lr": self.lr, "correction1": 1 - beta1**step, "correction2": 1 - beta2**step}

    def update(
        self, p: Array, g: Array, m: Array, v: Array, *, lr: Any, correction1: Any, correction2: Any
    ) -> Arrays:
        beta1, beta2 = self.betas
        if self.weight_decay and not self.decoupled:
            g = g + self.weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g * g)
        m_hat = m / correction1
        v_hat = v / correction2
        direction = m_hat / (module_of(g).sqrt(v_hat) + self.eps)
        if self.weight_decay and self.decoupled:
            direction = direction + self.weight_decay * p
        return p - lr * direction, m, v


class AdamW(Adam):
    """Adam whose weight decay is decoupled from the gradient.

        p ← p - lr · (m̂ / (√v̂ + ε) + weight_decay · p)

    Source: Loshchilov & Hutter 2019 (1711.05101), algorithm 2.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


Factor: TypeAlias = Callable[[int], float]
"""Maps t to a factor for the learning rate; see `Schedule`."""


class Schedule:
    """Sets `optimizer.lr` to its initial value times factor(t), where t counts calls of `step`.

    schedule = Schedule(optimizer, warmup(100, cosine(1000)))
    """

    def __init__(self, optimizer: Optimizer, factor: Factor) -> None:
        self.optimizer = optimizer
        self.factor = factor
        self.base_lr = optimizer.lr
        self.t = 0
        optimizer.lr = self.base_lr * factor(0)

    def step(self) -> None:
        """Advance t by 1, and set the learning rate."""
        self.t += 1
        self.optimizer.lr = self.base_lr * self.factor(self.t)


def step_decay(every: int, factor: float = 0.1) -> Factor:
    """A factor for `Schedule`: factor to the power ⌊t / every⌋."""
    if every < 1 or not factor > 0:
        raise ValueError(f"step_decay: expected every >= 1, factor > 0, got {every}, {factor}")
    return lambda t: factor ** (t // every)


def cosine(total: int, floor: float = 0.0) -> Factor:
    """A factor for `Schedule`: half a cosine from 1 to `floor` at t = total, then constant.

    Source: Loshchilov & Hutter 2017 (1608.03983), equation 5, without restarts.
    """
    if total < 1 or not 0 <= floor <= 1:
        raise ValueError(f"cosine: expected total >= 1, 0 <= floor <= 1, got {total}, {floor}")
    return lambda t: floor + (1 - floor) * (1 + math.cos(math.pi * min(t, total) / total)) / 2


def warmup(steps: int, after: Factor | None = None, start: float = 0.0) -> Factor:
    """A factor for `Schedule`: linear from `start` to 1 at t = steps, then after(t - steps)."""
    if steps < 1 or not 0 <= start <= 1:
        raise ValueError(f"warmup: expected steps >= 1, 0 <= start <= 1, got {steps}, {start}")

    def factor(t: int) -> float:
        if t < steps:
            return start + (1 - start) * t / steps
        return after(t - steps) if after else 1.0

    return factor


def clip_grad_norm(params: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by the same factor, min(1, max_norm / (norm + 1e-6)).

    Returns:
        The norm √Σ g² of all gradients together, before scaling.

    Raises:
        ValueError: max_norm is not positive, or no parameter has a gradient.

    Source: Pascanu, Mikolov & Bengio 2013 (1211.5063), algorithm 1; the 1e-6 is PyTorch's.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm: expected max_norm > 0, got {max_norm}")
    params = [p for p in params if p.grad is not None]
    if not params:
        raise ValueError("clip_grad_norm: no parameter has a gradient: call backward() first")
    gradients = [p.grad.data for p in params if p.grad is not None]
    xp = module_of(gradients[0])
    wide = (g.astype(np.float32) if g.dtype == np.float16 else g for g in gradients)
    norm = xp.sqrt(sum((g * g).sum() for g in wide))  # a stack would copy from the host
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    for p, g in zip(params, gradients, strict=True):
        p.grad = wrap(g * factor.astype(g.dtype))
    return wrap(xp.asarray(norm))
