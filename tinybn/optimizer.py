"""Optimizer: what SGD, Adam and AdamW share. The formulas are in optim.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from tinybn import checkpoint
from tinybn.backend import MODULES, Array, move
from tinybn.tensor import Tensor

Arrays: TypeAlias = tuple[Array, ...]

Update: TypeAlias = Callable[..., Arrays]

replacements: dict[Update, dict[Any, Update]] = {}
"""For each `update`, what an array library runs instead: CuPy's kernels (on_cupy.py)."""


class Optimizer:
    """Parameters, a learning rate, and what the optimizer remembers about each parameter.

    A subclass defines `update`, and lists in `memory` the names of the arrays it remembers (shaped
    like the parameter, initially 0). `numbers` returns whatever else changes from step to step.

    Attributes:
        lr: the learning rate; it may be set at any time.
        state: for each parameter, its count of steps, "step", and its memory by name; empty for a
            parameter that never had a gradient.

    Raises:
        ValueError: there are no parameters, one is given twice or is not a leaf that requires grad,
            or a number is out of range.
    """

    memory: tuple[str, ...] = ()

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
        """The new p and memory: `update(p, g, *memory, **numbers)`, where g is the gradient of p.

        A pure function of these arrays and numbers, and of the optimizer's settings.
        """
        raise NotImplementedError

    def numbers(self, step: Any) -> dict[str, Any]:
        """The Python numbers that `update` gets at step 1, 2, …; use only + - * / ** on `step`."""
        return {"lr": self.lr}

    def step(self) -> None:
        """Update every parameter that has a gradient.

        Each gets a new array: the old arrays, the gradients and the old memory do not change.

        Raises:
            ValueError: the shapes of a gradient and its parameter differ; nothing has changed.
        """
        ready = []
        for i, p in enumerate(self.params):
            if p.grad is not None:
                array, g = p.data, p.grad.data
                if g.shape != array.shape:
                    raise ValueError(f"parameter {i} is {p.shape}, but its gradient is {g.shape}")
                ready.append((p, array, g, self.state[i]))
        names, before = self.memory, None
        formula: Any = getattr(self.update, "__func__", None)  # None if it is no method
        kernels = replacements.get(formula, {})
        for p, array, g, state in ready:
            xp: Any = MODULES[type(array)]
            if not state:
                state.update(step=0, **{name: xp.zeros_like(array) for name in names})
            if state["step"] is not before:  # equal counts are one object: compute numbers once
                before = state["step"]
                step, numbers = before + 1, self.numbers(before + 1)
            given = array, g, *map(state.get, names)
            kernel: Any = kernels.get(xp)
            new = kernel(self, *given, **numbers) if kernel else self.update(*given, **numbers)
            if len(new) != 1 + len(names):
                kind, expected = type(self).__name__, ", ".join(["p", *names])
                raise ValueError(f"{kind}.update returned {len(new)} arrays: expected {expected}")
            p.data = xp.asarray(new[0], array.dtype)  # no NumPy scalar, and no wider dtype
            for i, name in enumerate(names, 1):
                state[name] = xp.asarray(new[i], array.dtype)
            state["step"] = step

    def zero_grad(self) -> None:
        """Set the gradient of every parameter to None."""
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """The learning rate and the state ("0.step", "0.velocity", …), copied as NumPy arrays."""
        state = {"lr": np.array(self.lr)}
        for i, memory in enumerate(self.state):
            for name, value in memory.items():
                state[f"{i}.{name}"] = np.array(move(value, "numpy"))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the `state_dict` of an optimizer like this one.

        Raises:
            ValueError: it does not fit, for the reasons in the message; nothing has changed.
        """
        own: dict[str, Any] = {"lr": 0.0}
        problems = [] if "lr" in state else ["no lr"]
        for i, p in enumerate(self.params):
            likes = {"step": 0, **dict.fromkeys(self.memory, p)}
            found = [name for name in likes if f"{i}.{name}" in state]
            if 0 < len(found) < len(likes):
                problems.append(f"parameter {i} has only {found}")
            own |= {f"{i}.{name}": like for name, like in likes.items()}
        values = checkpoint.fit(state, own, problems)
        lr = values.pop("lr")
        if not 0 <= lr < math.inf:
            raise ValueError(f"load_state_dict changed nothing: expected an lr >= 0, got {lr}")
        loaded: list[dict[str, Any]] = [{} for _ in self.params]
        counts: dict[int, int] = {}  # equal counts are one object here, too
        for full, value in values.items():
            which, _, name = full.partition(".")
            loaded[int(which)][name] = counts.setdefault(value, value) if name == "step" else value
        self.lr, self.state = lr, loaded
