"""Training for every example: paired seeds, one loop, and the curves of a run."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import tinybn as tb
from lab.resume import Keeper

OPTIMIZERS = {"sgd": tb.optim.SGD, "adam": tb.optim.Adam, "adamw": tb.optim.AdamW}
STREAMS = ("weights", "order", "noise")
TARGETS = {"digits": 0.95, "fashion": 0.85}
"""Test accuracies that an MLP reaches only when it is trained with care."""
SEEN = 2000
"""The largest number of validation examples, and of test examples (only Fashion-MNIST has more)."""

CURVES = ("steps", "seconds", "loss", "accuracy", "test")

bar_position: int | None = None
"""The line of the progress bar, counted from the first, or None for the next free one."""


@dataclass(frozen=True)
class Config:
    """What to train, on what, and how."""

    norm: str = "batch"
    data: str = "digits"
    data_dir: str | None = None
    hidden: Sequence[int] = (64, 64, 64)
    activation: str = "relu"
    init: str | float = "he"
    """A number is a standard deviation: weights are drawn from N(0, init²)."""
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    """Used by SGD only."""
    batch_size: int = 64
    epochs: int = 20
    steps: int | None = None
    """The number of steps, instead of `epochs`."""
    seed: int = 0
    backend: str = "numpy"
    every: int = 5
    """Steps between two looks at the validation and test data."""
    compile: bool = True
    """Record the training step and run it as a compiled program; otherwise op by op."""
    early: int = 0
    """Look at every second step up to this one: with batch norm, 20 steps can be enough."""

    def looks(self, epoch: int) -> list[int]:
        """The steps at which to look, the last step included; an epoch has `epoch` steps."""
        steps = self.epochs * epoch if self.steps is None else self.steps
        early = range(2, min(self.early, steps) + 1, 2)
        return sorted({*early, *range(self.every, steps + 1, self.every), steps})


@dataclass
class Run:
    """The curves of a run; the lists have one entry per look."""

    config: Config
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Seconds of training so far, without looks and without the step that is recorded."""
    loss: list[float] = field(default_factory=list)
    """Loss of the mini-batch of that step."""
    accuracy: list[float] = field(default_factory=list)
    """Accuracy on the validation data."""
    test: list[float] = field(default_factory=list)
    """Accuracy on the test data, to report and never to choose by."""
    diverged_at: int | None = None
    """The first step with a look at which the loss was not finite; training ended there."""

    @property
    def test_accuracy(self) -> float:
        """Test accuracy of the trained model."""
        return self.test[-1]

    def reached(self, target: float, part: str = "accuracy") -> int | None:
        """The index of the first look at which that accuracy was at least `target`."""
        return next((i for i, a in enumerate(getattr(self, part)) if a >= target), None)

    def measures(self, target: float) -> dict[str, Any]:
        """What experiments report: steps and seconds until the test accuracy reached `target`,
        steps until the validation accuracy did, and how the run ended.
        """
        i, chosen = self.reached(target, "test"), self.reached(target)
        return {
            "steps_to_target": None if i is None else self.steps[i],
            "seconds_to_target": None if i is None else self.seconds[i],
            "validation_steps_to_target": None if chosen is None else self.steps[chosen],
            "ms_per_step": 1000 * self.seconds[-1] / self.steps[-1],
            "loss": self.loss[-1],
            "validation_accuracy": self.accuracy[-1],
            "test_accuracy": self.test[-1],
            "diverged_at": self.diverged_at,
        }


