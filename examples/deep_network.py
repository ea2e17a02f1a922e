"""Can very deep networks be trained with batch norm, and what helps them: the norm or the skip?

The tutorial's experiment 3. Plain networks of 5 to 50 hidden layers learn without norm, with batch
norm and with layer norm: ReLU, He's initialisation, plain SGD. Each norm has learning rates around
its best one, and 3000 steps to reach 90 % test accuracy. At 50 layers other plain networks learn,
too: with tanh, with Adam, and with the default initialisation (which is all the same to batch norm,
because it undoes any factor of the weights).

Then the usual remedy: residual connections x + branch(x) at 50 layers, with either norm and without
one. A branch is norm, activation and Linear (He et al. 2016, 1603.05027, without bottleneck). De &
Smith 2020 (2002.10444) say that the skip trains deep networks, and that batch norm only makes the
branch small. So one more arm has no norm, and its branch is divided by the depth.

Where does plain batch norm break? It multiplies the gradient's norm by 1.23 per layer (1.21 with
large batches: see gradient_ladder). The deeper the network, the smaller the learning rate at which
a step is a tenth of the first layer's weights, until no useful learning rate is left.

About five minutes on two cores. For example

    python examples/deep_network.py --quick
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from gradient_ladder import theory

import tinybn as tb
from lab.command import main
from lab.figures import MARKS, NAMES, OTHERS, STYLES, dots, panels, percent
from lab.intervals import mean_interval, median_interval, share_interval
from lab.records import Record, best, differences, group, spread, values, where
from lab.training import TARGETS, Config, dataset, fit, stream
from lab.verdicts import (
    NOT_SUPPORTED,
    PARTLY,
    SUPPORTED,
    Claim,
    Experiment,
    Numbers,
    Picture,
)

NORMS = ("none", "batch", "layer")
SKIPS = [("batch", "yes"), ("layer", "yes"), ("none", "yes"), ("none", "1/depth")]
"""Norms with skip connections, and what is to replace the norm."""
NETS: dict[str, Record] = {
    "ReLU, He, SGD": {"init": "he", "activation": "relu", "optimizer": "sgd"},
    "ReLU, default, SGD": {"init": "default", "activation": "relu", "optimizer": "sgd"},
    "tanh, Xavier, SGD": {"init": "xavier", "activation": "tanh", "optimizer": "sgd"},
    "ReLU, He, Adam": {"init": "he", "activation": "relu", "optimizer": "adam"},
}
USUAL, DEFAULT, TANH, ADAM = NETS
RATES: dict[tuple[str, str], Sequence[float]] = {
    (USUAL, "none"): (0.003, 0.01, 0.03),
    (USUAL, "batch"): (0.003, 0.01, 0.03, 0.1),
    (USUAL, "layer"): (0.001, 0.003, 0.01),
    (DEFAULT, "none"): (0.1,),
    (TANH, "none"): (0.01,),
    (TANH, "batch"): (0.01,),
    (ADAM, "none"): (0.0003,),
    (ADAM, "batch"): (0.01,),
}
"""Around the best of each plain network; a single one is the best with other seeds."""
RATES_DEEP = {"none": (0.003, 0.01), "batch": (0.01, 0.03), "layer": (0.001, 0.003)}
"""Those of the usual network from 30 layers on."""
SKIP_RATE = 0.1
DEPTHS = (5, 10, 20, 30, 50)
DEEP = 50
"""Where the tutorial's "very deep" begins."""
WIDTH = BATCH = 32
GOOD = {data: target - 0.05 for data, target in TARGETS.items()}
"""A network that gets to this test accuracy is trained."""
AHEAD = 0.3
"""A lead in accuracy that makes the difference."""
NEAR = 1.2
"""Depths within this factor of a predicted limit do not count for or against it."""
PART = 0.1
"""A step that changes a layer's weights by more of their length than this is too large."""


