"""Does a network train 3 to 5 times faster with batch norm?

The tutorial's experiment 1. Six networks learn with and without batch norm, from the same weights
and on the same batches, with plain SGD at seven learning rates. Speed is the number of training
steps until 95 % test accuracy (85 % on Fashion-MNIST). It is compared at the same learning rate
(0.1), and best against best, where each network uses the learning rate that was fastest on the
validation data.

Steps are not time. What a step costs is measured apart: networks with and without batch norm take
compiled steps in turns, in one process, at two widths. The ratio of steps divided by the ratio of
costs is the ratio of times.

About three minutes on two cores. For example

    python examples/with_and_without.py --quick
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from typing import Any

import tinybn as tb
from lab.command import main
from lab.figures import MARKS, NAMES, OTHERS, STYLES, panels, plain
from lab.intervals import Interval, median_interval
from lab.records import Record, best, fastest, ratios, spread, values, where
from lab.training import TARGETS, Config, build, dataset, train
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

SAME = 0.1
RATES = (0.01, 0.03, SAME, 0.3, 1.0, 3.0, 10.0)
NORMS = ("none", "batch")
NETS: dict[str, Record] = {
    "ReLU-3 He": {"hidden": [64] * 3, "activation": "relu", "init": "he"},
    "ReLU-10 He": {"hidden": [64] * 10, "activation": "relu", "init": "he"},
    "tanh-5 Xavier": {"hidden": [64] * 5, "activation": "tanh", "init": "xavier"},
    "sigmoid-3 Xavier": {"hidden": [64] * 3, "activation": "sigmoid", "init": "xavier"},
    "sigmoid-3 N(0, 0.1²)": {"hidden": [64] * 3, "activation": "sigmoid", "init": 0.1},
    "ReLU-3 N(0, 0.01²)": {"hidden": [64] * 3, "activation": "relu", "init": 0.01},
}
FAST = 3
"""The smaller of the tutorial's factors."""


WIDTHS = (64, 512)
COST = "cost of a step"


def configurations(size: str) -> list[Record]:
    """Every net with every norm at every learning rate, and what a step costs; quick: two nets and
    two rates.
    """
    steps = {"quick": 300, "default": 2000, "full": 5000}[size]
    nets = ("ReLU-3 He", "ReLU-3 N(0, 0.01²)") if size == "quick" else tuple(NETS)
    rates = (SAME, 0.3) if size == "quick" else RATES
    arms: list[Record] = [
        {"net": net, "norm": norm, "lr": lr, "steps": steps}
        for net in nets
        for lr in rates
        for norm in NORMS
    ]
    rounds = 20 if size == "quick" else 200
    return arms + [{"net": COST, "width": width, "rounds": rounds} for width in WIDTHS]


def run(config: Record) -> Record:
    """Train until the target is reached, or measure what a step costs."""
    if config["net"] == COST:
        return cost(config)
    net = NETS[config["net"]]
    rest = {key: value for key, value in config.items() if key != "net"}
    options = Config(**rest, **net, momentum=0.0, every=10, early=100)
    target = TARGETS[options.data]
    return train(options, stop=target)[0].measures(target)


def cost(config: Record) -> Record:
    """Milliseconds of a compiled step with and without batch norm, taken in turns: medians."""
    own = ("net", "width", "rounds")
    rest = {key: value for key, value in config.items() if key not in own}
    steps = {}
    for norm in NORMS:
        options = Config(**rest, norm=norm, hidden=[config["width"]] * 3)
        steps[norm] = compiled(options)
    taken: dict[str, list[float]] = {norm: [] for norm in NORMS}
    for number in range(config["rounds"]):
        for norm in NORMS if number % 2 else NORMS[::-1]:
            start = time.perf_counter()
            steps[norm]().item()
            taken[norm].append(1000 * (time.perf_counter() - start))
    typical = {norm: statistics.median(times) for norm, times in taken.items()}
    return {
        **{f"ms_per_step_{norm}": value for norm, value in typical.items()},
        "ms_ratio": typical["batch"] / typical["none"],
    }


def compiled(options: Config) -> Any:
    """A training step on one batch, which has been recorded and compiled."""
    model = build(options)
    data = dataset(options.data, options.seed, options.data_dir).train
    x = tb.tensor(data.x[: options.batch_size], backend=options.backend)
    labels = data.y[: options.batch_size]
    optimizer = tb.optim.SGD(model.parameters(), 0.01)

    @tb.compile
    def step() -> tb.Tensor:
        optimizer.zero_grad()
        loss = tb.ops.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        step()
    return step