@dataclass
class Progress:
    """A run in the middle of its training, for a checkpoint."""

    run: Run
    number: int = 0
    """The steps done."""
    spent: float = 0.0
    """The seconds of training."""

    def state_dict(self) -> dict[str, Any]:
        """The curves, and how far the run is."""
        diverged = -1 if self.run.diverged_at is None else self.run.diverged_at
        counts = {"number": self.number, "spent": self.spent, "diverged_at": diverged}
        return counts | {name: np.array(getattr(self.run, name), float) for name in CURVES}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        curves = {name: np.asarray(state[name], float).tolist() for name in CURVES}
        curves["steps"] = [int(step) for step in curves["steps"]]
        number, spent, diverged = (state[name] for name in ("number", "spent", "diverged_at"))
        vars(self).update(number=int(number), spent=float(spent))
        vars(self.run).update(curves, diverged_at=None if diverged < 0 else int(diverged))


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random numbers for one purpose.

    Each purpose has its own, so arms that differ in the norm, for example, get the same weights and
    the same batches in the same order.
    """
    return np.random.default_rng([seed, STREAMS.index(purpose)])


@functools.lru_cache(maxsize=2)
def dataset(name: str, seed: int, folder: str | None = None) -> tb.data.Dataset:
    """The data set, split by the seed, and cached for the next run of this process."""
    data = tb.data.load(name, seed=seed, folder=None if folder is None else Path(folder))
    validation, test = (
        tb.data.Part(part.x[:SEEN], part.y[:SEEN]) for part in (data.validation, data.test)
    )
    return data._replace(validation=validation, test=test)


def accuracy(model: tb.nn.Module, part: tb.data.Part, backend: str) -> float:
    """The fraction of `part` that the model labels correctly in evaluation mode."""
    return float(right(model, tb.tensor(part.x, backend=backend), part.y).mean())


def right(model: tb.nn.Module, x: tb.Tensor, y: np.ndarray) -> np.ndarray:
    """For each example, whether the model labels it correctly in evaluation mode."""
    model.eval()
    with tb.no_grad():
        scores = model(x).numpy()
    model.train()
    return np.asarray(scores.argmax(axis=1) == y)


def build(config: Config) -> tb.nn.MLP:
    """The MLP that `config` describes, with the weights of its seed."""
    data = dataset(config.data, config.seed, config.data_dir)
    with tb.use_backend(config.backend):
        return tb.nn.MLP(
            [data.features, *config.hidden, data.classes],
            config.norm,
            config.activation,
            init=config.init if isinstance(config.init, str) else tb.init.normal(config.init),
            rng=stream(config.seed, "weights"),
        )


def train(
    config: Config,
    *,
    progress: bool = True,
    stop: float = math.inf,
    keeper: Keeper | None = None,
) -> tuple[Run, tb.nn.MLP]:
    """Train an MLP as `config` says."""
    model = build(config)
    data = dataset(config.data, config.seed, config.data_dir)
    return fit(model, data, config, progress=progress, stop=stop, keeper=keeper), model


def fit(
    model: tb.nn.Module,
    data: tb.data.Dataset,
    config: Config,
    *,
    progress: bool = True,
    stop: float = math.inf,
    look: Callable[[int], None] | None = None,
    keeper: Keeper | None = None,
) -> Run:
    """Train any model from x to logits with the optimizer, batches and steps of `config`.

    Args:
        stop: end as soon as validation and test accuracy have both been at least this.
        look: called at each look with the number of the step; it must not change the model.
        keeper: saves the run as it goes on, after restoring what it has of it.
    """
    xs = [part.x for part in (data.train, data.validation, data.test)]
    x, seen = (tb.tensor(a, backend=config.backend) for a in (xs[0], np.concatenate(xs[1:])))
    labels = np.concatenate([data.validation.y, data.test.y])
    optimizer = OPTIMIZERS[config.optimizer](
        model.parameters(),
        config.lr,
        **{"momentum": config.momentum} if config.optimizer == "sgd" else {},
    )
    batches = tb.data.Batches(
        x.data,
        data.train.y,
        config.batch_size,
        drop_last=True,
        rng=stream(config.seed, "order"),
    )

    # Each layer gets its own attribute `training` now, as it would at the first look: a recorded
    # step does not fit a model with new attributes, and would be recorded a second time.
    model.train()

    def step(x: Any, labels: np.ndarray) -> tb.Tensor:
        optimizer.zero_grad()
        loss = tb.ops.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    train_on = tb.compile(step) if config.compile else step
    run = Run(config)
    at = Progress(run)
    parts = {"model": model, "optimizer": optimizer, "batches": batches, "progress": at}
    if keeper is not None:
        keeper.every = keeper.every or len(batches)
        if config.compile and keeper.resumes:
            # The first call runs op by op, and can differ in the last bit: not in mid-run.
            train_on(*next(iter(batches)))
        keeper.start(parts)
    looks = config.looks(len(batches))
    last, looks_left = looks[-1], set(looks)
    bar = tqdm(
        total=last,
        initial=at.number,
        desc=f"norm={config.norm} lr={config.lr:g} seed={config.seed}",
        unit="step",
        disable=None if progress else True,  # None: off where stderr is no terminal
        position=bar_position,
        leave=False,
    )
    ever = chain.from_iterable(repeat(batches))
    ended = run.diverged_at is not None
    todo = range(last, last) if ended else range(at.number + 1, last + 1)
    with bar, np.errstate(all="ignore"):  # the loss shows that a run diverged
        for number, (xb, yb) in zip(todo, ever, strict=False):
            recordings = getattr(train_on, "recordings", 0)
            start = time.perf_counter()
            loss = train_on(xb, yb)
            elapsed = time.perf_counter() - start
            at.number = number
            at.spent += elapsed if getattr(train_on, "recordings", 0) == recordings else 0.0
            bar.update()
            if number in looks_left:
                start = time.perf_counter()
                value_of_loss = loss.item()  # with this number, a GPU has done all steps
                at.spent += time.perf_counter() - start
                hits = np.split(right(model, seen, labels), [len(data.validation.y)])
                for values, value in zip(
                    (run.steps, run.seconds, run.loss, run.accuracy, run.test),
                    (number, at.spent, value_of_loss, *(float(part.mean()) for part in hits)),
                    strict=True,
                ):
                    values.append(value)  # type: ignore[attr-defined]
                bar.set_postfix(loss=f"{run.loss[-1]:.3f}", accuracy=f"{run.accuracy[-1]:.1%}")
                if not math.isfinite(run.loss[-1]):
                    run.diverged_at = number
                elif look is not None:
                    look(number)
                if keeper is not None:
                    keeper.look(run.accuracy[-1], model)
                reached = min(max(run.accuracy), max(run.test)) >= stop
                ended = reached or run.diverged_at is not None
            if keeper is not None:
                keeper.after(number, parts, ended or number == last)
            if ended:
                break
    return run
