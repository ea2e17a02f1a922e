"""Does batch norm make it unnecessary to scale the input?

The tutorial's question 4: batch norm is like feature scaling. The measurements of 178 wines and 569
tumours have scales that differ by factors of up to 600 000. MLPs of 2 × 32 units learn from raw and
from standardised numbers: without norm, with layer norm or batch norm in the hidden layers, and
with batch norm on the input alone. Each trains for 500 steps with batches of 32, at the best of
five learning rates from 0.0001 to 1. Best means the best mean accuracy on the validation data: one
seed that failed shows in a mean, and a median can hide it. The condition number of the input's
covariance says how hard it is to learn from the features by gradient descent.

About a minute on two cores. For example

    python examples/feature_scaling.py --quick
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import numpy as np

import tinybn as tb
from lab.command import main
from lab.figures import MARKS, STYLES, panels, percent
from lab.intervals import mean_interval
from lab.records import Record, best, differences, group, spread, values, where
from lab.training import Config, fit, stream
from lab.verdicts import (
    NOT_SUPPORTED,
    PARTLY,
    SUPPORTED,
    Claim,
    Experiment,
    Numbers,
    Picture,
)

DATA = {"wine": "wine", "breast_cancer": "breast cancer"}
FEATURES = ("raw", "standardised")
RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
LOWER = (1e-8, 1e-7, 1e-6, 1e-5)
"""For --full: where a network without norm could still learn from numbers in the thousands."""
NETS: dict[str, tuple[str, str]] = {
    "no norm": ("none", "none"),
    "layer norm, hidden": ("none", "layer"),
    "batch norm, hidden": ("none", "batch"),
    "batch norm, input": ("batch", "none"),
}
"""Norm on the input, norm on the hidden layers."""
ENOUGH = 0.03
"""Accuracies that differ by less count as equal: it is one of 44 wines."""


def configurations(size: str) -> list[Record]:
    """Every net, with raw and with standardised features, at every learning rate; a quick look
    takes fewer rates and steps.
    """
    rates = {"quick": RATES[1:4], "default": RATES, "full": LOWER + RATES}[size]
    steps = 300 if size == "quick" else 500
    return [
        {"data": data, "features": features, "net": net, "lr": lr, "steps": steps}
        for data in DATA
        for features in FEATURES
        for net in NETS
        for lr in rates
    ]


def run(config: Record) -> Record:
    """Train; how it ends, and the condition number of the features."""
    net, features = NETS[config["net"]], config["features"]
    rest = {key: value for key, value in config.items() if key not in ("net", "features")}
    options = Config(
        **rest,
        norm=net[1],
        hidden=(32, 32),
        batch_size=32,
        momentum=0.0,
        every=config["steps"],
    )
    data = tb.data.load(
        options.data,
        seed=options.seed,
        validation=0.25,
        test=0.25,
        scale=features == "standardised",
    )
    with tb.use_backend(options.backend):
        model: tb.nn.Module = tb.nn.MLP(
            [data.features, *options.hidden, data.classes],
            net[1],
            init="he",
            rng=stream(options.seed, "weights"),
        )
        if net[0] == "batch":
            model = tb.nn.Sequential(tb.nn.BatchNorm(data.features), model)
    done = fit(model, data, options)
    condition = float(np.linalg.cond(np.cov(data.train.x.astype(np.float64).T)))
    return {
        "validation_accuracy": done.accuracy[-1],
        "test_accuracy": done.test_accuracy,
        "loss": done.loss[-1],
        "diverged_at": done.diverged_at,
        "condition": condition,
    }


def chosen(runs: list[Record], data: str, features: str, net: str) -> list[Record]:
    """The runs at the learning rate with the best mean validation accuracy."""
    return best(where(runs, data=data, features=features, net=net))


def measure(runs: list[Record]) -> Numbers:
    """What raw features cost each net, and how far each is behind standardising."""
    found: dict[str, Any] = {}
    for data in DATA:
        scaled = chosen(runs, data, "standardised", "no norm")
        for net in NETS:
            raw, own = (chosen(runs, data, features, net) for features in FEATURES)
            cost = differences(own, raw, "test_accuracy")
            found[f"raw, {net}: {data}"] = mean_interval(values(raw, "test_accuracy"))
            found[f"raw costs, {net}: {data}"] = mean_interval(cost)
        raw = chosen(runs, data, "raw", "batch norm, input")
        behind = differences(scaled, raw, "test_accuracy")
        found[f"behind scaling, batch norm, input: {data}"] = mean_interval(behind)
        found[f"standardised, no norm: {data}"] = mean_interval(values(scaled, "test_accuracy"))
    return found


def on_the_input(n: Numbers) -> str:
    """The rule of [input]."""
    does = [
        n[f"raw costs, no norm: {data}"].above(ENOUGH)
        and n[f"behind scaling, batch norm, input: {data}"].below(ENOUGH)
        for data in DATA
    ]
    return SUPPORTED if all(does) else PARTLY if any(does) else NOT_SUPPORTED


def in_hidden_layers(n: Numbers) -> str:
    """The rule of [hidden]."""
    enough = [n[f"raw costs, batch norm, hidden: {data}"].below(ENOUGH) for data in DATA]
    return SUPPORTED if all(enough) else PARTLY if any(enough) else NOT_SUPPORTED


def points(n: Numbers, name: str) -> str:
    """As in "0.5 (-0.6 to 1.6) points (wine) and …"."""
    said = []
    for data, words in DATA.items():
        middle, low, high = (100 * v + 0.0 for v in n[f"{name}: {data}"])
        said.append(f"{middle:.1f} ({low:.1f} to {high:.1f}) points ({words})")
    return " and ".join(said)


def accuracies(n: Numbers, name: str) -> str:
    """As in "97.0 % (wine) and …"."""
    return " and ".join(
        f"{100 * n[f'{name}: {data}'].middle:.1f} % ({words})" for data, words in DATA.items()
    )


def draw(runs: list[Record]) -> Any:
    """A row per net: test accuracy with raw (filled) and standardised (hollow) features."""
    figure, (axes,) = panels(1, len(DATA), width=10, height=4.2)
    for ax, (data, words) in zip(axes, DATA.items(), strict=True):
        for row, (net, norms) in enumerate(NETS.items()):
            norm = next((n for n in norms if n != "none"), "none")
            colour = STYLES[norm][0]
            for offset, features in ((-0.2, "raw"), (0.2, "standardised")):
                arm = values(chosen(runs, data, features, net), "test_accuracy")
                hollow = {"mfc": "white"} if features == "standardised" else {}
                y = row + offset + np.linspace(-0.12, 0.12, len(arm))
                ax.plot(arm, y, MARKS[norm], color=colour, ms=4, alpha=0.5, lw=0, **hollow)
                mean = statistics.fmean(arm)
                ax.plot(
                    [mean] * 2, [row + offset - 0.18, row + offset + 0.18], color=colour, lw=2.5
                )
        condition = {
            features: f"10$^{{{np.log10(spread(values(rs, 'condition')).median):.0f}}}$"
            for (features,), rs in group(where(runs, data=data), ["features"]).items()
        }
        ax.set_title(
            f"{words}: condition number {condition['raw']} raw, "
            f"{condition['standardised']} standardised",
            fontsize=9,
        )
        ax.set(xlabel="test accuracy", yticks=range(len(NETS)))
        ax.set_yticklabels([*NETS] if ax is axes[0] else [])
        ax.invert_yaxis()
        percent(ax.xaxis)
    for label, fill in (("raw features", "0.4"), ("standardised features", "white")):
        axes[1].plot([], [], "o", color="0.4", mfc=fill, ms=5, label=label)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


EXPERIMENT = Experiment(
    name="feature_scaling",
    text=__doc__,
    ran="MLPs of 2 × 32 units on wine and breast cancer (half of the data to learn from, a quarter "
    "to test), SGD with batches of 32, 500 steps, five learning rates from 0.0001 to 1.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "feature_scaling.input",
            decide=on_the_input,
            finding=lambda n: (
                "Without norm, raw features cost "
                f"{points(n, 'raw costs, no norm')} of test accuracy; with batch norm on the "
                "input, raw features are behind standardised ones by "
                f"{points(n, 'behind scaling, batch norm, input')}."
            ),
            answer=lambda n: (
                "Batch norm on the raw input does what feature scaling does: it standardises each "
                "feature, with the mean and the variance of the batch instead of those of the "
                "training data. Raw features then get to "
                f"{accuracies(n, 'raw, batch norm, input')}, standardised features without any "
                f"norm to {accuracies(n, 'standardised, no norm')}."
            ),
        ),
        Claim(
            "feature_scaling.hidden",
            decide=in_hidden_layers,
            finding=lambda n: (
                "With batch norm in the hidden layers alone, raw features cost "
                f"{points(n, 'raw costs, batch norm, hidden')}: the first layer still has to learn "
                "from numbers of very different size."
            ),
        ),
    ),
    pictures={
        "feature_scaling": Picture(
            draw,
            title=lambda n: "Batch norm replaces feature scaling on the input, not behind it",
            caption="Test accuracy at the learning rate with the best mean validation accuracy: a "
            "point per seed, a bar at the mean. Filled: raw features; hollow: standardised ones.",
        )
    },
    keys=("data", "features", "net", "lr"),
    measures={"test_accuracy": ".1%", "validation_accuracy": ".1%", "loss": ".3g"},
    # From 3 other seeds in the quick size (0.37, 0.01, -0.01, 0.30) and 10 in the default size
    # (0.32, 0.00, and 0.20 with batch norm on the hidden layers); single seeds: 0.2 to 0.6.
    bands={
        "raw costs, no norm: wine": (0.1, 0.75),
        "behind scaling, batch norm, input: wine": (-0.08, 0.08),
        "behind scaling, batch norm, input: breast_cancer": (-0.06, 0.06),
        "raw costs, batch norm, hidden: wine": (0.05, 0.65),
    },
    data=(),
    seeds={"quick": 3, "default": 20, "full": 40},
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
