"""Optimizers: they read like the papers.

An optimizer's `update` is a pure function of arrays: a step gives each parameter a new array, and
changes neither the old one nor any gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from tinybn import backend as backends
from tinybn.backend import Array, replaceable
from tinybn.op import module_of
from tinybn.schedule import Schedule, clip_grad_norm, cosine, step_decay, warmup
from tinybn.tensor import Tensor

__all__ = [
    "SGD", "Adam", "AdamW", "Optimizer",
    "Schedule", "clip_grad_norm", "cosine", "step_decay", "warmup",
]  # fmt: skip

Arrays: TypeAlias = tuple[Array, ...]
Update = TypeVar("Update", bound=Callable[..., Arrays])


def _replaceable(update: Update) -> Update:
    """CuPy has kernels in place of an `update` of this file (optim_on_cupy.py)."""
    return cast(Update, replaceable(update, library=lambda self, p, *_: module_of(p)))


class Optimizer:
    """Parameters, a learning rate, and what is remembered of each parameter.

    A subclass defines `update`, names what that remembers in `memory`, and adds to `numbers` what
    else changes from step to step. state: per parameter its "step", and its memory by name.
    """

    memory: tuple[str, ...] = ()
    """The names of the arrays, shaped like the parameter and 0 at first, that `update` gets."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        self.params = list(params)
        if not self.params:
            raise ValueError("an optimizer needs at least one parameter, got none")
        for i, p in enumerate(self.params):
            if not isinstance(p, Tensor) or not p.requires_grad or p._node is not None:
                raise ValueError(
                    f"parameter {i} is not a leaf Tensor with requires_grad=True: {p!r}"
                )
        if len(set(self.params)) < len(self.params):
            raise ValueError("a parameter was given twice: it would be updated twice a step")
        if not 0 < lr < math.inf:
            raise ValueError(f"expected a learning rate lr > 0, got {lr}")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"expected weight_decay >= 0, got {weight_decay}")
        self.lr = lr
        self.weight_decay = weight_decay
        self.state: list[dict[str, Any]] = [{} for _ in self.params]

    def update(self, *arrays: Array, **numbers: Any) -> Arrays:
        """update(p, g, *memory, **numbers): the new p and memory, given the gradient g.

        A pure function of what it gets and of the optimizer's settings.
        """
        raise NotImplementedError

    def numbers(self, step: Any) -> dict[str, Any]:
        """The Python numbers of step 1, 2, … for `update`; made by + - * / ** alone."""
        return {"lr": self.lr}

    def step(self) -> None:
        """One step for every parameter that has a gradient."""
        ready = []
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            if p.grad.shape != p.shape:
                raise ValueError(f"parameter {i} is {p.shape}, but its gradient {p.grad.shape}")
            ready.append((p, p.grad.data, self.state[i]))
        before = None
        for p, g, state in ready:
            xp, dtype = module_of(g), p.dtype
            if not state:
                state.update(step=0, **{name: xp.zeros_like(p.data) for name in self.memory})
            if state["step"] is not before:  # equal counts are one object, so numbers are made once
                before = state["step"]
                step, numbers = before + 1, self.numbers(before + 1)
            memory = [state[name] for name in self.memory]
            new = self.update(p.data, g, *memory, **numbers)
            p.data, *memory = (xp.asarray(a, dtype) for a in new)  # no NumPy scalar, no wider dtype
            state.update(zip(self.memory, memory, strict=True), step=step)

    def zero_grad(self) -> None:
        """Forget the gradients: each `.grad` becomes None."""
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """The learning rate and what is remembered ("0.step", "0.velocity", …), as NumPy arrays."""
        state = {"lr": np.array(self.lr)}
        for i, memory in enumerate(self.state):
            for name, value in memory.items():
                state[f"{i}.{name}"] = np.array(backends.move(value, "numpy"))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the `state_dict` of an optimizer like this; nothing, if it does not fit."""
        names = ("step", *self.memory)
        known = [f"{i}.{name}" for i in range(len(self.params)) for name in names]
        values = {full: np.asarray(state[full]) for full in ("lr", *known) if full in state}
        problems = [f"unexpected: {full}" for full in sorted(state.keys() - values.keys())]
        problems += [] if "lr" in state else ["no lr"]
        problems += [w for full, value in values.items() if (w := self._misfit(full, value))]
        for i in range(len(self.params)):
            found = [name for name in names if f"{i}.{name}" in values]
            if 0 < len(found) < len(names):
                problems.append(f"parameter {i} has only {found}")
        if problems:
            raise ValueError("load_state_dict changed nothing: " + "; ".join(problems))
        loaded: list[dict[str, Any]] = [{} for _ in self.params]
        counts: dict[int, int] = {}  # equal counts are one object here, too
        for full, value in values.items():
            which, _, name = full.partition(".")
            if name == "step":
                loaded[int(which)][name] = counts.setdefault(int(value), int(value))
            elif name:
                p = self.params[int(which)]
                loaded[int(which)][name] = backends.move(value.astype(p.dtype), p.backend)
        self.lr, self.state = float(values["lr"]), loaded

    def _misfit(self, full: str, value: np.ndarray) -> str | None:
        """What is wrong with an entry of a `state_dict`, if anything is."""
        i, _, name = full.partition(".")
        shape = self.params[int(i)].shape if name in self.memory else ()
        if value.shape != shape:
            return f"{full}: expected shape {shape}, got {value.shape}"
        if value.dtype.kind not in "fiu":
            return f"{full}: expected numbers, got dtype {value.dtype}"
        if full == "lr" and not 0 <= value < math.inf:
            return f"lr: expected a learning rate >= 0, got {value}"
        if name == "step" and not (value >= 1 and float(value).is_integer()):
            return f"{full}: expected a count of steps, got {value}"
        return None


class SGD(Optimizer):
    """v ← momentum · v + g, p ← p - lr · v; with nesterov, p ← p - lr · (g + momentum · v).

    weight_decay adds weight_decay · p to g. Source: Sutskever et al. 2013, section 2.
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

    @_replaceable
    def update(self, p: Array, g: Array, v: Array = None, *, lr: Any) -> Arrays:
        if self.weight_decay:
            g = g + self.weight_decay * p
        if v is None:
            return (p - lr * g,)
        v = self.momentum * v + g
        return p - lr * (g + self.momentum * v if self.nesterov else v), v


