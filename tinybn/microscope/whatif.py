"""What if: the recordings between which a page switches. Each was made by running tinybn."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tinybn import data, nn, ops, optim
from tinybn.autodiff import grad
from tinybn.microscope import page
from tinybn.microscope.recorder import record
from tinybn.microscope.recording import Floats, Recording
from tinybn.tensor import Tensor

WIDTH = 16
"""The hidden units of the network behind `--data digits`."""

STEPS = 30
"""So many steps of SGD, with learning rate 0.1, come before the recorded one."""


class Option(NamedTuple):
    """One answer to a question: its value in the key of a recording, its label, a sentence."""

    value: str
    label: str
    say: str


class Question(NamedTuple):
    """What can be switched."""

    name: str
    label: str
    options: list[Option]


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


NORM = Question("norm", "norm", [
    Option("batch", "batch", "Batch norm: every ingredient over the batch."),
    Option("layer", "layer", "Layer norm: every row by itself, with one γ per value."),
    Option("rms", "RMS", "RMS norm: like layer norm, but no mean is subtracted."),
])  # fmt: skip
UPSTREAM = Question("upstream", "upstream dy", [
    Option("first", "first only", "Only the first value of y matters: dy = 1, 0, 0, …"),
    Option("ones", "ones", "L = Σ y. After batch norm this does not depend on x, since Σ y is always "
           "n β: dx is 0 up to rounding, and a check with this seed is blind."),
    Option("squares", "Σ y²", "L = Σ y² is part of the graph now. After batch norm it hardly depends "
           "on x: dx is of the order of ε."),
    Option("random", "random", "A random upstream gradient: what a gradient check should use."),
])  # fmt: skip
EPS = Question("eps", "ε", [
    Option("0", "0", "No ε: exact, as long as not all values are equal."),
    Option("1e-5", "10⁻⁵", "The usual ε."),
    Option("0.1", "0.1", "A large ε: x̂ has a variance below 1, and x̂ · dx is no longer 0."),
])  # fmt: skip
STATISTICS = Question("statistics", "μ and σ²", [
    Option("computed", "computed", "μ and σ² are functions of x, as they are."),
    Option("constant", "constants", "What if they were constants? Two paths are gone, and dx is wrong "
           "for training. In evaluation, it is right."),
])  # fmt: skip
FORM = Question("form", "recorded as", [
    Option("primitive", "primitives", "The composition: one node per primitive op."),
    Option("fused", "one fused op", "The closed form: one node for the whole norm."),
])  # fmt: skip
VALUES = Question("values", "values", [
    Option("2,10,6", "2, 10, 6", "The three cookies."),
    Option("2,14,6", "2, 14, 6", "Only the second cookie changes. So do μ and σ², and therefore the "
           "gradient of the first."),
    Option("2,10", "2, 10", "In batch norm, two values become ±1, whatever they are. So with ε = 0 "
           "nothing is left of dx."),
])  # fmt: skip


def cookies(command: str, *, norm: str = "batch") -> Bundle:
    """The cookie of the lesson, x = 2, 10, 6, and every combination of what can be switched.

    Batch norm takes it as three cookies with one ingredient, the others as one cookie with three.
    """

    def upstream(name: str, n: int) -> Floats | str:
        if name in ("ones", "squares"):
            return name
        return np.eye(n)[0] if name == "first" else np.random.default_rng(0).standard_normal(n)

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
            seed=0,
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


class Slice:
    """What one group of a norm sees in a network that has learnt for a little while.

    x, dy: its input, and the gradient of its output. gamma, beta: its parameters (beta is None for
    RMS norm). labels: what the values are. subject: what x is.
    """

    def __init__(self, norm: str, unit: int, batch: int, example: int, seed: int) -> None:
        digits = data.load("digits", seed=seed).train
        rng = np.random.default_rng(seed)
        layers = {"batch": nn.BatchNorm, "layer": nn.LayerNorm, "rms": nn.RMSNorm}
        normalize = layers[norm](WIDTH)
        first, last = nn.Linear(64, WIDTH, rng=rng), nn.Linear(WIDTH, 10, rng=rng)
        model = nn.Sequential(first, normalize, nn.ReLU(), last)
        sgd = optim.SGD(model.parameters(), lr=0.1)
        batches = iter(data.Batches(digits.x, digits.y, 32, rng=rng))
        for x, y in itertools.islice(batches, STEPS):
            sgd.zero_grad()
            ops.cross_entropy(model(x), y).backward()
            sgd.step()
        labels = digits.y[:batch]
        hidden = first(Tensor(digits.x[:batch], backend="numpy"))
        out = normalize(hidden)
        (dy,) = grad(ops.cross_entropy(last(ops.relu(out)), labels), out)
        gamma, beta = normalize.gamma.numpy(), getattr(normalize, "beta", None)
        beta = None if beta is None else beta.numpy()
        if norm == "batch":
            where = np.s_[:, unit : unit + 1]
            gamma, beta = gamma[unit : unit + 1], beta[unit : unit + 1]
            self.labels = [f"example {i}, a {label}" for i, label in enumerate(labels)]
            self.subject = f"unit {unit} of a hidden layer, for a batch of {batch} digits"
        else:
            where = np.s_[example : example + 1, :]
            self.labels = [f"unit {i}" for i in range(WIDTH)]
            self.subject = f"example {example} of {batch} digits, a {labels[example]}, in a hidden layer"
        self.x, self.dy = hidden.numpy()[where], dy.numpy()[where]
        self.gamma, self.beta = gamma, beta
