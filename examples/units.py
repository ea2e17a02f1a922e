"""Does batch norm put up with units of very different size inside the network?

The tutorial's messy ingredients, one floor up: the numbers that differ in size are not the inputs
but the units of the hidden layers. An MLP of 3 × 64 units starts from He's weights, and each hidden
unit's weights are multiplied by a factor of its own, drawn between 1/f and f, evenly on a
logarithmic scale. With f = 1 all units are alike; with f = 100 one can be 10 000 times as large as
another. Batch norm divides each unit by its own size, so at first it sees no difference:
BN(aWx) = BN(Wx). Layer norm divides all units of an example by one number, so they stay as
different as they were. Each network learns at the best of five learning rates.

Half a minute on two cores. For example

    python examples/units.py --quick
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import tinybn as tb
from lab.command import main
from lab.figures import band, crosses, dots, panels, percent
from lab.intervals import Interval, mean_interval
from lab.records import Record, best, differences, group, values, where
from lab.training import Config, build, dataset, fit, stream
from lab.verdicts import NOT_SUPPORTED, PARTLY, SUPPORTED, Claim, Experiment, Numbers, Picture

NORMS = ("none", "batch", "layer")
FACTORS = (1, 100)
MOST = FACTORS[-1]
RATES = {
    "none": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "batch": (1e-3, 1e-2, 1e-1, 1.0, 3.0),
    "layer": (1e-3, 1e-2, 1e-1, 1.0, 3.0),
}
"""Learning rates; without norm, units of very different size need small ones."""
ENOUGH = 0.02
"""Test accuracies that differ by less count as equal."""


def configurations(size: str) -> list[Record]:
    """Every norm with every factor at every learning rate; fewer for a quick look."""
    quick = size == "quick"
    return [
        {"norm": norm, "factor": factor, "lr": lr, "steps": {"full": 2000}.get(size, 400)}
        for norm in NORMS
        for factor in FACTORS
        for lr in (RATES[norm][-4:-1] if quick else RATES[norm])
    ]


def run(config: Record) -> Record:
    """Make the units differ, and train."""
    rest = {key: value for key, value in config.items() if key != "factor"}
    options = Config(**rest, momentum=0.0, every=50)
    model = build(options)
    unequal(model, config["factor"], stream(options.seed, "noise"))
    data = dataset(options.data, options.seed, options.data_dir)
    return fit(model, data, options).measures(1.0)


def unequal(model: tb.nn.MLP, factor: float, rng: np.random.Generator) -> None:
    """Multiply each hidden unit's weights by a factor of its own, between 1/factor and factor."""
    for layer in model.layers[:-1]:
        if isinstance(layer, tb.nn.Linear):
            weight = layer.weight.numpy()
            sizes = factor ** rng.uniform(-1, 1, weight.shape[1])
            scaled = (weight * sizes).astype(weight.dtype)
            layer.weight.data = tb.tensor(scaled, backend=layer.weight.backend).data


def arm(runs: list[Record], norm: str, factor: int) -> list[Record]:
    """The runs at the learning rate with the best validation accuracy."""
    return best(where(runs, norm=norm, factor=factor))


def measure(runs: list[Record]) -> Numbers:
    """Test accuracy of each norm, and what units of different size cost it."""
    found: dict[str, Interval | float] = {}
    for norm in NORMS:
        alike = arm(runs, norm, 1)
        found[f"{norm}, alike"] = mean_interval(values(alike, "test_accuracy"))
        for factor in sorted({r["factor"] for r in runs} - {1}):
            apart = arm(runs, norm, factor)
            found[f"{norm}, factor {factor}"] = mean_interval(values(apart, "test_accuracy"))
            found[f"cost, {norm}, factor {factor}"] = mean_interval(
                differences(alike, apart, "test_accuracy")
            )
    return found


