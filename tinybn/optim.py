"""Optimizers, learning-rate schedules and clipping: step for step what PyTorch computes.

A step changes the parameters' arrays in place and never a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from tinybn import backend as backends
from tinybn.backend import Array
from tinybn.optim_on_cupy import adam_step, on_cupy, sgd_step
from tinybn.packing import Pack, elementwise, packs
from tinybn.recording import module_of
from tinybn.tensor import Tensor, wrap


class Optimizer:
    """Parameters, a learning rate, and what has to be remembered of each parameter."""

    memory: ClassVar[tuple[str, ...]] = ()
    """The names of the arrays, like the parameter and 0 at first, that `update` gets."""

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
        self._packs: list[Pack] = []
        self._packed: set[int] = set()  # the numbers of their parameters

    def update(self, p: Array, g: Array, step: int, *memory: Array) -> None:
        """Change the array p in place, given its gradient g, in its step 1, 2, …

        With `@elementwise` above it, small parameters may come together, as one flat array.
        """
        raise NotImplementedError

    def step(self) -> None:
        """One step for every parameter that has a gradient."""
        update, params, states = self.update, self.params, self.state
        together = getattr(update, "elementwise", False)
        if not (together and all(pack.holds(params, states) for pack in self._packs)):
            self._packs, self._packed = [], set()
        for pack in self._packs:
            pack.update(params, states, update)
        alone = []
        for i, p in enumerate(params):
            if i in self._packed or p.grad is None:
                continue
            data, state = p.data, states[i]
            if not state:
                state["step"] = 0
                state.update({name: module_of(p).zeros_like(data) for name in self.memory})
            state["step"] += 1
            update(data, p.grad.data, state["step"], *(state[name] for name in self.memory))
            p.data = data  # says that it has changed
            alone.append(i)
        if together and alone:
            self._packs += packs(alone, params, states, self.memory)
            self._packed = {i for pack in self._packs for i in pack.members}

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, whose arrays are others than those that are packed."""
        return {**vars(self), "_packs": [], "_packed": set()}

    def zero_grad(self) -> None:
        """Forget the gradients: each `.grad` becomes None."""
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """The learning rate and what is remembered ("0.step", "0.velocity", …), as NumPy arrays."""
        state = {"lr": np.array(self.lr)}
        for i, memory in enumerate(self.state):
            for name, value in memory.items():
                array = (
                    np.array(value) if name == "step" else np.array(backends.move(value, "numpy"))
                )
                state[f"{i}.{name}"] = array
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the `state_dict` of an optimizer like this; nothing, if it does not fit."""
        names = ("step", *self.memory)
        known = [f"{i}.{name}" for i in range(len(self.params)) for name in names]
        values = {full: np.asarray(state[full]) for full in ("lr", *known) if full in state}
        problems = [f"unexpected: {full}" for full in sorted(state.keys() - values.keys())]
        problems += [] if "lr" in state else ["no lr"]
        problems += [p for full, value in values.items() if (p := self._misfit(full, value))]
        for i in range(len(self.params)):
            found = [name for name in names if f"{i}.{name}" in values]
            if 0 < len(found) < len(names):
                problems.append(f"parameter {i} has only {found}")
        if problems:
            raise ValueError("load_state_dict changed nothing: " + "; ".join(problems))
        self.lr = float(values["lr"])
        self.state = [
            {
                name: int(value) if name == "step" else _like(p, value)
                for name in names
                if (value := values.get(f"{i}.{name}")) is not None
            }
            for i, p in enumerate(self.params)
        ]

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


def _like(p: Tensor, array: np.ndarray) -> Array:
    return backends.move(array.astype(p.dtype), p.backend)


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
        self.memory = ("velocity",) if momentum else ()  # type: ignore[misc]

    @elementwise
    @on_cupy(sgd_step)
    def update(self, p: Array, g: Array, step: int, *memory: Array) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * p
        if memory:
            (v,) = memory
            v *= self.momentum
            v += g
            g = g + self.momentum * v if self.nesterov else v
        p -= self.lr * g


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

    @elementwise
    @on_cupy(adam_step, decoupled=False)
    def update(self, p: Array, g: Array, step: int, *memory: Array) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * p
        self._adapt(p, g, step, *memory)

    def _adapt(self, p: Array, g: Array, step: int, m: Array, v: Array) -> None:
        beta1, beta2 = self.betas
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * (g * g)
        correction = math.sqrt(1 - beta2**step)  # √v̂ + ε = (√v + ε correction) / correction
        scale = np.sqrt(v)
        scale += self.eps * correction
        p -= (self.lr * correction / (1 - beta1**step)) * m / scale


class AdamW(Adam):
    """Adam with weight_decay apart from the gradient: p ← (1 - lr · weight_decay) · p first.

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

    @elementwise
    @on_cupy(adam_step, decoupled=True)
    def update(self, p: Array, g: Array, step: int, *memory: Array) -> None:
        p *= 1 - self.lr * self.weight_decay
        self._adapt(p, g, step, *memory)


class Schedule:
    """Sets `optimizer.lr` to its first value times factor(t); t counts the calls of step().

    schedule = Schedule(optimizer, warmup(100, cosine(1000)))
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
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
    xp = module_of(params[0])
    gradients = [p.grad.data for p in params if p.grad is not None]
    norm = xp.sqrt(sum((g * g).sum() for g in gradients))  # no stack: its copies come from the host
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    for p, g in zip(params, gradients, strict=True):
        p.grad = wrap(g * factor.astype(g.dtype))
    return wrap(xp.asarray(norm))