class Adam(Optimizer):
    """m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g², p ← p - lr · m̂ / (√v̂ + ε), bias-corrected.

    m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ). weight_decay adds weight_decay · p to g.
    Source: Kingma & Ba 2015, algorithm 1.
    """

    memory = ("m", "v")

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

    @_replaceable
    def update(
        self, p: Array, g: Array, m: Array, v: Array, *, lr: Any, **corrections: Any
    ) -> Arrays:
        if self.weight_decay:
            g = g + self.weight_decay * p
        direction, m, v = self.direction(g, m, v, **corrections)
        return p - lr * direction, m, v

    def direction(
        self, g: Array, m: Array, v: Array, *, correction1: Any, correction2: Any
    ) -> Arrays:
        """m̂ / (√v̂ + ε), and the new m and v."""
        beta1, beta2 = self.betas
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g * g)
        m_hat, v_hat = m / correction1, v / correction2
        return m_hat / (module_of(g).sqrt(v_hat) + self.eps), m, v


class AdamW(Adam):
    """Adam with the decay apart from the gradient: p ← p - lr · (m̂ / (√v̂ + ε) + weight_decay · p).

    Source: Loshchilov & Hutter 2019, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    @_replaceable
    def update(
        self, p: Array, g: Array, m: Array, v: Array, *, lr: Any, **corrections: Any
    ) -> Arrays:
        direction, m, v = self.direction(g, m, v, **corrections)
        return p - lr * (direction + self.weight_decay * p), m, v