def configurations(size: str) -> list[Record]:
    """Plain networks at every depth, other plain networks and skip connections at 50 layers; quick:
    fewer steps, depths and learning rates.
    """
    steps = {"quick": 400, "default": 3000, "full": 10_000}[size]
    depths = (5, DEEP) if size == "quick" else DEPTHS
    nets = [(USUAL, depth) for depth in depths]
    nets += [] if size == "quick" else [(net, DEEP) for net in (DEFAULT, TANH, ADAM)]
    arms: list[Record] = [
        {"net": net, "depth": depth, "norm": norm, "skip": "no", "lr": lr}
        for net, depth in nets
        for norm in NORMS
        for lr in rates_of(net, norm, depth)[: 1 if size == "quick" else None]
    ]
    arms += [
        {"net": USUAL, "depth": DEEP, "norm": norm, "skip": skip, "lr": SKIP_RATE}
        for norm, skip in SKIPS
    ]
    return [arm | {"steps": steps} for arm in arms]


def rates_of(net: str, norm: str, depth: int) -> Sequence[float]:
    """The learning rates of a plain network."""
    deep = net == USUAL and depth >= 30
    return RATES_DEEP[norm] if deep else RATES.get((net, norm), ())


class Residual(tb.nn.Module):
    """x + scale · branch(x)."""

    def __init__(self, branch: tb.nn.Module, scale: float) -> None:
        self.branch, self.scale = branch, scale

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return x + self.scale * self.branch(x)


def network(config: Record, features: int, classes: int) -> tb.nn.Module:
    """`depth` hidden Linear layers and one at the end; an MLP if there are no skip connections."""
    norm, depth, net = config["norm"], config["depth"], NETS[config["net"]]
    rng = stream(config["seed"], "weights")
    activation = {"relu": tb.nn.ReLU, "tanh": tb.nn.Tanh}[net["activation"]]

    def linear(n: int, m: int) -> tb.nn.Module:  # the next batch norm removes any bias
        return tb.nn.Linear(n, m, bias=norm != "batch", init=net["init"], rng=rng)

    def nonlinear() -> list[tb.nn.Module]:
        return [*([] if norm == "none" else [tb.nn.NORMS[norm](WIDTH)]), activation()]

    layers = [linear(features, WIDTH)]
    for _ in range(depth - 1):
        branch = tb.nn.Sequential(*nonlinear(), linear(WIDTH, WIDTH))
        scale = {"no": None, "yes": 1.0, "1/depth": 1 / depth}[config["skip"]]
        layers.append(branch if scale is None else Residual(branch, scale))
    last = tb.nn.Linear(WIDTH, classes, init=net["init"], rng=rng)
    return tb.nn.Sequential(*layers, *nonlinear(), last)


def run(config: Record) -> Record:
    """Train until the target is reached; and, before that, the learning rate of a whole step."""
    own = ("depth", "skip", "net")
    rest = {key: value for key, value in config.items() if key not in own}
    net = NETS[config["net"]]
    options = Config(**rest, **net, batch_size=BATCH, momentum=0.0, every=50)
    data = dataset(options.data, options.seed, options.data_dir)
    with tb.use_backend(options.backend):
        model = network(config, data.features, data.classes)
    whole = whole_step(model, data.train, options)
    good = GOOD[options.data]
    done = fit(model, data, options, stop=good)
    kept = max(range(len(done.steps)), key=lambda i: done.accuracy[i])
    return done.measures(good) | {
        "kept_validation": done.accuracy[kept],
        "kept_test": done.test[kept],
        "whole_step": whole,
    }


def whole_step(model: tb.nn.Module, part: tb.data.Part, options: Config) -> float:
    """The learning rate at which a step is as long as the first layer's weights, before training:
    the weights' norm divided by that of their gradient.
    """
    weight = next(p for p in model.parameters() if p.ndim == 2)
    x = tb.tensor(part.x[:BATCH], backend=options.backend)
    loss = tb.ops.cross_entropy(model(x), part.y[:BATCH])
    gradient = tb.grad(loss, weight)[0].numpy()
    length = float(np.linalg.norm(gradient))
    return float(np.linalg.norm(weight.numpy())) / length if length else math.inf