def indifferent(n: Any) -> str:
    """The rule of [different]."""
    kept = n[f"cost, batch, factor {MOST}"].below(ENOUGH)
    needed = n[f"cost, none, factor {MOST}"].above(ENOUGH)
    return SUPPORTED if kept and needed else PARTLY if kept else NOT_SUPPORTED


def draw(runs: list[Record]) -> Any:
    """Accuracy by factor; then, with the largest one, over the learning rate."""
    figure, ((left, right),) = panels(1, 2)
    factors = sorted({r["factor"] for r in runs})
    for norm, shift in zip(NORMS, (-0.25, 0.0, 0.25), strict=True):
        samples = [values(arm(runs, norm, factor), "test_accuracy") for factor in factors]
        dots(left, [i + shift for i in range(len(factors))], samples, norm, bar=0.1)
        arms = group(where(runs, norm=norm, factor=MOST), ["lr"])
        rates = [lr for (lr,) in arms]
        band(right, rates, [values(rs, "test_accuracy") for rs in arms.values()], norm, mark=True)
        lost = [r for r in where(runs, norm=norm, factor=MOST) if r["diverged_at"] is not None]
        crosses(right, [r["lr"] for r in lost], values(lost, "test_accuracy"), norm)
    names = ["alike" if f == 1 else f"up to {f * f:,} : 1".replace(",", " ") for f in factors]
    left.set_xticks(range(len(factors)), names)
    left.set(xlabel="size of the units", ylabel="test accuracy, best learning rate", ylim=(0, 1.02))
    left.legend(frameon=False, loc="lower left")
    right.set(xscale="log", xlabel="learning rate", ylim=(0, 1.02))
    right.set_title(f"units up to {MOST * MOST:,} : 1".replace(",", " "), fontsize=9)
    for ax in (left, right):
        percent(ax.yaxis)
    return figure


def points(value: Interval) -> str:
    """As in "37 (21 to 53)", in points of accuracy."""
    return Interval(*(100 * v for v in value)).text(".1f")


EXPERIMENT = Experiment(
    name="units",
    text=__doc__,
    ran="ReLU networks of 3 × 64 units on digits, 400 steps of 64, five learning rates between "
    "0.00001 and 3; the units' weights are multiplied by factors between 1/f and f, f = 1 or 100.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "units.different",
            decide=indifferent,
            finding=lambda n: (
                "Units whose sizes differ by up to 10 000 : 1 cost "
                f"{points(n[f'cost, batch, factor {MOST}'])} points of test accuracy with batch "
                f"norm, {points(n[f'cost, layer, factor {MOST}'])} with layer norm and "
                f"{points(n[f'cost, none, factor {MOST}'])} without norm."
            ),
            answer=lambda n: (
                "Batch norm divides each unit by its own size, so a unit that is 100 times too "
                "large is no different from the others. Layer norm divides all units of an "
                "example by the same number, so the largest of them drown the rest."
            ),
        ),
    ),
    pictures={
        "units": Picture(
            draw,
            title=lambda n: (
                "Units up to 10 000 : 1 cost "
                f"{100 * n[f'cost, batch, factor {MOST}'].middle:.1f} points with batch norm, "
                f"{100 * n[f'cost, none, factor {MOST}'].middle:.0f} without"
            ),
            caption="Left: test accuracy after 400 steps at the best learning rate; a point per "
            "seed, a bar at the median. Right: over the learning rate; lines are medians, bands "
            "ranges over seeds, × diverged runs.",
        )
    },
    keys=("norm", "factor", "lr"),
    measures={"test_accuracy": ".1%", "validation_accuracy": ".1%", "loss": ".3g"},
    # From 6 other seeds in the quick size (means 0.004, 0.88 and 0.13), where no norm has too large
    # learning rates, and 4 in the default size (0.006, 0.50 and 0.15).
    bands={
        "cost, batch, factor 100": (-0.04, 0.04),
        "cost, none, factor 100": (0.1, 1),
        "cost, layer, factor 100": (-0.02, 0.5),
    },
    seeds={"quick": 2, "default": 8, "full": 10},
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
