"""Does a network with batch norm do in evaluation what it did in training?

The tutorial does not ask, and everybody trips over it: training normalizes a batch by its own
statistics, and evaluation by others. MLPs of 3 × 64 units learn with batches of 4 to 64, with batch
norm and running statistics of momentum 0.01 to 0.5, and with layer norm. Test accuracy is measured
at several steps with

* the running statistics;
* statistics recomputed from all training data ("precise": Wu & Johnson 2021);
* each batch's own statistics, as in training, for shuffled batches and for batches sorted by label,
  because then an answer depends on what else is in the batch.

Layer norm has no statistics of the batch: all four must give the same answers.

In the last part the batch size varies within one training run: each step draws one of 2 to 64. The
tutorial's question 2 recommends layer norm for that. Each norm uses the best of three learning
rates, by validation accuracy.

A minute on two cores. For example

    python examples/train_and_eval.py --quick
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import tinybn as tb
from lab.command import main
from lab.figures import NAMES, OTHERS, STYLES, dots, panels, percent
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

BATCHES = (4, 16, 64)
MOMENTA = (0.01, 0.1, 0.5)
LOOKS = (50, 100, 200, 500, 1000, 2000)
EARLY = 50
"""A look at which running statistics with a small momentum are not there yet."""
USUAL = 0.1
"""PyTorch's momentum, and ours."""
WAYS = {  # what the statistics are of, and how they are drawn
    "running": ("running statistics", STYLES["batch"][0], "-", "o"),
    "precise": ("recomputed from the training data", OTHERS[2], "--", "D"),
    "shuffled": ("the batch's own, shuffled", OTHERS[3], ":", "s"),
    "sorted": ("the batch's own, sorted by label", OTHERS[0], "-.", "^"),
}
VARYING = (2, 4, 8, 16, 32, 64)
"""The batch sizes that are drawn in one training run; their mean is 21."""
NORMS = ("none", "batch", "layer")
RATES = (0.03, 0.1, 0.3)
SAME = 0.02
"""Accuracies that differ by less count as equal."""
AHEAD = 0.01
"""A lead in test accuracy that counts."""


def configurations(size: str) -> list[Record]:
    """Every batch size with every momentum; layer norm; and varying batches at every rate."""
    quick = size == "quick"
    batches = BATCHES[::2] if quick else BATCHES
    momenta = MOMENTA[:2] if quick else MOMENTA
    steps = {"quick": 200, "default": 1000, "full": 2000}[size]
    usual = {"batches": "one size", "lr": 0.05, "steps": steps}
    arms = [
        usual | {"norm": "batch", "batch_size": b, "momentum": m} for b in batches for m in momenta
    ]
    arms += [usual | {"norm": "layer", "batch_size": b, "momentum": 0.0} for b in batches]
    return arms + [
        {"batches": "varying", "norm": norm, "batch_size": 0, "momentum": USUAL, "lr": lr}
        | {"steps": steps}
        for norm in NORMS
        for lr in (RATES[1:2] if quick else RATES)
    ]


def run(config: Record) -> Record:
    """Train, and measure the test accuracy in every way at each look."""
    rest = {key: value for key, value in config.items() if key not in ("momentum", "batches")}
    options = Config(**rest, momentum=0.0, every=config["steps"])
    data = dataset(options.data, options.seed, options.data_dir)
    model = build(options)
    for norm in norms(model):
        norm.momentum = config["momentum"]
    if config["batches"] == "varying":
        diverged_at = fit_varying(model, data, options)
        with np.errstate(all="ignore"):
            validation, test = (accuracy(model, part, options.backend) for part in data[2:4])
        measured = {"validation_accuracy": validation, "running": test}
        return measured | {"diverged_at": diverged_at}
    curves: dict[str, list[float]] = {way: [] for way in WAYS}

    def look(step: int) -> None:
        if step in LOOKS:
            for way, value in evaluate(model, data, options).items():
                curves[way].append(value)

    options = Config(**rest, momentum=0.0, every=EARLY)
    done = fit(model, data, options, look=look)
    ends = {way: curve[-1] for way, curve in curves.items()}
    return {**ends, "curves": curves, "diverged_at": done.diverged_at}