def quickest(runs: list[Record]) -> tuple[float, float]:
    """The key for `best`: steps to the target on validation data, then the best accuracy there."""
    steps = spread(values(runs, "validation_steps_to_target")).median
    return steps, -statistics.fmean(values(runs, "kept_validation"))


def chosen(runs: list[Record], net: str, depth: int, norm: str, skip: str = "no") -> list[Record]:
    """The runs of a network at its best learning rate."""
    return best(where(runs, net=net, depth=depth, norm=norm, skip=skip), quickest)


def at_50(net: str, norm: str) -> tuple[str, int]:
    """A network of 50 layers; to batch norm, the default initialisation is the same as He's."""
    return (USUAL if (net, norm) == (DEFAULT, "batch") else net), DEEP


def trained(runs: list[Record]) -> list[bool]:
    """Which runs reached the target."""
    return [r["steps_to_target"] is not None for r in runs]


def describe(norm: str, skip: str) -> str:
    """An arm in words."""
    return NAMES[norm] + {"no": "", "yes": ", skip", "1/depth": ", skip, branch / depth"}[skip]


def depths_of(runs: list[Record]) -> list[int]:
    """The depths of the usual network."""
    return sorted({r["depth"] for r in where(runs, net=USUAL, skip="no")})


def measure(runs: list[Record]) -> Numbers:
    """Shares that train, accuracies, what batch norm gains at 50 layers, the predicted limit."""
    found: dict[str, Any] = {}
    for depth in depths_of(runs):
        for norm in NORMS:
            arm = chosen(runs, USUAL, depth, norm)
            found[f"share, {norm}, {depth} layers"] = share_interval(trained(arm))
            found[f"accuracy, {norm}, {depth} layers"] = mean_interval(values(arm, "kept_test"))
    for net in dict.fromkeys(r["net"] for r in runs):
        none, batch = (chosen(runs, *at_50(net, norm), norm) for norm in ("none", "batch"))
        found[f"share, batch: {net}"] = share_interval(trained(batch))
        found[f"accuracy, batch: {net}"] = mean_interval(values(batch, "kept_test"))
        found[f"accuracy, none: {net}"] = mean_interval(values(none, "kept_test"))
        found[f"batch norm gains: {net}"] = mean_interval(differences(batch, none, "kept_test"))
    for norm, skip in SKIPS:
        arm = chosen(runs, USUAL, DEEP, norm, skip)
        found[f"share, {describe(norm, skip)}"] = share_interval(trained(arm))
        found[f"steps, {describe(norm, skip)}"] = median_interval(values(arm, "steps_to_target"))
    shallow = where(runs, net=USUAL, skip="no", norm="batch", depth=min(DEPTHS))
    whole = [rs[0]["whole_step"] for rs in group(shallow, ["seed"]).values()]
    found["whole step, 5 layers"] = median_interval(whole)
    found["growth per layer"] = theory("batch", "relu", "he", BATCH)
    useful = [lr for (lr,), rs in group(shallow, ["lr"]).items()
              if share_interval(trained(rs)).middle > 0.5]  # fmt: skip
    found["smallest useful rate"] = min(useful, default=math.inf)
    found["predicted limit"] = limit(found)
    return found


def limit(n: Numbers) -> float:
    """The depth at which a step of the smallest useful rate is a tenth of the first weights."""
    room = PART * n["whole step, 5 layers"].middle / n["smallest useful rate"]
    if room <= 0:
        return 0.0
    return float(min(DEPTHS) + math.log(room) / math.log(n["growth per layer"]))


def trains(n: Numbers, name: str) -> bool:
    """Whether most seeds get there."""
    return bool(n[f"share, {name}"].above(0.5))


