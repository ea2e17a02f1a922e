"""Is batch norm a mild regulariser?

The tutorial's benefit 4: noise in the batch's statistics keeps a network from memorising its
examples. An MLP of 2 × 64 units learns from 150 digits and is tested on all the others. SGD uses
batches of 48 in every arm. The arms differ in how many examples share their statistics: 4, 16 or
all 48 (ghost batch norm: Hoffer et al. 2017). The smaller the group, the noisier its statistics, so
if noise helps (Luo et al. 2018), smaller groups are better. There is no such noise without norm or
with layer norm. Learning rates are chosen on the validation data.

Two questions are kept apart: does the noise help (groups of 16 against the whole batch), and does
batch norm help (the whole batch against no norm)? Both are asked again with 1000 images of
Fashion-MNIST, if Debian's package dataset-fashion-mnist is installed.

About two minutes on two cores. For example

    python examples/regularizer.py --quick
"""

from __future__ import annotations

import functools
import statistics
import sys
from typing import Any

import numpy as np

import tinybn as tb
from lab.command import main
from lab.figures import MARKS, NAMES, STYLES, panels, percent
from lab.intervals import Interval, mean_interval
from lab.records import Record, best, differences, pairs, values, where
from lab.training import Config, dataset, fit, stream
from lab.verdicts import (
    NOT_RESOLVED,
    NOT_SUPPORTED,
    PARTLY,
    SUPPORTED,
    Claim,
    Experiment,
    Numbers,
    Picture,
)
from tinybn.data import FASHION_FOLDER

BATCH = 48
EXAMPLES = {"digits": 150, "fashion": 1000}
RATES = {"digits": (0.1, 0.3, 1.0), "fashion": (0.03, 0.1, 0.3)}
WHOLE, NOISY = "batch, group 48", "batch, group 16"
ARMS = ("none", "layer", "batch, group 4", NOISY, WHOLE)
HALF_A_POINT = 0.005
TENTH = 0.1
"""Of accuracy, and of the test loss: less is no effect worth a name."""
INSTALL = "sudo apt-get install dataset-fashion-mnist"


def has_fashion() -> bool:
    """Whether Fashion-MNIST is installed."""
    return FASHION_FOLDER.is_dir()