def fit_varying(model: tb.nn.Module, data: tb.data.Dataset, config: Config) -> int | None:
    """Train with a batch size drawn anew for each step; the step that diverged, or None.

    An odd last batch of one example cannot be among them: batch norm raises for it.
    """
    assert config.steps is not None
    optimizer = tb.optim.SGD(model.parameters(), config.lr)

    @tb.compile
    def step(x: Any, labels: np.ndarray) -> tb.Tensor:
        optimizer.zero_grad()
        loss = tb.ops.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    x = tb.tensor(data.train.x, backend=config.backend).data
    order = stream(config.seed, "order")
    with np.errstate(all="ignore"):
        for number, size in enumerate(order.choice(VARYING, config.steps), 1):
            i = order.choice(len(data.train.y), size, replace=False)
            loss = step(x[i], data.train.y[i])
            if number % 50 == 0 and not math.isfinite(loss.item()):
                return number
    return None


def norms(model: tb.nn.Module) -> list[tb.nn.BatchNorm]:
    """The batch norms of the model."""
    return [layer for layer in model.modules() if isinstance(layer, tb.nn.BatchNorm)]


def evaluate(model: tb.nn.Module, data: tb.data.Dataset, config: Config) -> dict[str, float]:
    """The test accuracy in each of the WAYS."""
    test = data.test
    mixed = stream(config.seed, "noise").permutation(len(test.y))
    found = {"running": accuracy(model, test, config.backend)}
    with kept(model), tb.no_grad():
        for norm in norms(model):
            norm.momentum = 1.0  # forget the old statistics
        model(tb.tensor(data.train.x, backend=config.backend))
        found["precise"] = accuracy(model, test, config.backend)
    with kept(model), tb.no_grad():
        for way, order in (("shuffled", mixed), ("sorted", np.argsort(test.y, kind="stable"))):
            hits = []
            for i in in_batches(order, config.batch_size):
                scores = model(tb.tensor(test.x[i], backend=config.backend)).numpy()
                hits.append(scores.argmax(axis=1) == test.y[i])
            found[way] = float(np.mean(np.concatenate(hits)))
    return found