def fails(n: Numbers, name: str) -> bool:
    """Whether most seeds do not."""
    return bool(n[f"share, {name}"].below(0.5))


def smoothly(n: Numbers) -> str:
    """The rule of [smoothly]."""
    every = [
        trains(n, f"batch: {net}") for net in (USUAL, TANH, ADAM) if f"share, batch: {net}" in n
    ]
    return SUPPORTED if all(every) else PARTLY if any(every) else NOT_SUPPORTED


def impossible(n: Numbers) -> str:
    """The rule of [impossible]."""
    ahead = [v.above(AHEAD) for name, v in n.items() if name.startswith("batch norm gains: ")]
    return SUPPORTED if all(ahead) else PARTLY if any(ahead) else NOT_SUPPORTED


def what_trains(n: Numbers) -> str:
    """The rule of [skip]."""
    small = [("batch", "yes"), ("layer", "yes"), ("none", "1/depth")]
    if not all(trains(n, describe(*arm)) for arm in small):
        return NOT_SUPPORTED
    plain = all(fails(n, f"{norm}, {DEEP} layers") for norm in NORMS)
    return SUPPORTED if plain else PARTLY


def breaks(n: Numbers) -> str:
    """The rule of [breaks]."""
    end = n["predicted limit"]
    depths = [d for d in DEPTHS if f"share, batch, {d} layers" in n]
    below = [d for d in depths if d < end / NEAR]
    above = [d for d in depths if d > end * NEAR]
    right = all(trains(n, f"batch, {d} layers") for d in below)
    right &= all(fails(n, f"batch, {d} layers") for d in above)
    return SUPPORTED if right and max(below, default=0) >= 20 and above else NOT_SUPPORTED


def percentage(value: float) -> str:
    """As in "93 %"."""
    return f"{100 * value:.0f} %"


def by_depth(n: Numbers, norm: str) -> str:
    """As in "95 % (5 layers), 93 % (10 layers)"."""
    return ", ".join(
        f"{percentage(v.middle)} ({name.rpartition(', ')[2]})"
        for name, v in n.items()
        if name.startswith(f"accuracy, {norm}, ")
    )


def by_net(n: Numbers, norm: str) -> str:
    """As in "20 % (ReLU, He, SGD)", at 50 layers."""
    return "; ".join(
        f"{percentage(v.middle)} ({name.partition(': ')[2]})"
        for name, v in n.items()
        if name.startswith(f"accuracy, {norm}: ")
    )


def draw(runs: list[Record]) -> Any:
    """Test accuracy of each seed against depth, plain; and at 50 layers, by network and arm."""
    figure, ((left, right),) = panels(1, 2, width=11, height=4.6)
    depths = depths_of(runs)
    for shift, norm in zip((-0.25, 0.0, 0.25), NORMS, strict=True):
        arms = [values(chosen(runs, USUAL, depth, norm), "kept_test") for depth in depths]
        dots(left, [i + shift for i in range(len(depths))], arms, norm, bar=0.11)
    left.set_xticks(range(len(depths)), [str(d) for d in depths])
    left.set(xlabel="hidden layers, no skip connections (ReLU, He, SGD)", ylabel="test accuracy")
    left.legend(frameon=False, fontsize=8, loc="lower left")
    rows: list[tuple[str, str, list[Record]]] = []
    for net in dict.fromkeys(r["net"] for r in runs):
        rows += [(f"{net}: {NAMES[norm]}", norm, chosen(runs, net, DEEP, norm))
                 for norm in ("none", "batch") if rates_of(net, norm, DEEP)]  # fmt: skip
    rows += [(describe(norm, skip), norm, chosen(runs, USUAL, DEEP, norm, skip))
             for norm, skip in SKIPS]  # fmt: skip
    for y, (_, norm, arm) in enumerate(rows):
        accuracy = values(arm, "kept_test")
        beside = y + np.linspace(-0.2, 0.2, len(accuracy))
        right.plot(accuracy, beside, MARKS[norm], color=STYLES[norm][0], ms=4, alpha=0.6, mew=0)
        right.plot(
            [statistics.median(accuracy)] * 2, [y - 0.3, y + 0.3], color=STYLES[norm][0], lw=2
        )
    right.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8)
    right.axhline(len(rows) - len(SKIPS) - 0.5, color="0.5", lw=0.8)
    right.invert_yaxis()
    right.set(xlim=(0, 1.02), xlabel=f"test accuracy, {DEEP} layers")
    good = GOOD[runs[0]["data"]]
    left.axhline(good, color="0.5", lw=0.8)
    left.set_ylim(0, 1.02)
    right.axvline(good, color="0.5", lw=0.8)
    percent(left.yaxis)
    percent(right.xaxis)
    return figure


