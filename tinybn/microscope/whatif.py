"""What if: the recordings between which a page switches. Each was made by running tinybn."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tinybn.microscope import page
from tinybn.microscope.network import WIDTH, Slice
from tinybn.microscope.questions import (
    EPS,
    FORM,
    NORM,
    STATISTICS,
    UPSTREAM,
    VALUES,
    Option,
    Question,
)
from tinybn.microscope.recorder import record
from tinybn.microscope.recording import Floats, Recording


class Bundle(NamedTuple):
    """Recordings by key: the values of the options of all questions, in order.

    Attributes:
        questions: what can be switched.
        start: the key of the recording to show first.
        make: records one key.
    """

    questions: list[Question]
    start: tuple[str, ...]
    make: Callable[[tuple[str, ...]], Recording]

    def first(self) -> Recording:
        """The recording to show first."""
        return self.make(self.start)

    def all(self) -> dict[tuple[str, ...], Recording]:
        """A recording for each combination of options. Only batch norm takes constants."""
        keys = itertools.product(*([o.value for o in q.options] for q in self.questions))
        return {key: self.make(key) for key in keys if "constant" not in key or "batch" in key}

    def page(self) -> str:
        """The page that switches between the recordings."""
        return page.of_recordings(self.questions, self.start, self.all())


def cookies(command: str, *, norm: str = "batch", seed: int = 0) -> Bundle:
    """The cookie of the lesson, x = 2, 10, 6, and every combination of what can be switched.

    Batch norm takes it as three cookies with one ingredient, the others as one cookie with three.
    """

    def upstream(name: str, n: int) -> Floats | str:
        if name in ("ones", "squares"):
            return name
        return np.eye(n)[0] if name == "first" else np.random.default_rng(seed).standard_normal(n)

    def make(key: Sequence[str]) -> Recording:
        norm, values, dy, eps, statistics, form = key
        x = np.array([float(v) for v in values.split(",")])
        start = upstream(dy, x.size)
        shape = (-1, 1) if norm == "batch" else (1, -1)
        noun = "cookie" if norm == "batch" else "ingredient"
        return record(
            x.reshape(shape),
            start if isinstance(start, str) else start.reshape(shape),
            None if norm == "batch" else np.array([1.0, 2.0, 0.5])[: x.size],
            norm=norm,
            eps=float(eps),
            constant=statistics == "constant",
            fused=form == "fused",
            labels=[f"{noun} {i}" for i in range(1, x.size + 1)],
            subject=f"x = {values.replace(',', ', ')}",
            upstream=dy,
            command=command,
            seed=seed,
        )

    questions = [NORM, VALUES, UPSTREAM, EPS, STATISTICS, FORM]
    start = (norm, "2,10,6", "first", "0", "computed", "primitive")
    return Bundle(questions, start, make)


def digits(
    command: str,
    *,
    unit: int = 7,
    batch: int = 8,
    example: int = 0,
    seed: int = 0,
    norm: str = "batch",
) -> Bundle:
    """A hidden layer of an MLP (64-16-10) on handwritten digits, after 30 steps of SGD.

    Batch norm normalizes each unit over the batch, so one unit of all examples is shown; the others
    normalize each example over the units, so all units of one example are shown.

    Args:
        command: what to say about where the numbers come from.
        unit: which hidden unit to look at, for batch norm.
        batch: the number of examples.
        example: which of them to look at, for layer and RMS norm.
        seed: of the split, the weights and the batches.
        norm: which norm to show first.

    Raises:
        ValueError: there is no such unit, example or batch.
        ModuleNotFoundError: scikit-learn, which has the digits, is not installed.
    """
    if not 0 <= unit < WIDTH:
        raise ValueError(f"expected a unit from 0 to {WIDTH - 1}, got {unit}")
    if not 2 <= batch <= 32:
        raise ValueError(f"expected a batch of 2 to 32 examples, got {batch}")
    if not 0 <= example < batch:
        raise ValueError(f"expected an example from 0 to {batch - 1}, got {example}")

    @functools.cache
    def part_of(norm: str) -> Slice:
        return Slice(norm, unit, batch, example, seed)

    def make(key: Sequence[str]) -> Recording:
        norm, upstream, eps, statistics, form = key
        part = part_of(norm)
        random = np.random.default_rng(seed).standard_normal(part.x.shape).astype(np.float32)
        return record(
            part.x,
            {"loss": part.dy, "random": random}.get(upstream, upstream),
            part.gamma,
            part.beta,
            norm=norm,
            eps=float(eps),
            constant=statistics == "constant",
            fused=form == "fused",
            labels=part.labels,
            subject=part.subject,
            upstream=upstream,
            command=command,
            seed=seed,
        )

    loss = Option("loss", "the loss", "What the cross-entropy loss of the network sends back.")
    upstreams = UPSTREAM._replace(options=[loss, *UPSTREAM.options[1:]])
    questions = [NORM, upstreams, EPS, STATISTICS, FORM]
    start = (norm, "loss", "1e-5", "computed", "primitive")
    return Bundle(questions, start, make)