def in_batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """All of them, in batches of nearly the size, so that no example is left out."""
    return np.array_split(order, max(1, len(order) // size))


@contextmanager
def kept(model: tb.nn.Module) -> Iterator[None]:
    """Restore the running statistics and their momentum afterwards."""
    state, momenta = model.state_dict(), [norm.momentum for norm in norms(model)]
    yield
    model.load_state_dict(state)
    for norm, momentum in zip(norms(model), momenta, strict=True):
        norm.momentum = momentum


def measure(runs: list[Record]) -> Numbers:
    """Accuracy in every way, how the ways differ, and how the norms do with varying batches."""
    found: dict[str, Interval | float] = {}
    fixed = where(runs, batches="one size")
    batches = sorted({r["batch_size"] for r in fixed})
    for b in batches:
        usual = where(fixed, norm="batch", batch_size=b, momentum=USUAL)
        for way in WAYS:
            found[f"{way}, batch {b}"] = mean_interval(values(usual, way))
        gap = [r["running"] - r["shuffled"] for r in usual]
        mix = [r["shuffled"] - r["sorted"] for r in usual]
        found[f"running less shuffled, batch {b}"] = mean_interval(gap)
        found[f"shuffled less sorted, batch {b}"] = mean_interval(mix)
        found[f"precise less running, batch {b}"] = mean_interval([behind(r, -1) for r in usual])
        layer = where(fixed, norm="layer", batch_size=b)
        found[f"layer norm, batch {b}"] = mean_interval(values(layer, "running"))
    found["layer norm, largest difference"] = max(
        abs(r[way] - r["running"]) for r in where(fixed, norm="layer") for way in WAYS
    )
    momenta = sorted({r["momentum"] for r in where(fixed, norm="batch")})
    slow = where(fixed, norm="batch", batch_size=batches[-1], momentum=momenta[0])
    hasty = where(fixed, norm="batch", batch_size=batches[0], momentum=momenta[-1])
    found["lag of a small momentum"] = mean_interval([behind(r, LOOKS.index(EARLY)) for r in slow])
    found["noise of a large momentum"] = mean_interval([behind(r, -1) for r in hasty])
    chosen = {norm: best(where(runs, batches="varying", norm=norm)) for norm in NORMS}
    for norm, rs in chosen.items():
        found[f"varying, {norm}"] = mean_interval(values(rs, "running"))
    for other in ("batch", "none"):
        lead = differences(chosen["layer"], chosen[other], "running")
        found[f"varying, layer less {other}"] = mean_interval(lead)
    return found


def batches_of(n: Any) -> list[int]:
    """The batch sizes that were measured, one at a time."""
    return [b for b in BATCHES if f"running, batch {b}" in n]


def near(value: Interval, limit: float) -> bool:
    """Whether the whole interval is nearer to 0 than the limit."""
    return value.above(-limit) and value.below(limit)


def one_formula(n: Any) -> str:
    """The rule of [modes]."""
    alike = [
        all(near(n[f"{name}, batch {b}"], SAME) for b in batches_of(n))
        for name in ("running less shuffled", "shuffled less sorted")
    ]
    return SUPPORTED if all(alike) else PARTLY if any(alike) else NOT_SUPPORTED


def running_is_enough(n: Any) -> str:
    """The rule of [running]."""
    steady = all(n[f"precise less running, batch {b}"].below(SAME) for b in batches_of(n))
    always = all(
        n[f"{name} momentum"].below(SAME) for name in ("lag of a small", "noise of a large")
    )
    return SUPPORTED if steady and always else PARTLY if steady else NOT_SUPPORTED


def same_in_both(n: Any) -> str:
    """The rule of [layer]."""
    return SUPPORTED if n["layer norm, largest difference"] < 0.005 else NOT_SUPPORTED


def better_with_varying(n: Any) -> str:
    """The rule of [varying]."""
    lead = n["varying, layer less batch"]
    if lead.above(0):
        return SUPPORTED if lead.above(AHEAD) else PARTLY
    return NOT_SUPPORTED if lead.below(AHEAD) else NOT_RESOLVED


def behind(run: Record, look: int) -> float:
    """How much better recomputed statistics are than running ones."""
    return run["curves"]["precise"][look] - run["curves"]["running"][look]


def draw(runs: list[Record]) -> Any:
    """Accuracy by batch size in every way; two momenta that go wrong; varying batches."""
    figure, ((sizes, varying), (slow, hasty)) = panels(2, 2, width=9.5, height=7)
    fixed = where(runs, batches="one size")
    batches = sorted({r["batch_size"] for r in fixed})
    for norm, ways in (("batch", WAYS), ("layer", ("running",))):
        for way in ways:
            label, colour, style, mark = WAYS[way]
            form = {"color": colour, "ls": style, "marker": mark, "label": label}
            if norm == "layer":
                form = {"color": STYLES[norm][0], "ls": STYLES[norm][1], "marker": "v"}
                form["label"] = "layer norm (the same in every way)"
            momentum = USUAL if norm == "batch" else 0.0
            arms = [where(fixed, norm=norm, batch_size=b, momentum=momentum) for b in batches]
            curve(sizes, batches, [values(rs, way) for rs in arms], **form)
    sizes.set(xscale="log", xlabel="batch size")
    sizes.set_xticks(batches, [str(b) for b in batches])
    sizes.minorticks_off()
    sizes.set_title(f"batch norm (momentum {USUAL:g}) and layer norm", fontsize=9)
    momenta = sorted({r["momentum"] for r in where(fixed, norm="batch")})
    for ax, b, momentum in ((slow, batches[-1], momenta[0]), (hasty, batches[0], momenta[-1])):
        arm = where(fixed, norm="batch", batch_size=b, momentum=momentum)
        for way in ("running", "precise", "shuffled"):
            label, colour, style, mark = WAYS[way]
            samples = [*zip(*(r["curves"][way] for r in arm), strict=True)]
            curve(ax, LOOKS[: len(samples)], samples, color=colour, ls=style, marker=mark)
        ax.set(xscale="log", xlabel="step")
        ax.set_title(f"batch norm, batches of {b}, momentum {momentum:g}", fontsize=9)
    for i, norm in enumerate(NORMS):
        chosen = best(where(runs, batches="varying", norm=norm))
        dots(varying, [i], [values(chosen, "running")], norm, bar=0.2)
    varying.set_xticks(range(len(NORMS)), [NAMES[norm] for norm in NORMS])
    varying.set_title("batch size drawn from 2 to 64 in each step", fontsize=9)
    for ax in (sizes, varying, slow, hasty):
        percent(ax.yaxis)
    for ax in (sizes, slow, hasty):
        ax.set_ylim(0, 1.02)
    for ax in (sizes, slow):
        ax.set_ylabel("test accuracy")
    figure.legend(*sizes.get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False, fontsize=8)  # fmt: skip
    return figure


def curve(ax: Any, x: Any, samples: Any, **form: Any) -> None:
    """Medians as a line, and the range over seeds as a band."""
    ax.plot(x, [float(np.median(s)) for s in samples], ms=3.5, lw=1.5, **form)
    low, high = [min(s) for s in samples], [max(s) for s in samples]
    ax.fill_between(x, low, high, color=form["color"], alpha=0.13, lw=0)


def share(value: Interval) -> str:
    """As in "83 %"."""
    return f"{100 * value.middle:.0f} %"


def points(value: Interval) -> str:
    """As in "-0.3 (-1.1 to 0.4)", in points of accuracy."""
    return Interval(*(100 * v for v in value)).text(".1f")


EXPERIMENT = Experiment(
    name="train_and_eval",
    text=__doc__,
    ran="ReLU networks of 3 × 64 units on digits, 1000 steps: batches of 4, 16 and 64 with three "
    "momenta; and batch sizes drawn from 2 to 64 in each step, at three learning rates.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "train_and_eval.modes",
            decide=one_formula,
            finding=lambda n: (
                "With the statistics of its own batch of 4, a network labels "
                f"{share(n['shuffled, batch 4'])} rightly, and of 64 sorted by label "
                f"{share(n['sorted, batch 64'])}; with running statistics "
                f"{share(n['running, batch 4'])} and {share(n['running, batch 64'])}."
            ),
            answer=lambda n: (
                "With the batch's own statistics, the answer for one example depends on the others "
                "in its batch. So evaluation uses running statistics, and a model must be told "
                "which mode it is in."
            ),
        ),
        Claim(
            "train_and_eval.running",
            decide=running_is_enough,
            finding=lambda n: (
                "Recomputed statistics are better by "
                + " and ".join(
                    points(n[f"precise less running, batch {b}"]) for b in (BATCHES[0], BATCHES[-1])
                )
                + " points with momentum 0.1 and batches of 4 and 64."
            ),
            answer=lambda n: (
                f"After {EARLY} steps with a small momentum the running statistics lag behind: "
                f"that costs {points(n['lag of a small momentum'])} points. With a large momentum "
                "and batches of 4 they are those of a few batches: that costs "
                f"{points(n['noise of a large momentum'])} points."
            ),
        ),
        Claim(
            "train_and_eval.layer",
            decide=same_in_both,
            finding=lambda n: (
                "With layer norm, test accuracy is the same in all four ways, to "
                f"{100 * n['layer norm, largest difference']:.2g} points, with every batch size."
            ),
            answer=lambda n: (
                "Layer norm takes its statistics from one example. It has no running statistics, "
                "and does the same in training and in evaluation."
            ),
        ),
        Claim(
            "train_and_eval.varying",
            decide=better_with_varying,
            finding=lambda n: (
                "With a batch size drawn from 2 to 64 in each step, layer norm gets to "
                f"{percentage(n['varying, layer'])}, batch norm to "
                f"{percentage(n['varying, batch'])} and no norm to "
                f"{percentage(n['varying, none'])}."
            ),
            answer=lambda n: (
                f"Layer norm is {points(n['varying, layer less batch'])} points ahead of batch "
                "norm, which gets to "
                f"{percentage(n['running, batch 16'])} if all batches have 16 examples. A batch "
                "of two leaves batch norm nothing but ±1, and a batch of one is an error; layer "
                "norm does not look at the batch."
                if "running, batch 16" in n
                else ""
            ),
        ),
    ),
    pictures={
        "train_and_eval": Picture(
            draw,
            title=lambda n: "Batch norm has two modes; layer norm has one",
            caption="Test accuracy with four kinds of statistics. Lines are medians, bands ranges "
            "over seeds; top right a point per seed and a bar at the median, at the best learning "
            "rate.",
        )
    },
    keys=("batches", "norm", "batch_size", "momentum", "lr"),
    measures={"running": ".1%"},
    # From 6 other seeds in the quick size (0.21, 0.01, 0.50, 0.38, 0.19, 0 and 0) and 3 in the
    # default size (0.18, 0.00, 0.59, 0.39, 0.15, 0.00 and 0).
    bands={
        "running less shuffled, batch 4": (0.08, 0.4),
        "running less shuffled, batch 64": (-0.04, 0.06),
        "shuffled less sorted, batch 4": (0.3, 0.75),
        "shuffled less sorted, batch 64": (0.2, 0.6),
        "lag of a small momentum": (0.04, 0.5),
        "precise less running, batch 64": (-0.04, 0.06),
        "layer norm, largest difference": (0, 0.005),
    },
    seeds={"quick": 2, "default": 6, "full": 10},
)


def percentage(value: Interval) -> str:
    """As in "96.3 % (95.8 to 96.9)"."""
    clipped = (min(max(v, 0.0), 1.0) for v in value)  # Student's t knows no 100 %
    middle, low, high = (f"{100 * v:.1f}" for v in clipped)
    return f"{middle} % ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