def nets_of(runs: list[Record]) -> list[str]:
    """The networks, without the measurements of cost."""
    return [net for net in dict.fromkeys(r["net"] for r in runs) if net != COST]


def chosen(runs: list[Record], net: str, norm: str) -> list[Record]:
    """The runs at the learning rate that is fastest on the validation data."""
    return best(where(runs, net=net, norm=norm), fastest)


def measure(runs: list[Record]) -> Numbers:
    """Ratios of steps, what a step costs, and the ratios of times that follow."""
    found: dict[str, Any] = {}
    reached = 0
    for net in nets_of(runs):
        none, batch = (chosen(runs, net, norm) for norm in NORMS)
        reached += any(
            math.isfinite(spread(values(arm, "steps_to_target")).median) for arm in (none, batch)
        )
        found[f"best rates: {net}"] = median_interval(ratios(none, batch, "steps_to_target"))
    for net in nets_of(runs):
        none, batch = (where(runs, net=net, lr=SAME, norm=norm) for norm in NORMS)
        found[f"same rate: {net}"] = median_interval(ratios(none, batch, "steps_to_target"))
    found["networks in which an arm gets there"] = reached
    for width in WIDTHS:
        steps = where(runs, net=COST, width=width)
        price = median_interval(values(steps, "ms_ratio"))
        found[f"cost of a step, width {width}"] = price
        for net in nets_of(runs):
            ratio = found[f"best rates: {net}"]
            times = Interval(*(v / price.middle for v in ratio))
            found[f"time, width {width}: {net}"] = times
    return found


def of(n: Numbers, what: str) -> dict[str, Interval]:
    """The numbers of that kind, by network."""
    return {name.partition(": ")[2]: v for name, v in n.items() if name.startswith(f"{what}: ")}


def speed(n: Numbers) -> str:
    """The rule of [speed]."""
    if not n["networks in which an arm gets there"]:
        return NOT_RESOLVED
    faster = [v.above(1) and v.high >= FAST for v in of(n, "best rates").values()]
    return SUPPORTED if all(faster) else PARTLY if any(faster) else NOT_SUPPORTED


def listed(numbers: dict[str, Interval]) -> str:
    """As in "3.3 (ReLU-3 He), 5.2 (ReLU-10 He)"."""
    return ", ".join(
        f"{v.middle:.2g} ({net})" if math.isfinite(v.middle) else f"∞ ({net})"
        for net, v in numbers.items()
    )


def in_time(n: Numbers) -> str:
    """What the ratios of steps mean in time."""
    prices = {width: n[f"cost of a step, width {width}"].middle for width in WIDTHS}
    return (
        "At one learning rate for both "
        f"({SAME:g}), it is {listed(of(n, 'same rate'))}. "
        f"Time is another matter. A compiled step with batch norm costs {prices[64]:.2f} times one "
        f"without at width 64 and {prices[512]:.2f} times at width 512 (tinybn {tb.__version__}, "
        "on this processor). Divided by this, the speed-up in time at width 64 is "
        f"{listed(of(n, 'time, width 64'))}. ∞: only batch norm gets there."
    )


