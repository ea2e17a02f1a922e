"""Does batch norm prevent memorizing?

A network that memorizes does well on what it has seen and badly on what it has not. MLPs of 3 × 64
units learn 640 digits, for 100 epochs, without norm, with batch norm and with layer norm. First the
labels are right: how large is the gap between training and test accuracy? Then 20 % or 40 % of the
labels are replaced by wrong ones, which can only be learned by heart (Zhang et al. 2017,
1611.03530): how many of them does a network learn? Each uses the best of three learning rates, by
the validation accuracy at the end; validation and test labels are always right.

A minute on two cores. For example

    python examples/memorizing.py --quick
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import tinybn as tb
from lab.command import main
from lab.figures import dots, panels, percent
from lab.intervals import Interval, mean_interval
from lab.records import Record, best, differences, values, where
from lab.training import Config, accuracy, build, dataset, fit, stream
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

NORMS = ("none", "batch", "layer")
WRONG = (0.0, 0.2, 0.4)
"""The fraction of labels that are replaced by wrong ones."""
RATES = (0.03, 0.1, 0.3)
EXAMPLES = 640
FEWER = 0.05
"""A difference between two shares of wrong labels that counts."""


def configurations(size: str) -> list[Record]:
    """Every norm, share of wrong labels and learning rate; fewer for a quick look."""
    steps = {"quick": 500, "default": 1000, "full": 4000}[size]
    quick = size == "quick"
    return [
        {"norm": norm, "wrong": wrong, "lr": lr, "steps": steps}
        for norm in NORMS
        for wrong in (WRONG[::2] if quick else WRONG)
        for lr in (RATES[-1:] if quick else RATES)
    ]


def run(config: Record) -> Record:
    """Train; accuracy on all data sets, and the share of wrong labels that was learned."""
    rest = {key: value for key, value in config.items() if key != "wrong"}
    options = Config(**rest, momentum=0.0, every=50)
    data = dataset(options.data, options.seed, options.data_dir)
    data, wrong = mislabelled(data, config["wrong"], stream(options.seed, "noise"))
    model = build(options)
    done = fit(model, data, options)
    by_heart = tb.data.Part(data.train.x[wrong], data.train.y[wrong])
    train = accuracy(model, data.train, options.backend)
    earliest = int(np.argmax(done.accuracy))
    return {
        "train_accuracy": train,
        "validation_accuracy": done.accuracy[-1],
        "test_accuracy": done.test_accuracy,
        "gap": train - done.test_accuracy,
        "stopped": done.test[earliest],
        "learned": accuracy(model, by_heart, options.backend) if len(by_heart.y) else 0.0,
        "diverged_at": done.diverged_at,
    }


def mislabelled(
    data: tb.data.Dataset, share: float, rng: np.random.Generator
) -> tuple[tb.data.Dataset, np.ndarray]:
    """The first examples, the first of which have wrong labels, and the indices of these."""
    x, right = data.train.x[:EXAMPLES], data.train.y[:EXAMPLES]
    wrong = np.arange(round(share * len(right)))  # the data are shuffled already
    labels = right.copy()
    others = rng.integers(1, data.classes, len(wrong))
    labels[wrong] = (right[wrong] + others) % data.classes
    return data._replace(train=tb.data.Part(x, labels)), wrong


def arm(runs: list[Record], norm: str, wrong: float) -> list[Record]:
    """The runs at the learning rate with the best validation accuracy."""
    return best(where(runs, norm=norm, wrong=wrong))


def measure(runs: list[Record]) -> Numbers:
    """Gaps, test accuracies and learned wrong labels, and how batch norm differs from none."""
    found: dict[str, Interval | float] = {}
    for wrong in sorted({r["wrong"] for r in runs}):
        chosen = {norm: arm(runs, norm, wrong) for norm in NORMS}
        share = f"{wrong:.0%} wrong"
        for norm, rs in chosen.items():
            for name in ("gap", "test_accuracy", "stopped", "learned"):
                found[f"{name}, {norm}, {share}"] = mean_interval(values(rs, name))
        for name in ("gap", "test_accuracy", "learned"):
            found[f"{name}, batch less none, {share}"] = mean_interval(
                differences(chosen["batch"], chosen["none"], name)
            )
    right = {norm: values(arm(runs, norm, 0.0), "gap") for norm in ("none", "batch")}
    found["gap, batch less half of none"] = mean_interval(
        [b - a / 2 for a, b in zip(right["none"], right["batch"], strict=True)]
    )
    for norm in NORMS:
        fast = where(runs, norm=norm, wrong=WRONG[-1], lr=RATES[-1])
        found[f"learned, {norm}, at {RATES[-1]:g}"] = mean_interval(values(fast, "learned"))
    return found


def smaller_gap(n: Any) -> str:
    """The rule of [gap]."""
    half, smaller = n["gap, batch less half of none"], n["gap, batch less none, 0% wrong"].below(0)
    if half.below(0):
        return SUPPORTED
    if half.above(0):
        return PARTLY if smaller else NOT_SUPPORTED
    return NOT_RESOLVED


def fewer_by_heart(n: Any) -> str:
    """The rule of [labels]."""
    names = [f"learned, batch less none, {wrong:.0%} wrong" for wrong in WRONG if wrong]
    less = [n[name] for name in names if name in n]
    fewer, as_many = ([v.below(-FEWER) for v in less], [v.above(-FEWER) for v in less])
    if any(fewer):
        return SUPPORTED if all(fewer) else PARTLY
    return NOT_SUPPORTED if all(as_many) else NOT_RESOLVED


def draw(runs: list[Record]) -> Any:
    """For each share of wrong labels: how many were learned, the gap, and test accuracy."""
    figure, (axes,) = panels(1, 3, width=11, height=3.8)
    shares = sorted({r["wrong"] for r in runs})
    panel = {
        "learned": "wrong labels learned by heart",
        "gap": "training less test accuracy",
        "test_accuracy": "test accuracy",
    }
    for ax, (name, what) in zip(axes, panel.items(), strict=True):
        shown = [s for s in shares if s or name != "learned"]
        for norm, shift in zip(NORMS, (-0.25, 0.0, 0.25), strict=True):
            samples = [values(arm(runs, norm, wrong), name) for wrong in shown]
            dots(ax, [i + shift for i in range(len(shown))], samples, norm, bar=0.1)
        ax.set_xticks(range(len(shown)), [f"{s:.0%}" for s in shown])
        ax.set(xlabel="wrong labels in training", ylabel=what)
        percent(ax.yaxis)
    axes[0].set_ylim(0, 1.04)
    axes[1].axhline(0, color="0.6", lw=0.8)
    axes[2].set_ylim(0, 1.04)
    axes[1].legend(frameon=False, fontsize=8)
    return figure


def percentage(value: Interval) -> str:
    """As in "83 % (80 to 86)"."""
    clipped = (min(max(v, 0.0), 1.0) for v in value)  # Student's t knows no 100 %
    middle, low, high = (f"{100 * v + 0.0:.0f}" for v in clipped)
    return f"{middle} % ({low} to {high})"


def points(value: Interval) -> str:
    """As in "-0.3 (-1.1 to 0.4)", in points of accuracy."""
    return Interval(*(100 * v for v in value)).text(".1f")


EXPERIMENT = Experiment(
    name="memorizing",
    text=__doc__,
    ran="ReLU networks of 3 × 64 units, 640 digits, 1000 steps of 64 at three learning rates; 0, "
    "20 or 40 % of the training labels replaced by wrong ones.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "memorizing.gap",
            decide=smaller_gap,
            finding=lambda n: (
                "From 640 rightly labelled digits, the gap between training and test accuracy is "
                f"{points(n['gap, none, 0% wrong'])} points without norm and "
                f"{points(n['gap, batch, 0% wrong'])} with batch norm."
            ),
        ),
        Claim(
            "memorizing.labels",
            decide=fewer_by_heart,
            finding=lambda n: (
                "With 40 % wrong labels, batch norm learns "
                f"{percentage(n['learned, batch, 40% wrong'])} of them by heart, layer norm "
                f"{percentage(n['learned, layer, 40% wrong'])}, and no norm "
                f"{percentage(n['learned, none, 40% wrong'])}."
            ),
            answer=lambda n: (
                "Batch norm learns faster, and that goes for wrong labels as well; at a learning "
                f"rate of {RATES[-1]:g}, no norm learns "
                f"{percentage(n[f'learned, none, at {RATES[-1]:g}'])} of them, too. Test accuracy "
                "in the end is "
                f"{percentage(n['test_accuracy, batch, 40% wrong'])} with batch norm and "
                f"{percentage(n['test_accuracy, none, 40% wrong'])} without. Training that stops "
                "at the best validation accuracy gets to "
                f"{percentage(n['stopped, batch, 40% wrong'])} and "
                f"{percentage(n['stopped, none, 40% wrong'])}."
            ),
        ),
    ),
    pictures={
        "memorizing": Picture(
            draw,
            title=lambda n: (
                f"Batch norm learns {100 * n['learned, batch, 40% wrong'].middle:.0f} % of the "
                "wrong labels by heart"
            ),
            caption="After 1000 steps, at the learning rate with the best validation accuracy; a "
            "point per seed, a bar at the median.",
        )
    },
    keys=("norm", "wrong", "lr"),
    measures={
        "train_accuracy": ".1%",
        "test_accuracy": ".1%",
        "gap": ".3f",
        "learned": ".1%",
        "stopped": ".1%",
    },
    # From 6 other seeds in the quick size (0.56, 0.99, -0.004) and 3 in the default size, with
    # more steps (0.81, 1.00, -0.011).
    bands={
        "learned, batch less none, 40% wrong": (0.2, 1),
        "learned, batch, 40% wrong": (0.8, 1),
        "gap, batch less none, 0% wrong": (-0.04, 0.03),
    },
    seeds={"quick": 2, "default": 6, "full": 16},
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
