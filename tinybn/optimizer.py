"""Optimizer: what SGD, Adam and AdamW share. The formulas are in optim.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from tinybn.backend import MODULES, Array, described, move
from tinybn.loading import fit
from tinybn.parameters import number
from tinybn.tensor import Tensor, shape_of

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
        base_lr: the learning rate that a Schedule multiplies, or None if there is no Schedule.
        state: for each parameter its count of steps, "step", and its memory by name. A parameter
            that never had a gradient has none.

    Raises:
        ValueError: there are no parameters, one is given twice or is not a leaf that requires grad,
            or a number is out of range.
    """

    memory: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            raise TypeError(
                "expected a list of parameters, such as model.parameters(), got "
                f"{type(params).__name__}"
            )
        self.params = list(params)
        if not self.params:
            raise ValueError("an optimizer needs at least one parameter, got none")
        for i, p in enumerate(self.params):
            if not isinstance(p, Tensor) or not p.requires_grad or p._node is not None:
                raise ValueError(f"parameter {i} {_unfit(p)}")
        if len(set(self.params)) < len(self.params):
            raise ValueError("a parameter was given twice: it would be updated twice a step")
        if not 0 < number(lr) < math.inf:
            raise ValueError(f"expected a learning rate lr > 0, got {lr!r}")
        if not 0 <= number(weight_decay) < math.inf:
            raise ValueError(f"expected weight_decay >= 0, got {weight_decay!r}")
        self.lr = lr
        self.base_lr: float | None = None
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
            ValueError: a gradient, or what `update` returns, has another shape than its parameter.
                Nothing has changed then, nor after any other error or Ctrl-C.
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
        changes = []
        for p, array, g, state in ready:
            xp: Any = MODULES[type(array)]
            memory = state or {"step": 0, **{name: xp.zeros_like(array) for name in names}}
            if memory["step"] is not before:  # equal counts are one object: compute numbers once
                before = memory["step"]
                step, numbers = before + 1, self.numbers(before + 1)
            dtype = array.dtype  # the parameter may have got another one since the last step
            kept = [memory[name] for name in names]
            kept = [m if m.dtype is dtype or m.dtype == dtype else m.astype(dtype) for m in kept]
            given = array, g, *kept
            kernel: Any = kernels.get(xp)
            new = kernel(self, *given, **numbers) if kernel else self.update(*given, **numbers)
            shapes = [shape_of(a) for a in new] if type(new) in (tuple, list) else None
            if shapes != [array.shape] * (1 + len(names)):
                raise self._misshapen(new, shapes, array.shape)
            value, *remembered = [xp.asarray(a, dtype) for a in new]  # no NumPy scalars
            changes.append((p, value, state, (step, *remembered)))
        keys = ("step", *names)
        before_all = [(p, p.data, state, state.copy()) for p, _, state, _ in changes]
        try:
            for p, value, state, entries in changes:
                p.data = value
                state.update(zip(keys, entries, strict=True))
        except BaseException:  # Ctrl-C
            for p, value, state, old in before_all:
                p.data = value
                state.clear()
                state.update(old)
            raise

    def _misshapen(self, new: Any, shapes: Any, shape: tuple[int, ...]) -> ValueError:
        names = ["p", *self.memory]
        got = type(new).__name__
        if shapes is not None:
            wrong = len(shapes) == len(names)
            got = f"shapes {', '.join(map(str, shapes))}" if wrong else f"{len(shapes)} arrays"
        return ValueError(
            f"{type(self).__name__}.update returned {got}: expected {', '.join(names)}, in a "
            f"tuple, each of the parameter's shape {shape}; nothing has changed"
        )

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
        values = fit(state, own, problems, convert=False)  # `step` does, after a Module.to
        lr = values.pop("lr")
        if not 0 <= lr < math.inf:
            raise ValueError(f"load_state_dict changed nothing: expected an lr >= 0, got {lr}")
        loaded: list[dict[str, Any]] = [{} for _ in self.params]
        counts: dict[int, int] = {}  # equal counts are one object here, too
        for full, value in values.items():
            which, _, name = full.partition(".")
            loaded[int(which)][name] = counts.setdefault(value, value) if name == "step" else value
        vars(self).update(lr=lr, state=loaded)  # both at once, whatever interrupts


def _unfit(p: Any) -> str:
    """Why an optimizer can't train p, and what to do."""
    if not isinstance(p, Tensor):
        return f"is no Tensor, but a {type(p).__name__}: pass model.parameters()"
    if p._node is not None:
        return f"({described(p)}) is no leaf, but the output of {p._node.op.name!r}"
    return (
        f"({described(p)}) is frozen: its requires_grad is False; pass "
        "[p for p in model.parameters() if p.requires_grad]"
    )
