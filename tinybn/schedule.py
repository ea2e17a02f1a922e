"""Learning-rate schedules: a factor for each step, and what sets the optimizer's rate by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from tinybn.loading import fit
from tinybn.optimizer import Optimizer
from tinybn.parameters import number

Factor: TypeAlias = Callable[[int], float]
"""Maps t to a factor for the learning rate; see `Schedule`."""


class Schedule:
    """Sets `optimizer.lr` to a base rate times factor(t), where t counts calls of `step`.

    schedule = Schedule(optimizer, warmup(100, cosine(1000)))

    Args:
        lr: the base rate; by default the optimizer's. A second Schedule of an optimizer must say
            it, because the first one may have left any rate there, even 0.
    """

    def __init__(self, optimizer: Optimizer, factor: Factor, lr: float | None = None) -> None:
        if not isinstance(optimizer, Optimizer) or not callable(factor):
            raise TypeError(
                "Schedule: expected an optimizer and a function of t such as cosine(1000), got "
                f"{type(optimizer).__name__} and {type(factor).__name__}"
            )
        if lr is None and optimizer.base_lr is not None:
            raise ValueError(
                f"Schedule: an earlier Schedule has set the learning rate to {optimizer.lr}: say "
                f"where this one starts, Schedule(optimizer, factor, lr={optimizer.base_lr})"
            )
        lr = optimizer.lr if lr is None else lr
        if not 0 < number(lr) < math.inf:
            raise ValueError(f"Schedule: expected a learning rate lr > 0, got {lr!r}")
        self.optimizer = optimizer
        self.factor = factor
        self._set(0, lr)

    def _set(self, t: int, base_lr: float) -> None:
        lr = base_lr * self.factor(t)
        self.t, self.base_lr = t, base_lr
        self.optimizer.lr, self.optimizer.base_lr = lr, base_lr

    def step(self) -> None:
        """Go on to the next t."""
        self._set(self.t + 1, self.base_lr)

    def state_dict(self) -> dict[str, np.ndarray]:
        """t and the base rate. The factor is code: a new Schedule must be given the same one."""
        return {"t": np.array(self.t), "base_lr": np.array(self.base_lr)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at the t of a `state_dict`, and set the optimizer's learning rate.

        Raises:
            ValueError: the state does not fit; nothing changed.
        """
        own = {"t": 0, "base_lr": 0.0}
        values = fit(state, own, (f"missing: {name}" for name in own.keys() - state.keys()))
        if not 0 < values["base_lr"] < math.inf:
            raise ValueError(
                f"load_state_dict changed nothing: expected a base_lr > 0, got {values['base_lr']}"
            )
        self._set(**values)


def step_decay(every: int, factor: float = 0.1) -> Factor:
    """A factor for `Schedule`: factor to the power ⌊t / every⌋."""
    if not number(every) >= 1 or not number(factor) > 0:
        raise ValueError(f"step_decay: expected every >= 1, factor > 0, got {every}, {factor}")
    return lambda t: factor ** (t // every)


def cosine(total: int, floor: float = 0.0) -> Factor:
    """A factor for `Schedule`: half a cosine from 1 to `floor` at t = total, then constant.

    Source: Loshchilov & Hutter 2017 (1608.03983), equation 5, without restarts.
    """
    if not number(total) >= 1 or not 0 <= number(floor) <= 1:
        raise ValueError(f"cosine: expected total >= 1, 0 <= floor <= 1, got {total}, {floor}")
    return lambda t: floor + (1 - floor) * (1 + math.cos(math.pi * min(t, total) / total)) / 2


def warmup(steps: int, after: Factor | None = None, start: float = 0.0) -> Factor:
    """A factor for `Schedule`: linear from `start` to 1 at t = steps, then after(t - steps)."""
    if not number(steps) >= 1 or not 0 <= number(start) <= 1:
        raise ValueError(f"warmup: expected steps >= 1, 0 <= start <= 1, got {steps}, {start}")

    def factor(t: int) -> float:
        if t < steps:
            return start + (1 - start) * t / steps
        return after(t - steps) if after else 1.0

    return factor
