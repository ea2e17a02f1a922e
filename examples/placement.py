"""Should batch norm stand before the activation or after it?

The order in the tutorial, and in the paper, is Linear, batch norm, activation; others measured the
opposite. Three networks learn without norm, with batch norm before each activation, and with batch
norm after it, each at the best of four learning rates, chosen on the validation data. Every Linear
has a bias here. Before batch norm the bias is dead: the mean removes it, so its gradient is 0. How
large is that gradient in practice, and how large is Σ W·∂L/∂W of a unit, which is also 0 because
BN(aWx) = BN(Wx)?

About a minute on two cores. For example

    python examples/placement.py --quick
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from typing import Any

import numpy as np

import tinybn as tb
from lab.command import main
from lab.figures import OTHERS, STYLES, band, crosses, panels
from lab.intervals import Interval, median_interval
from lab.records import Record, best, fastest, group, ratios, spread, values, where
from lab.training import TARGETS, Config, dataset, fit, stream
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

RATES = (0.1, 0.3, 1.0, 3.0)
NETS: dict[str, Record] = {
    "ReLU-3": {"hidden": [64] * 3, "activation": "relu", "init": "he"},
    "tanh-5": {"hidden": [64] * 5, "activation": "tanh", "init": "xavier"},
    "sigmoid-3": {"hidden": [64] * 3, "activation": "sigmoid", "init": "xavier"},
}
PLACES = {  # colour, line, mark
    "none": (*STYLES["none"], "s"),
    "before": (*STYLES["batch"], "o"),
    "after": (OTHERS[0], "-.", "D"),
}


def configurations(size: str) -> list[Record]:
    """Every net with the norm in every place at every learning rate; quick: one net, two rates."""
    steps = {"quick": 300, "default": 600, "full": 3000}[size]
    nets = ("ReLU-3",) if size == "quick" else tuple(NETS)
    rates = RATES[:2] if size == "quick" else RATES
    return [
        {"net": net, "place": place, "lr": lr, "steps": steps}
        for net in nets
        for place in PLACES
        for lr in rates
    ]


def run(config: Record) -> Record:
    """Measure the gradients at the start, then train until the target is reached."""
    place, net = config["place"], NETS[config["net"]]
    rest = {key: value for key, value in config.items() if key not in ("net", "place")}
    norm = "none" if place == "none" else "batch"
    options = Config(**rest, **net, norm=norm, momentum=0.0, every=10, early=100)
    data = dataset(options.data, options.seed, options.data_dir)
    model = build(options, data, place)
    found = gradients(model, data, options)
    target = TARGETS[options.data]
    return fit(model, data, options, stop=target).measures(target) | found


def build(config: Config, data: tb.data.Dataset, place: str) -> tb.nn.Sequential:
    """An MLP whose Linear layers all have a bias."""
    rng, act = stream(config.seed, "weights"), tb.nn.layers.ACTIVATIONS[config.activation]
    layers: list[tb.nn.Module] = []
    with tb.use_backend(config.backend):
        for n, m in pairwise([data.features, *config.hidden]):
            layers.append(tb.nn.Linear(n, m, init=config.init, rng=rng))  # type: ignore[arg-type]
            layers += [tb.nn.BatchNorm(m)] if place == "before" else []
            layers.append(act())
            layers += [tb.nn.BatchNorm(m)] if place == "after" else []
        last = tb.nn.Linear(config.hidden[-1], data.classes, init="xavier", rng=rng)
        return tb.nn.Sequential(*layers, last)


def gradients(model: tb.nn.Sequential, data: tb.data.Dataset, config: Config) -> Record:
    """Two numbers of the hidden layers on one batch, in float64.

    The largest gradient of a bias over that of its layer's weights, and the largest cosine between
    a unit's weights and their gradient.
    """
    state = model.state_dict()
    model.to(np.float64)
    x = tb.tensor(data.train.x[: config.batch_size].astype(np.float64), backend=config.backend)
    loss = tb.ops.cross_entropy(model(x), data.train.y[: config.batch_size])
    hidden = [layer for layer in model.layers[:-1] if isinstance(layer, tb.nn.Linear)]
    found = tb.grad(loss, [p for layer in hidden for p in layer.parameters()])
    model.to(np.float32)
    model.load_state_dict(state)
    biases, radial = [], []
    for layer, dw, db in zip(hidden, found[::2], found[1::2], strict=True):
        w, dw, db = layer.weight.numpy(), dw.numpy(), db.numpy()
        biases.append(float(abs(db).max() / abs(dw).max()))
        sizes = np.linalg.norm(w, axis=0) * np.linalg.norm(dw, axis=0)
        radial.append(float((abs((w * dw).sum(axis=0)) / np.maximum(sizes, 1e-300)).max()))
    return {"bias_gradient": max(biases), "radial": max(radial)}


def arm(runs: list[Record], net: str, place: str) -> list[Record]:
    """The runs at the learning rate that was fastest on validation data."""
    return best(where(runs, net=net, place=place), by=fastest)


def working(runs: list[Record], net: str, place: str) -> list[float]:
    """For each seed, the number of learning rates at which the target is reached."""
    seeds = group(where(runs, net=net, place=place), ["seed"]).values()
    return [sum(map(math.isfinite, values(rs, "steps_to_target"))) for rs in seeds]


def measure(runs: list[Record]) -> Numbers:
    """Steps in each place, rates that work, and the gradients of the biases."""
    found: dict[str, Interval | float] = {}
    for net in dict.fromkeys(r["net"] for r in runs):
        for place in PLACES:
            steps = values(arm(runs, net, place), "steps_to_target")
            found[f"steps, {net}, {place}"] = median_interval(steps)
            found[f"rates that work, {net}, {place}"] = median_interval(working(runs, net, place))
        found[f"steps, {net}, after to before"] = median_interval(
            ratios(arm(runs, net, "after"), arm(runs, net, "before"), "steps_to_target")
        )
    for place in PLACES:
        for name in ("bias_gradient", "radial"):
            each = values(where(runs, place=place), name)
            found[f"largest {name}, {place}"] = max(each)
            found[f"smallest {name}, {place}"] = min(each)
    return found


def nets_of(n: Any) -> list[str]:
    """The networks that were measured."""
    return [net for net in NETS if f"steps, {net}, before" in n]


def before_is_faster(n: Any) -> str:
    """The rule of [order]."""
    factors = [n[f"steps, {net}, after to before"] for net in nets_of(n)]
    if all(f.above(1) for f in factors):
        return SUPPORTED
    if any(f.above(1) for f in factors):
        return PARTLY
    return NOT_SUPPORTED if any(f.below(1) for f in factors) else NOT_RESOLVED


def bias_is_dead(n: Any) -> str:
    """The rule of [bias]."""
    dead = n["largest bias_gradient, before"] < 1e-12 and n["largest radial, before"] < 1e-2
    alive = min(n[f"smallest bias_gradient, {place}"] for place in ("after", "none")) > 1e-6
    return SUPPORTED if dead and alive else NOT_SUPPORTED


def draw(runs: list[Record]) -> Any:
    """A panel per net, steps over the learning rate; then the gradient of the bias."""
    nets = list(dict.fromkeys(r["net"] for r in runs))
    figure, (axes,) = panels(1, len(nets) + 1, width=2.75 * (len(nets) + 1), height=4)
    never = 2 * max(v for v in values(runs, "steps_to_target") if math.isfinite(v))
    for ax, net in zip(axes, nets, strict=False):
        for place, (colour, style, mark) in PLACES.items():
            arms = sorted(group(where(runs, net=net, place=place), ["lr"]).items())
            rates = [lr for (lr,), _ in arms]
            steps = [[min(v, never) for v in values(rs, "steps_to_target")] for _, rs in arms]
            label = "no norm" if place == "none" else f"batch norm {place} the activation"
            band(ax, rates, steps, "batch", color=colour, linestyle=style, marker=mark, ms=4,
                 label=label)  # fmt: skip
            lost = [lr for lr, vs in zip(rates, steps, strict=True) if spread(vs).median == never]
            crosses(ax, lost, [never] * len(lost), "batch", color=colour)
        ax.set(xscale="log", yscale="log", ylim=(10, never * 1.2), xlabel="learning rate")
        ax.set_title(net, fontsize=9)
        if ax is not axes[0]:
            ax.tick_params(labelleft=False)
    axes[0].set_ylabel(f"steps to {TARGETS[runs[0]['data']]:.0%} test accuracy (×: never)")
    for i, (place, (colour, _, mark)) in enumerate(PLACES.items()):
        seen = group(where(runs, place=place), ["net", "seed"]).values()
        sizes = [rs[0]["bias_gradient"] for rs in seen]
        x = i + np.linspace(-0.2, 0.2, len(sizes))
        axes[-1].plot(x, sizes, mark, color=colour, ms=4, alpha=0.6)
    axes[-1].set(yscale="log", ylim=(1e-17, 1e2), xlim=(-0.6, 2.6))
    axes[-1].set_xticks(range(3), ["no norm", "before", "after"], fontsize=8)
    axes[-1].set_title("gradient of a hidden bias", fontsize=9)
    axes[-1].set_ylabel("largest, that of the weights being 1")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False, fontsize=9)  # fmt: skip
    return figure


EXPERIMENT = Experiment(
    name="placement",
    text=__doc__,
    ran="Three networks on digits, up to 600 steps of 64 at four learning rates from 0.1 to 3; "
    "the gradients of the biases before training, in float64.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "placement.order",
            decide=before_is_faster,
            finding=lambda n: (
                "Batch norm after the activation takes "
                + ", ".join(
                    f"{n[f'steps, {net}, after to before'].text('.2g')} ({net})"
                    for net in nets_of(n)
                )
                + " times the steps of batch norm before it."
            ),
            answer=lambda n: (
                "Both orders beat no norm. Of the learning rates tried, "
                + ", ".join(
                    f"{n[f'rates that work, {net}, before'].middle:g} work before, "
                    f"{n[f'rates that work, {net}, after'].middle:g} after and "
                    f"{n[f'rates that work, {net}, none'].middle:g} without ({net})"
                    for net in nets_of(n)
                )
                + "."
            ),
        ),
        Claim(
            "placement.bias",
            decide=bias_is_dead,
            finding=lambda n: (
                "The gradient of a bias before batch norm is at most "
                f"{n['largest bias_gradient, before']:.0e} of that of the weights, which is "
                "rounding; after the activation or without norm it is at least "
                f"{n['smallest bias_gradient, after']:.2g}."
            ),
            answer=lambda n: (
                "Batch norm subtracts the mean, and the bias with it. For the same reason the "
                "gradient of a unit's weights is orthogonal to the weights: the cosine is at most "
                f"{n['largest radial, before']:.0e}."
            ),
        ),
    ),
    pictures={
        "placement": Picture(
            draw,
            title=lambda n: (
                "Batch norm works before and after the activation; a bias before it is dead"
            ),
            caption="Steps to 95 % test accuracy over the learning rate; lines are medians, bands "
            "ranges over seeds, × never. Right: the largest gradient of a hidden bias before "
            "training, a point per seed and network.",
        )
    },
    keys=("net", "place", "lr"),
    measures={"steps_to_target": ".0f", "bias_gradient": ".1e", "radial": ".1e"},
    # From 6 other seeds in the quick size (1.0, single seeds 0.5 to 1.2; 8e-16, 0.38, 4e-5) and 2
    # in the default size (0.6; 7e-16, 0.10, 9e-5).
    bands={
        "steps, ReLU-3, after to before": (0.35, 2.5),
        "largest bias_gradient, before": (0, 1e-12),
        "smallest bias_gradient, after": (0.005, 10),
        "largest radial, before": (0, 1e-2),
    },
    seeds={"quick": 2, "default": 8, "full": 10},
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