def draw_limit(runs: list[Record]) -> Any:
    """Plain batch norm: accuracy at each depth and learning rate, and the predicted limit."""
    figure, ((left, right),) = panels(1, 2, width=11, height=4)
    n, depths = measure(runs), depths_of(runs)
    plain = where(runs, net=USUAL, skip="no", norm="batch")
    whole = [[PART * rs[0]["whole_step"] for rs in group(where(plain, depth=d), ["seed"]).values()]
             for d in depths]  # fmt: skip
    for x, sample in zip(depths, whole, strict=True):
        left.plot([x] * len(sample), sample, MARKS["batch"], color=STYLES["batch"][0], ms=4,
                  alpha=0.6, mew=0, label="measured" if x == depths[0] else None)  # fmt: skip
    line = np.linspace(min(depths), max(depths), 50)
    first, rate = n["whole step, 5 layers"].middle, n["growth per layer"]
    thin: Record = {"color": "0.35", "lw": 1, "ls": (0, (1, 1.5))}
    left.plot(
        line,
        PART * first / rate ** (line - min(depths)),
        **thin,
        label=f"divided by {rate:.3f} per layer",
    )
    useful, end = n["smallest useful rate"], n["predicted limit"]
    if math.isfinite(useful):
        left.axhline(useful, color=OTHERS[0], lw=1.2, label="smallest useful rate (5 layers)")
    left.set(yscale="log", xlabel="hidden layers", ylabel="learning rate")
    left.set_title("a step of a tenth of the first layer's weights", fontsize=9)
    left.legend(frameon=False, fontsize=8, loc="lower left")
    rates = sorted({r["lr"] for r in plain})
    for i, lr in enumerate(rates):
        shade = {"color": STYLES["batch"][0], "alpha": 0.25 + 0.75 * i / max(1, len(rates) - 1)}
        arms = [where(plain, depth=d, lr=lr) for d in depths]
        known = {d: values(a, "kept_test") for d, a in zip(depths, arms, strict=True) if a}
        right.plot([*known], [statistics.fmean(v) for v in known.values()], ms=4, lw=1.4,
                   marker=MARKS["batch"], label=f"learning rate {lr:g}", **shade)  # fmt: skip
    right.axhline(GOOD[runs[0]["data"]], color="0.5", lw=0.8)
    for ax in (left, right):
        if 0 < end < 2 * max(depths):
            ax.axvspan(end / NEAR, end * NEAR, color="0.9", zorder=0)
            ax.axvline(end, color="0.35", lw=1)
    right.set(xlabel="hidden layers", ylabel="mean test accuracy", ylim=(0, 1.02))
    percent(right.yaxis)
    right.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


