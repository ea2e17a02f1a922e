"""What does the epsilon of batch norm do, and what if it is not there?

The tutorial's question 3. MLPs learn with ε from 0 to 10. Batch norm is on the raw input, where
some pixels are the same in every image; on the hidden layers before ReLU; or on the hidden layers
after ReLU, where a unit that is 0 for a whole batch is constant, too. Each uses the best of two
learning rates, chosen by mean validation accuracy. Seeds are those in which a pixel is the same in
all training images and not in all test images. Two more numbers are measured:

* The gain, before training: the largest factor by which a channel of the first batch norm makes a
  random gradient longer. It is at most 1/√ε, and 1/σ without ε.
* The largest value that the first batch norm makes of the test data, after training. A pixel that
  was constant for a while has a running variance near 0, so an image in which it is not constant
  has it multiplied by up to 1/√ε.

Less than a minute on two cores. For example

    python examples/epsilon.py --quick
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

import tinybn as tb
from lab.command import main
from lab.figures import OTHERS, panels, percent
from lab.intervals import mean_interval, median_interval, share_interval
from lab.records import Record, best, differences, ratios, values, where
from lab.training import Config, dataset, fit, stream
from lab.verdicts import (
    NOT_SUPPORTED,
    PARTLY,
    SUPPORTED,
    Claim,
    Experiment,
    Numbers,
    Picture,
)

EPSILONS = (0.0, 1e-12, 1e-8, 1e-5, 1e-3, 0.1, 1.0, 10.0)
LOOKS = {
    "input": (OTHERS[0], "o", "-", "on the raw input"),
    "before ReLU": (OTHERS[1], "s", "--", "on the hidden layers, before ReLU"),
    "after ReLU": (OTHERS[2], "^", "-.", "on the hidden layers, after ReLU"),
}
"""Where batch norm is, and how that is drawn."""
CONSTANT = ("input", "after ReLU")
"""Where a feature can be constant in a batch."""
RATES = (0.1, 0.3)
WIDTH = 64
NOTHING = 1e-15
"""Where ε = 0 is drawn."""
USUAL = 1e-5
LARGEST_SMALL = 1e-3
CLOSE = 0.02
"""Accuracies that differ by less count as equal."""
TWICE = 2.0
"""A ratio of test losses from which on they count as different."""


def configurations(size: str) -> list[Record]:
    """Every ε in every place at each learning rate; fewer ε and one rate for a quick look."""
    steps = {"quick": 200, "default": 600, "full": 3000}[size]
    epsilons = (0.0, 1e-12, USUAL, 10.0) if size == "quick" else EPSILONS
    return [
        {"place": place, "eps": eps, "lr": lr, "steps": steps}
        for place in LOOKS
        for eps in epsilons
        for lr in (RATES[:1] if size == "quick" else RATES)
    ]


def varies_later(seed: int) -> bool:
    """Whether a pixel is constant in the training digits and varies in the test digits."""
    data = dataset("digits", seed)
    constant, varies = np.ptp(data.train.x, axis=0) == 0, np.ptp(data.test.x, axis=0) > 0
    return bool((constant & varies).any())


def network(place: str, eps: float, features: int, classes: int, options: Config) -> tb.nn.Module:
    """Two hidden layers, with batch norm on the input, or in both before or after ReLU."""
    rng = stream(options.seed, "weights")
    inner = place != "input"
    sizes = [features, WIDTH, WIDTH, classes]
    mlp = tb.nn.MLP(
        sizes, (lambda width: tb.nn.BatchNorm(width, eps)) if inner else "none", init="he", rng=rng
    )
    if place == "before ReLU":
        return mlp
    if place == "input":
        return tb.nn.Sequential(tb.nn.BatchNorm(features, eps), *mlp.layers)
    one, norm, relu, two, norm_too, relu_too, out = mlp.layers
    return tb.nn.Sequential(one, relu, norm, two, relu_too, norm_too, out)


def run(config: Record) -> Record:
    """Measure the gain, train, and measure the loss and the largest value on the test data."""
    rest = {key: value for key, value in config.items() if key not in ("place", "eps")}
    options = Config(**rest, momentum=0.0, every=50)
    data = dataset(options.data, options.seed, options.data_dir)
    with tb.use_backend(options.backend):
        model = network(config["place"], config["eps"], data.features, data.classes, options)
    before = gain(model, data.train.x[: options.batch_size], config["eps"], options)
    with np.errstate(all="ignore"):
        done = fit(model, data, options)
        model.eval()
        norm, x = first_norm(model, data.test.x, options.backend)
        with tb.no_grad():
            largest = float(abs(norm(x).numpy()).max())  # NaN if there is one
            scores = model(tb.tensor(data.test.x, backend=options.backend))
            loss = tb.ops.cross_entropy(scores, data.test.y).item()
    return {
        "validation_accuracy": done.accuracy[-1],
        "test_accuracy": done.test_accuracy,
        "test_loss": loss,
        "diverged_at": done.diverged_at,
        "gain": before,
        "largest": largest,
    }


def first_norm(model: Any, x: np.ndarray, backend: str) -> tuple[tb.nn.BatchNorm, tb.Tensor]:
    """The first batch norm and its input."""
    h = tb.tensor(x, backend=backend)
    for layer in model.layers:
        if isinstance(layer, tb.nn.BatchNorm):
            return layer, h
        h = layer(h)
    raise ValueError("a model without batch norm")


def gain(model: tb.nn.Module, x: np.ndarray, eps: float, options: Config) -> float:
    """The largest |dx| / |dy| of the channels of the first batch norm, for a random dy."""
    h = tb.tensor(first_norm(model, x, options.backend)[1].data, requires_grad=True)
    dy = stream(options.seed, "noise").standard_normal(h.shape).astype(np.float32)
    with np.errstate(all="ignore"):
        y = tb.ops.batch_norm(h, eps=eps)
        dx = tb.grad(y, h, tb.tensor(dy, backend=options.backend))[0].numpy()
    return float(np.max(np.linalg.norm(dx, axis=0) / np.linalg.norm(dy, axis=0)))


def arm(runs: list[Record], place: str, eps: float) -> list[Record]:
    """The runs of one ε in one place, at their best learning rate."""
    return best(where(runs, place=place, eps=eps))


def failed(runs: list[Record]) -> list[bool]:
    """Which runs ended in NaN."""
    return [r["diverged_at"] is not None for r in runs]


def measure(runs: list[Record]) -> Numbers:
    """Shares that fail, gains, and what each small ε changes against the usual one."""
    found: dict[str, Any] = {}
    epsilons = sorted({r["eps"] for r in runs})
    for place in LOOKS:
        found[f"fail with 0, {place}"] = share_interval(failed(where(runs, place=place, eps=0.0)))
        usual = arm(runs, place, USUAL)
        for eps in epsilons:
            rs = arm(runs, place, eps)
            found[f"accuracy with {eps:g}, {place}"] = mean_interval(values(rs, "test_accuracy"))
            if 0 < eps <= LARGEST_SMALL and eps != USUAL:
                change = mean_interval(differences(rs, usual, "test_accuracy"))
                found[f"accuracy gained with {eps:g}, {place}"] = change
                loss = median_interval(ratios(rs, usual, "test_loss"))
                found[f"test loss with {eps:g} / with 1e-05, {place}"] = loss
            if 0 < eps <= LARGEST_SMALL:
                found[f"largest value with {eps:g}, {place}"] = max(values(rs, "largest"))
        some = [r for r in where(runs, place=place) if r["eps"]]
        of_bound = [r["gain"] * math.sqrt(r["eps"]) for r in some]
        found[f"gain / bound, {place}"] = float(np.median(of_bound))
        found[f"least gain / bound, {place}"] = min(of_bound)
        found[f"most gain / bound, {place}"] = max(of_bound)
    found["fail with 1e-05"] = sum(failed(where(runs, eps=USUAL)))
    return found


def without(n: Numbers) -> str:
    """The rule of [zero]."""
    lost = {place for place in LOOKS if n[f"fail with 0, {place}"].above(0.5)}
    if lost >= set(CONSTANT) and not n["fail with 1e-05"]:
        return SUPPORTED
    return PARTLY if lost else NOT_SUPPORTED


def bounded(n: Numbers) -> str:
    """The rule of [bound]."""
    most = max(n[f"most gain / bound, {place}"] for place in LOOKS)
    near = n["least gain / bound, input"] > 0.95
    return SUPPORTED if most <= 1 + 1e-5 and near else NOT_SUPPORTED


def harmless(n: Numbers, place: str) -> bool:
    """Whether no small ε changes much in this place."""
    changes = [v for k, v in n.items() if k.startswith("accuracy gained") and k.endswith(place)]
    losses = [v for k, v in n.items() if k.startswith("test loss") and k.endswith(place)]
    return all(v.above(-CLOSE) and v.below(CLOSE) for v in changes) and all(
        v.below(TWICE) for v in losses
    )


def any_small(n: Numbers) -> str:
    """The rule of [any]."""
    fine = [harmless(n, place) for place in LOOKS]
    return SUPPORTED if all(fine) else PARTLY if any(fine) else NOT_SUPPORTED


def listed(n: Numbers, name: str, form: str) -> str:
    """As in "1.0 (raw input), …", for each place."""
    said = []
    for place in LOOKS:
        value = n[f"{name}, {place}"]
        said.append(f"{format(getattr(value, 'middle', value), form)} ({place})")
    return ", ".join(said)


def draw(runs: list[Record]) -> Any:
    """Accuracy, gain and the largest normalized value, against ε; 0 stands apart, on the left."""
    figure, axes = panels(1, 3, width=11, height=3.9)
    epsilons = sorted({r["eps"] for r in runs})
    titles = {
        "test_accuracy": "test accuracy",
        "gain": "largest gain |dx| / |dy| before training",
        "largest": "largest normalized value of a test image",
    }
    for ax, (name, title) in zip(axes[0], titles.items(), strict=True):
        for place, (colour, marker, line, label) in LOOKS.items():
            found = {eps or NOTHING: arm(runs, place, eps) for eps in epsilons}
            known = {at: values(rs, name) for at, rs in found.items() if not any(failed(rs))}
            ax.plot([*known], [float(np.median(v)) for v in known.values()], color=colour,
                    ls=line, lw=1.6, marker=marker, ms=4, label=label)  # fmt: skip
            for at, sample in known.items():
                ax.plot([at] * len(sample), sample, marker, color=colour, ms=3, alpha=0.4, mew=0)
            lost = [r for r in where(runs, place=place) if r["diverged_at"] is not None]
            shift = 1.6 ** ([*LOOKS].index(place) - 1)
            if name == "test_accuracy":
                ax.plot([(r["eps"] or NOTHING) * shift for r in lost], values(lost, name), "x",
                        color=colour, ms=6, mew=1.4)  # fmt: skip
            elif lost:
                ax.text(NOTHING, 0.97 - 0.08 * [*LOOKS].index(place), "∞", fontsize=12,
                        transform=ax.get_xaxis_transform(), va="center", ha="center",
                        color=colour)  # fmt: skip
        ax.set(xscale="log", xlabel="ε")
        x = [eps or NOTHING for eps in epsilons]
        ax.set_xticks(x, [f"{eps:g}" for eps in epsilons], fontsize=7, rotation=40)
        ax.minorticks_off()
        ax.set_title(title, fontsize=9)
    left, middle, right = axes[0]
    percent(left.yaxis)
    left.set_ylim(0, 1.02)
    left.legend(frameon=False, fontsize=8, loc="center", bbox_to_anchor=(0.55, 0.4))
    for ax in (middle, right):
        ax.set_yscale("log")
    bound = np.array([1e-12, 10.0])
    middle.plot(bound, bound**-0.5, color="0.35", lw=0.9, ls=(0, (1, 1.5)))
    middle.annotate("1/√ε", (1e-8, 1e4), xytext=(6, 2), textcoords="offset points", fontsize=9)
    return figure


EXPERIMENT = Experiment(
    name="epsilon",
    text=__doc__,
    ran="MLPs of 2 × 64 units on digits, SGD with batches of 64, 600 steps, learning rates 0.1 and "
    "0.3. Only seeds in which a pixel is constant in the training data and not in the test data.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "epsilon.zero",
            decide=without,
            finding=lambda n: (
                "Without ε, the share of runs that end in NaN is "
                f"{listed(n, 'fail with 0', '.0%')}; with ε = 1e-5 it is "
                f"{'0' if not n['fail with 1e-05'] else 'not 0'}."
            ),
            answer=lambda n: (
                "Without ε, batch norm divides by zero as soon as a feature is the same in a whole "
                "batch: 0/0 is NaN, and NaN spreads to all weights. A pixel at the edge of the "
                "image is such a feature, and so is a unit that ReLU has silenced. Before ReLU "
                "nothing is constant, and the test accuracy without ε is "
                f"{n['accuracy with 0, before ReLU'].middle:.1%}, as with ε = 1e-5 "
                f"({n['accuracy with 1e-05, before ReLU'].middle:.1%})."
            ),
        ),
        Claim(
            "epsilon.bound",
            decide=bounded,
            finding=lambda n: (
                "Of the bound 1/√ε, the largest gain of a channel is at most "
                f"{listed(n, 'most gain / bound', '.3f')}; constant pixels reach it."
            ),
        ),
        Claim(
            "epsilon.any",
            decide=any_small,
            finding=lambda n: (
                "The test loss with ε = 1e-12 is "
                f"{listed(n, 'test loss with 1e-12 / with 1e-05', '.3g')} times that with 1e-5. A "
                "pixel that never varied in training makes values of up to "
                f"{n['largest value with 1e-12, input']:,.0f} of a test image, with 1e-5 of up to "
                f"{n['largest value with 1e-05, input']:,.0f}."
            ),
        ),
    ),
    pictures={
        "epsilon": Picture(
            draw,
            title=lambda n: "Without ε, a constant feature ends in NaN; a tiny ε makes it huge",
            caption="At the best learning rate: a point per seed and a line through the medians. "
            "×: runs that ended in NaN, at any learning rate; ∞: no finite number.",
        )
    },
    keys=("place", "eps", "lr"),
    measures={"test_accuracy": ".1%", "test_loss": ".3g", "gain": ".3g", "largest": ".3g"},
    # From 4 other seeds in the quick size and 3 in the default size. Whether a division is 0/0, and
    # the bound, do not depend on the seed; accuracies differ by 3 % between seeds. The largest
    # value was 2351 after 200 steps and 62 500 after 600.
    bands={
        "fail with 0, input": (1, 1),
        "fail with 0, before ReLU": (0, 0),
        "fail with 0, after ReLU": (0.7, 1),
        "fail with 1e-05": (0, 0),
        "least gain / bound, input": (0.95, 1.001),
        "most gain / bound, input": (0.95, 1.001),
        "accuracy with 1e-05, before ReLU": (0.9, 1),
        "accuracy with 1e-12, input": (0.88, 1),
        "largest value with 1e-12, input": (300, 1e6),
    },
    data=("digits",),
    seeds={"quick": 4, "default": 8, "full": 10},
    suits=varies_later,
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
