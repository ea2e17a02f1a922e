"""Does every station need its own normalizer, or are some enough?

In the tutorial's factory every station normalizes what it passes on. An MLP of 10 × 64 units learns
with batch norm at no station, at the input alone, at one hidden layer alone (the first, the fifth,
the last), at every second hidden layer, and at all of them, always before the activation. Each
network uses the fastest of three learning rates, chosen on validation data.

Half a minute on two cores. For example

    python examples/stations.py --quick
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from typing import Any

import tinybn as tb
from lab.command import main
from lab.figures import dots, panels
from lab.intervals import Interval, median_interval, written
from lab.records import Record, best, fastest, group, ratios, values, where
from lab.training import TARGETS, Config, dataset, fit, stream
from lab.verdicts import NOT_SUPPORTED, PARTLY, SUPPORTED, Claim, Experiment, Numbers, Picture

DEPTH = 10
STATIONS: dict[str, tuple[int, ...]] = {  # 0 is the input
    "none": (),
    "input": (0,),
    "first": (1,),
    "fifth": (5,),
    "last": (DEPTH,),
    "every second": tuple(range(2, DEPTH + 1, 2)),
    "all": tuple(range(1, DEPTH + 1)),
}
"""The hidden layers with batch norm."""
SOME = [name for name in STATIONS if name not in ("none", "all")]
RATES = (0.1, 0.3, 1.0)


def configurations(size: str) -> list[Record]:
    """Every choice of stations at every learning rate; quick: four of them, one rate."""
    quick = size == "quick"
    return [
        {"stations": stations, "lr": lr, "steps": {"full": 2000}.get(size, 400)}
        for stations in (("none", "fifth", "every second", "all") if quick else STATIONS)
        for lr in (RATES[1:2] if quick else RATES)
    ]


def run(config: Record) -> Record:
    """Train until the target is reached."""
    rest = {key: value for key, value in config.items() if key != "stations"}
    options = Config(**rest, hidden=(64,) * DEPTH, momentum=0.0, every=10, early=60)
    data = dataset(options.data, options.seed, options.data_dir)
    model = build(options, data, STATIONS[config["stations"]])
    target = TARGETS[options.data]
    return fit(model, data, options, stop=target).measures(target)


def build(config: Config, data: tb.data.Dataset, stations: tuple[int, ...]) -> tb.nn.Sequential:
    """An MLP with batch norm before the activations of some hidden layers, or on the input."""
    rng = stream(config.seed, "weights")
    with tb.use_backend(config.backend):
        layers: list[tb.nn.Module] = [tb.nn.BatchNorm(data.features)] if 0 in stations else []
        for i, (n, m) in enumerate(pairwise([data.features, *config.hidden]), 1):
            layers.append(tb.nn.Linear(n, m, bias=i not in stations, init="he", rng=rng))
            layers += [tb.nn.BatchNorm(m)] if i in stations else []
            layers.append(tb.nn.ReLU())
        last = tb.nn.Linear(config.hidden[-1], data.classes, init="he", rng=rng)
        return tb.nn.Sequential(*layers, last)


def arm(runs: list[Record], stations: str) -> list[Record]:
    """The runs at the learning rate that was fastest on validation data."""
    return best(where(runs, stations=stations), by=fastest)


def measure(runs: list[Record]) -> Numbers:
    """Steps to the target, and how they compare with all stations and with none."""
    found: dict[str, Interval | float] = {}
    everywhere, nowhere = arm(runs, "all"), arm(runs, "none")
    for stations in dict.fromkeys(r["stations"] for r in runs):
        chosen = arm(runs, stations)
        found[f"steps, {stations}"] = median_interval(values(chosen, "steps_to_target"))
        if stations != "all":
            found[f"{stations} to all"] = median_interval(
                ratios(chosen, everywhere, "steps_to_target")
            )
        if stations != "none":
            found[f"none to {stations}"] = median_interval(
                ratios(nowhere, chosen, "steps_to_target")
            )
        each = group(where(runs, stations=stations), ["seed"]).values()
        working = [sum(map(math.isfinite, values(rs, "steps_to_target"))) for rs in each]
        found[f"rates that work, {stations}"] = median_interval(working)
    return found


def all_needed(n: Any) -> str:
    """The rule of [some]."""
    slower = [n[f"{name} to all"].above(1) for name in SOME if f"{name} to all" in n]
    return SUPPORTED if all(slower) else PARTLY if any(slower) else NOT_SUPPORTED


def draw(runs: list[Record]) -> Any:
    """Steps to the target for each choice of stations."""
    figure, ((ax,),) = panels(1, 1, width=8)
    names = [name for name in STATIONS if where(runs, stations=name)]
    finite = [v for v in values(runs, "steps_to_target") if math.isfinite(v)]
    never = 1.5 * max(finite)
    for i, name in enumerate(names):
        steps = [min(v, never) for v in values(arm(runs, name), "steps_to_target")]
        dots(ax, [i], [steps], "batch" if STATIONS[name] else "none", bar=0.25)
    ax.axhline(never, color="0.6", lw=0.8)
    ax.annotate("never", (len(names) - 0.6, never), xytext=(0, 2), textcoords="offset points",
                ha="right", fontsize=8, color="0.4")  # fmt: skip
    ax.set(yscale="log", ylim=(10, 1.4 * never))
    ax.set_xticks(range(len(names)), names)
    ax.set(xlabel=f"stations with batch norm (hidden layers 1 to {DEPTH}, or the input)")
    ax.set_ylabel(f"steps to {TARGETS[runs[0]['data']]:.0%} test accuracy")
    return figure


EXPERIMENT = Experiment(
    name="stations",
    text=__doc__,
    ran="ReLU networks of 10 × 64 units on digits, up to 400 steps of 64, three learning rates "
    "each, with batch norm at seven choices of stations.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "stations.some",
            decide=all_needed,
            finding=lambda n: (
                f"Steps to the target: {n['steps, none'].text('.0f')} without batch norm, "
                f"{n['steps, fifth'].text('.0f')} with it at the fifth of ten layers, "
                f"{n['steps, every second'].text('.0f')} at every second, "
                f"{n['steps, all'].text('.0f')} at all."
            ),
            answer=lambda n: (
                "A single normalizer in the middle makes training "
                f"{n['none to fifth'].text('.2g')} times faster than none, and one at every hidden "
                f"layer {n['none to all'].text('.2g')} times. Of the three learning rates, "
                f"{n['rates that work, none'].middle:g} works without batch norm, "
                f"{n['rates that work, fifth'].middle:g} with one normalizer, and "
                f"{n['rates that work, all'].middle:g} with all."
            ),
        ),
    ),
    pictures={
        "stations": Picture(
            draw,
            title=lambda n: (
                f"Steps to 95 %: {written(n['steps, none'].middle, '.0f')} without batch norm, "
                f"{written(n['steps, fifth'].middle, '.0f')} with one, "
                f"{written(n['steps, all'].middle, '.0f')} with all"
            ),
            caption="Steps to 95 % test accuracy at the learning rate that was fastest on "
            "validation data; a point per seed, a bar at the median. Black: no norm.",
        )
    },
    keys=("stations", "lr"),
    measures={"steps_to_target": ".0f", "test_accuracy": ".1%"},
    # From 6 other seeds in the quick size (medians 1.1 and 3.8; single seeds 0.6 to 5.2) and 4 in
    # the default size (1.6 and 1.4).
    bands={"every second to all": (0.4, 4), "fifth to all": (0.8, 9)},
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