EXPERIMENT = Experiment(
    name="deep_network",
    text=__doc__,
    ran="MLPs of width 32 on digits, batches of 32, up to 3000 steps; training ends at 90 % test "
    "and validation accuracy. One to four learning rates, around the best of each network.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "deep_network.smoothly",
            decide=smoothly,
            finding=lambda n: (
                f"With batch norm and no skip connections, test accuracy falls with depth: "
                f"{by_depth(n, 'batch')}. Other networks of {DEEP} layers: {by_net(n, 'batch')}."
            ),
            answer=lambda n: (
                "Deep networks do train with batch norm if they have skip connections: a network "
                f"of {DEEP} layers then takes {n['steps, batch norm, skip'].middle:.0f} steps to "
                "90 %. The tutorial's recipe has none."
            ),
        ),
        Claim(
            "deep_network.impossible",
            decide=impossible,
            finding=lambda n: (
                f"Without norm, plain networks of {DEEP} layers get to {by_net(n, 'none')}; with "
                f"batch norm to {by_net(n, 'batch')}."
            ),
            answer=lambda n: (
                "Without norm it depends on the initialisation. With He's, a plain network learns, "
                "slowly; with the default one, its gradient vanishes and it does not learn at all. "
                "Batch norm alone is no remedy, because its gradient explodes. "
                "With skip connections and the branch divided by the depth, no norm is needed: "
                f"{n['steps, no norm, skip, branch / depth'].middle:.0f} steps to 90 %."
            ),
        ),
        Claim(
            "deep_network.skip",
            decide=what_trains,
            finding=lambda n: (
                f"At {DEEP} layers, seeds that get to 90 %: "
                + ", ".join(
                    f"{percentage(n[f'share, {describe(*arm)}'].middle)} ({describe(*arm)})"
                    for arm in SKIPS
                )
                + "; plain "
                + ", ".join(
                    f"{percentage(n[f'share, {norm}, {DEEP} layers'].middle)} ({NAMES[norm]})"
                    for norm in NORMS
                )
                + "."
            ),
        ),
        Claim(
            "deep_network.breaks",
            decide=breaks,
            finding=lambda n: (
                f"The predicted limit is {n['predicted limit']:.0f} layers. Seeds that get to "
                "90 %: "
                + ", ".join(
                    f"{percentage(v.middle)} ({name.rpartition(', ')[2]})"
                    for name, v in n.items()
                    if name.startswith("share, batch, ")
                )
                + "."
            ),
            picture="deep_network-limit",
        ),
    ),
    pictures={
        "deep_network": Picture(
            draw,
            title=lambda n: (
                f"Seeds that train {DEEP} layers with batch norm: "
                f"{percentage(n[f'share, batch, {DEEP} layers'].middle)} plain, "
                f"{percentage(n['share, batch norm, skip'].middle)} with skips"
            ),
            caption="Test accuracy at the best learning rate: a point per seed, a bar at the "
            "median. Training ends at 90 % (grey line). Right: 50 layers, plain above the line, "
            "with skip connections (ReLU, He, SGD) below it.",
        ),
        "deep_network-limit": Picture(
            draw_limit,
            title=lambda n: (
                (
                    "Where the gradient's growth says plain batch norm breaks: "
                    f"at {n['predicted limit']:.0f} layers"
                )
                if n["predicted limit"]
                else "No learning rate trains 5 layers"
            ),
            caption="Batch norm without skip connections. Left: the learning rate at which the "
            "first step is a tenth of the first layer's weights, a point per seed, and the theory. "
            "Right: mean test accuracy over seeds. Grey band: within a factor of 1.2 of the limit.",
        ),
    },
    keys=("net", "skip", "norm", "depth", "lr"),
    measures={"kept_test": ".1%", "steps_to_target": ".0f", "whole_step": ".3g"},
    # From other seeds: after 200 steps no plain network of 50 layers is trained, and all with skip
    # connections and a norm are. The rate of a whole step was 2.6 to 3.0 with 6 seeds.
    bands={
        "share, batch, 50 layers": (0, 0),
        "share, batch norm, skip": (1, 1),
        "share, layer norm, skip": (1, 1),
        "whole step, 5 layers": (1.5, 5),
    },
    data=("digits",),
    seeds={"quick": 1, "default": 5, "full": 10},
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