def draw(runs: list[Record]) -> Any:
    """Steps to the target, a point per seed, and the speed-up with its interval."""
    nets = nets_of(runs)
    figure, ((same, tuned, gain),) = panels(1, 3, width=11, height=1.9 + 0.45 * len(nets))
    finite = [v for v in values([r for r in runs if r["net"] != COST], "steps_to_target")
              if math.isfinite(v)]  # fmt: skip
    never = 2 * max(finite)
    for ax in (same, tuned):
        for row, net in enumerate(nets):
            for offset, norm in ((-0.18, "none"), (0.18, "batch")):
                arm = chosen(runs, net, norm)
                if ax is same:
                    arm = where(runs, net=net, norm=norm, lr=SAME)
                draw_arm(ax, values(arm, "steps_to_target"), row + offset, norm, never, row == 0)
        ax.set(xscale="log", xlim=(None, 2 * never))
    same.set_xlabel(f"steps, both at learning rate {SAME:g}")
    tuned.set_xlabel("steps, best against best")
    same.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8, ncols=2)
    numbers = measure(runs)
    kinds = [("best rates", OTHERS[0], "o", "in steps")]
    kinds += [(f"time, width {w}", OTHERS[i + 1], m, f"in time, width {w}")
              for i, (w, m) in enumerate(zip(WIDTHS, "sD", strict=True))]  # fmt: skip
    top = 2 * max((v for k, *_ in kinds for x in of(numbers, k).values() for v in x
                   if math.isfinite(v)), default=FAST)  # fmt: skip
    for shift, (kind, colour, mark, label) in zip((-0.22, 0, 0.22), kinds, strict=True):
        for row, net in enumerate(nets):
            middle, low, high = (min(v, top) for v in of(numbers, kind)[net])
            gain.plot([low, high], [row + shift] * 2, color=colour, lw=1.6)
            gain.plot([middle], [row + shift], mark, color=colour, ms=5,
                      label=label if row == 0 else None)  # fmt: skip
            if middle == top:
                gain.annotate("∞", (top, row + shift), xytext=(5, 0), textcoords="offset points",
                              va="center", color=colour)  # fmt: skip
    gain.axvspan(3, 5, color="0.9", zorder=0)
    gain.axvline(1, color="0.5", lw=0.8)
    gain.set(xscale="log", xlabel="speed-up, best against best (grey: 3 to 5)")
    gain.legend(loc="lower left", bbox_to_anchor=(-0.1, 1), frameon=False, fontsize=8, ncols=3,
                columnspacing=0.8, handletextpad=0.1)  # fmt: skip
    for ax in (same, tuned, gain):
        ax.set(yticks=range(len(nets)), yticklabels=nets if ax is same else [])
        ax.set_ylim(len(nets) - 0.5, -0.5)
        plain(ax.xaxis)
    return figure


def draw_arm(ax: Any, numbers: list[float], y: float, norm: str, never: float, named: bool) -> None:
    """A point per seed, a bar at the median, × and a number for seeds that never got there."""
    colour = STYLES[norm][0]
    known = [v for v in numbers if math.isfinite(v)]
    ax.plot(known, [y] * len(known), MARKS[norm], color=colour, ms=4, alpha=0.5, lw=0,
            label=NAMES[norm] if named else None)  # fmt: skip
    if len(known) < len(numbers):
        ax.plot([never], [y], "x", color=colour, ms=6, mew=1.6)
        ax.annotate(f" {len(numbers) - len(known)}", (never, y), fontsize=7, va="center",
                    xytext=(4, 0), textcoords="offset points")  # fmt: skip
    median = spread(numbers).median
    if math.isfinite(median):
        ax.plot([median] * 2, [y - 0.14, y + 0.14], color=colour, lw=2.5)


EXPERIMENT = Experiment(
    name="with_and_without",
    text=__doc__,
    ran="Six MLPs of width 64 on digits, SGD without momentum, batches of 64, seven learning rates "
    "from 0.01 to 10, up to 2000 steps; test accuracy every 10 steps (every 2 up to step 100).",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "with_and_without.speed",
            decide=speed,
            finding=lambda n: (
                "Best against best, a network without norm takes this many times the steps of one "
                f"with batch norm: {listed(of(n, 'best rates'))}."
            ),
            answer=in_time,
        ),
    ),
    pictures={
        "with_and_without": Picture(
            draw,
            title=lambda n: (
                "Each at its best learning rate: without norm, "
                f"{min(v.middle for v in of(n, 'best rates').values()):.1f} times the steps or more"
            ),
            caption="Steps to 95 % test accuracy: a point per seed, a bar at the median, × for "
            "seeds that never got there, with their number. Right: the ratio of steps, its 95 % "
            "interval, and the same divided by what a step with batch norm costs.",
        )
    },
    keys=("net", "norm", "lr", "width"),
    measures={
        "steps_to_target": ".0f",
        "test_accuracy": ".1%",
        "ms_per_step": ".2f",
        "ms_ratio": ".2f",
    },
    # From 20 other seeds in the quick size, whose factors for ReLU-3 He went from 1.4 to 4.6 with
    # median 3.0, and 5 seeds in the default size (3.3). With N(0, 0.01²), none but batch norm ever
    # gets there.
    bands={
        "best rates: ReLU-3 He": (1.3, 7),
        "best rates: ReLU-3 N(0, 0.01²)": (10, math.inf),
        "cost of a step, width 64": (0.8, 5),
    },
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