class GhostNorm(tb.nn.Module):
    """Batch norm of each group of a batch by its own statistics.

    x of shape (groups · group, C) becomes (group, groups · C), so that each group has its own
    channels in one batch norm. The running statistics are then averaged over the groups.
    """

    def __init__(self, width: int, group: int) -> None:
        self.groups = BATCH // group
        self.inner = tb.nn.BatchNorm(self.groups * width, affine=False)
        self.gamma = tb.tensor(np.ones(width, np.float32), requires_grad=True)
        self.beta = tb.tensor(np.zeros(width, np.float32), requires_grad=True)

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        if self.training:
            wide = x.reshape((x.shape[0] // self.groups, -1))
            return self.inner(wide).reshape(x.shape) * self.gamma + self.beta
        mean, var = (
            statistics.data.reshape(self.groups, -1).mean(axis=0)
            for statistics in (self.inner.running_mean, self.inner.running_var)
            if statistics is not None
        )
        return tb.ops.batch_norm(x, self.gamma, self.beta, mean=mean, var=var, eps=self.inner.eps)


def configurations(size: str) -> list[Record]:
    """Every arm at every learning rate, on digits and, where it is installed, on Fashion-MNIST;
    quick: digits, and one rate.
    """
    steps = {"quick": 200, "default": 600, "full": 2000}[size]
    names = ["digits", *(["fashion"] if has_fashion() and size != "quick" else [])]
    return [
        {"data": data, "arm": arm, "lr": lr, "steps": steps}
        for data in names
        for arm in ARMS
        if data == "digits" or arm in ("none", NOISY, WHOLE)
        for lr in (RATES[data][1:2] if size == "quick" else RATES[data])
    ]


def run(config: Record) -> Record:
    """Train on few examples; measure accuracy and loss on them and on data not seen."""
    norm, _, group = config["arm"].partition(", group ")
    rest = {key: value for key, value in config.items() if key != "arm"}
    options = Config(
        **rest, norm=norm, hidden=(64, 64), batch_size=BATCH, momentum=0.0, every=config["steps"]
    )
    data = few(options.data, options.seed)
    with tb.use_backend(options.backend):
        model = tb.nn.MLP(
            [data.features, *options.hidden, data.classes],
            (lambda width: GhostNorm(width, int(group))) if group else norm,
            init="he",
            rng=stream(options.seed, "weights"),
        )
    done = fit(model, data, options)
    train_accuracy, train_loss = evaluate(model, data.train, options.backend)
    test_accuracy, test_loss = evaluate(model, data.test, options.backend)
    return {
        "train_accuracy": train_accuracy,
        "train_loss": train_loss,
        "validation_accuracy": done.accuracy[-1],
        "test_accuracy": test_accuracy,
        "test_loss": test_loss,
        "gap": train_accuracy - test_accuracy,
        "diverged_at": done.diverged_at,
    }


def evaluate(model: tb.nn.Module, part: tb.data.Part, backend: str) -> tuple[float, float]:
    """Accuracy and loss in evaluation mode."""
    model.eval()
    with tb.no_grad():
        scores = model(tb.tensor(part.x, backend=backend))
        loss = tb.ops.cross_entropy(scores, part.y).item()
    model.train()
    return float((scores.numpy().argmax(axis=1) == part.y).mean()), loss


def few(name: str, seed: int) -> tb.data.Dataset:
    """A few examples for training; the digits that remain are for testing.

    Fashion-MNIST is large, so it is read and split once, and the seed draws the training examples.
    """
    n = EXAMPLES[name]
    if name == "fashion":
        data = fashion()
        order = stream(seed, "noise").permutation(len(data.train.y))[:n]
        return data._replace(train=tb.data.Part(data.train.x[order], data.train.y[order]))
    data = dataset(name, seed)
    rest = zip(data.test, data.train, strict=True)
    return data._replace(
        train=tb.data.Part(data.train.x[:n], data.train.y[:n]),
        test=tb.data.Part(*(np.concatenate([a, b[n:]]) for a, b in rest)),
    )


@functools.cache
def fashion() -> tb.data.Dataset:
    """Fashion-MNIST, read once in each process."""
    return dataset("fashion", 0)


def chosen(runs: list[Record], arm: str, data: str = "digits") -> list[Record]:
    """The runs at the learning rate with the best mean validation accuracy."""
    return best(where(runs, data=data, arm=arm))


def saved(runs: list[Record], others: list[Record]) -> Interval:
    """By which part the test loss is lower than that of the others, seed by seed: the mean
    difference divided by the others' mean.
    """
    mean = statistics.fmean(values(others, "test_loss"))
    return mean_interval([(b - a) / mean for a, b in pairs(runs, others, "test_loss")])


def measure(runs: list[Record]) -> Numbers:
    """Each arm's results, and the two contrasts, for each data set."""
    found: dict[str, Any] = {}
    for data in dict.fromkeys(r["data"] for r in runs):
        for name, arm, other in (("noise", NOISY, WHOLE), ("norm", WHOLE, "none")):
            first, second = chosen(runs, arm, data), chosen(runs, other, data)
            gain = mean_interval(differences(first, second, "test_accuracy"))
            found[f"{name}, accuracy gained: {data}"] = gain
            found[f"{name}, test loss saved: {data}"] = saved(first, second)
        for arm in dict.fromkeys(r["arm"] for r in where(runs, data=data)):
            rs = chosen(runs, arm, data)
            for name in ("test_accuracy", "test_loss", "train_accuracy", "train_loss", "gap"):
                said = name.replace("_", " ")
                found[f"{said}, {arm}: {data}"] = mean_interval(values(rs, name))
            for name in ("test_accuracy", "test_loss"):
                ahead = differences(rs, chosen(runs, WHOLE, data), name)
                said = name.replace("_", " ")
                found[f"{said} less the whole batch's, {arm}: {data}"] = mean_interval(ahead)
    return found


def contrast(n: Numbers, name: str, data: str = "digits") -> str:
    """The rule of [noise] and of [norm]."""
    gained = n[f"{name}, accuracy gained: {data}"], n[f"{name}, test loss saved: {data}"]
    limits = HALF_A_POINT, TENTH
    if any(v.above(limit) for v, limit in zip(gained, limits, strict=True)):
        return SUPPORTED
    below = all(v.below(limit) for v, limit in zip(gained, limits, strict=True))
    return NOT_SUPPORTED if below else NOT_RESOLVED


def as_on_digits(n: Numbers) -> str:
    """The rule of [fashion]."""
    if "noise, accuracy gained: fashion" not in n:
        return NOT_RESOLVED
    both = [[contrast(n, name, data) for data in EXAMPLES] for name in ("noise", "norm")]
    if NOT_RESOLVED in [*both[0], *both[1]]:
        return NOT_RESOLVED
    same = [a == b for a, b in both]
    return SUPPORTED if all(same) else PARTLY if any(same) else NOT_SUPPORTED


def told(n: Numbers, name: str, data: str = "digits") -> str:
    """As in "+0.2 (+0.1 to +0.4) points of test accuracy and +1 (-2 to +3) % of test loss"."""
    points = "{:+.1f} ({:+.1f} to {:+.1f})".format(
        *(100 * v + 0.0 for v in n[f"{name}, accuracy gained: {data}"])
    )
    middle, low, high = (-100 * v + 0.0 for v in n[f"{name}, test loss saved: {data}"])
    loss = f"{middle:+.0f} ({high:+.0f} to {low:+.0f})"
    return f"test accuracy by {points} points and the test loss by {loss} %"


def on_fashion(n: Numbers) -> str:
    """The finding on Fashion-MNIST."""
    if "noise, accuracy gained: fashion" not in n:
        return f"Not run: Fashion-MNIST is not installed ({INSTALL})."
    return (
        f"On Fashion-MNIST the noise changes {told(n, 'noise', 'fashion')}; batch norm changes "
        f"{told(n, 'norm', 'fashion')}."
    )


def gaps(n: Numbers, data: str) -> str:
    """How much better the networks do on their training data, without norm and with batch norm."""
    if f"gap, none: {data}" not in n:
        return ""
    none, batch = (
        f"{n[f'train accuracy, {arm}: {data}'].middle:.1%} of their training data and are "
        f"{100 * n[f'gap, {arm}: {data}'].middle:.1f} points worse on new data"
        for arm in ("none", WHOLE)
    )
    return f"Networks without norm label {none}; those with batch norm label {batch}."


def draw(runs: list[Record]) -> Any:
    """How far each arm is from the whole batch, seed by seed; a row of panels per data set."""
    names = list(dict.fromkeys(r["data"] for r in runs))
    figure, axes = panels(len(names), 2, width=10, height=1.3 + 2.3 * len(names))
    n = measure(runs)
    for row, data in zip(axes, names, strict=True):
        arms = list(dict.fromkeys(r["arm"] for r in where(runs, data=data)))
        for ax, name in zip(row, ("test accuracy", "test loss"), strict=True):
            for y, arm in enumerate(arms):
                norm = arm.partition(",")[0]
                middle, low, high = n[f"{name} less the whole batch's, {arm}: {data}"]
                level = n[f"{name}, {arm}: {data}"].middle
                ax.plot([low, high], [y, y], color=STYLES[norm][0], lw=1.6)
                ax.plot([middle], [y], MARKS[norm], color=STYLES[norm][0], ms=6)
                ax.annotate(f"{level:.1%}" if ax is row[0] else f"{level:.3f}", (middle, y),
                            xytext=(0, 6), textcoords="offset points", ha="center",
                            fontsize=7)  # fmt: skip
            labels = [arm.replace("batch", NAMES["batch"]).replace("group", "groups of")
                      if "," in arm else NAMES[arm] for arm in arms]  # fmt: skip
            ax.axvline(0, color="0.5", lw=0.8)
            ax.set(yticks=range(len(arms)), ylim=(len(arms) - 0.5, -0.7))
            ax.set_yticklabels(labels if ax is row[0] else [])
            ax.set_xlabel(f"{name}, less that of groups of {BATCH}")
            ax.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
            what = {"digits": "150 digits", "fashion": "1000 images of Fashion-MNIST"}[data]
            ax.set_title(f"after learning from {what}", fontsize=9)
        percent(row[0].xaxis, 1)
    return figure


def title(n: Numbers) -> str:
    """What the picture shows."""
    gain = 100 * n["noise, accuracy gained: digits"].middle
    lost = 100 * n["norm, accuracy gained: digits"].middle
    return f"From 150 digits, batch norm adds {lost:+.1f} points of accuracy, its noise {gain:+.1f}"


EXPERIMENT = Experiment(
    name="regularizer",
    text=__doc__,
    ran="MLPs of 2 × 64 units, 150 digits (1000 images of Fashion-MNIST), SGD with batches of 48 "
    "in every arm, 600 steps, three learning rates.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "regularizer.noise",
            decide=lambda n: contrast(n, "noise"),
            finding=lambda n: (
                f"Statistics of groups of 16 instead of the whole batch change {told(n, 'noise')}."
            ),
        ),
        Claim(
            "regularizer.norm",
            decide=lambda n: contrast(n, "norm"),
            finding=lambda n: f"Batch norm instead of no norm changes {told(n, 'norm')}.",
            answer=lambda n: gaps(n, "digits"),
        ),
        Claim(
            "regularizer.fashion",
            decide=as_on_digits,
            finding=on_fashion,
            answer=lambda n: gaps(n, "fashion"),
        ),
    ),
    pictures={
        "regularizer": Picture(
            draw,
            title=title,
            caption="Difference to statistics of the whole batch, seed by seed: the mean and its "
            "95 % interval, at the learning rate with the best mean validation accuracy. Above "
            "the points: the mean itself. The batch of SGD is 48 in every arm.",
        )
    },
    keys=("data", "arm", "lr"),
    measures={
        "test_accuracy": ".1%",
        "test_loss": ".3g",
        "train_accuracy": ".1%",
        "train_loss": ".2g",
        "gap": ".3f",
    },
    # From 60 other seeds in the default size (0.002, 0.00, -0.005, 0.03), 3 in the quick size and
    # eight times 8 in an earlier version of it: small effects, bands around 0.
    bands={
        "noise, accuracy gained: digits": (-0.015, 0.025),
        "noise, test loss saved: digits": (-0.2, 0.2),
        "norm, accuracy gained: digits": (-0.03, 0.02),
        "norm, test loss saved: digits": (-0.35, 0.2),
    },
    data=(),
    seeds={"quick": 8, "default": 60, "full": 100},
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
