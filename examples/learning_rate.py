"""Is training less sensitive to the learning rate with batch norm?

The tutorial's experiment 2. Networks without norm, with batch norm and with layer norm learn at
learning rates half a decade apart, from 0.001 to 10. How many of them end well? The mechanism is
measured too: BN(aWx) = BN(Wx), so the gradient shrinks as the weights grow, and a step that was too
large makes the next ones smaller (Hoffer et al. 2018; van Laarhoven 2017).

About a minute on two cores. For example

    python examples/learning_rate.py --quick
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from experiment import NOT_SUPPORTED, PARTLY, SUPPORTED, Experiment, Verdict, main
from figures import band, crosses, panels, percent
from results import Record, group, spread, values, where
from training import TARGETS, Config, build, dataset, fit

import tinybn as tb

NORMS = ("none", "batch", "layer")
RATES = [round(10 ** (k / 2), 5) for k in range(-6, 3)]
GOOD = {data: target - 0.05 for data, target in TARGETS.items()}
"""A run ends well with this test accuracy."""
MOST = 100
"""Growth beyond this factor is not drawn: nothing is learnt there any more."""


def configurations(size: str) -> list[Record]:
    """Every norm at every learning rate; a quick look takes every second one."""
    steps = {"quick": 150, "default": 600, "full": 2000}[size]
    rates = RATES[::2] if size == "quick" else RATES
    return [{"norm": norm, "lr": lr, "steps": steps} for norm in NORMS for lr in rates]


def run(config: Record) -> Record:
    """Train; how it ends, and by which factor the hidden weights have grown."""
    options = Config(**config, momentum=0.0, every=50)
    model = build(options)
    before = size_of_weights(model)
    done = fit(model, dataset(options.data, options.seed, options.data_dir), options)
    return done.measures(GOOD[options.data]) | {"growth": size_of_weights(model) / before}


def size_of_weights(model: tb.nn.MLP) -> float:
    """The root of the sum of squares of all weights but the output layer's: where the norms are."""
    weights = [layer.weight for layer in model.layers[:-1] if isinstance(layer, tb.nn.Linear)]
    return sum(float((w.numpy().astype(np.float64) ** 2).sum()) for w in weights) ** 0.5


def decades(runs: list[Record], norm: str) -> list[float]:
    """For each seed, over how many decades of learning rates the runs end well."""
    rates = sorted({r["lr"] for r in runs})
    apart = round(np.log10(rates[1] / rates[0]), 2)
    seeds = group(where(runs, norm=norm), ["seed"]).values()
    return [apart * sum(r["test_accuracy"] >= GOOD[r["data"]] for r in rs) for rs in seeds]


def judge(runs: list[Record]) -> list[Verdict]:
    """Supported, if with batch norm the range is wider for every seed, and than layer norm's, too:
    otherwise it would be any norm's merit; partly, if only the medians are.
    """
    width = {norm: decades(runs, norm) for norm in NORMS}
    gain = {
        other: [a - b for a, b in zip(width["batch"], width[other], strict=True)]
        for other in ("none", "layer")
    }
    typical = {norm: spread(width[norm]) for norm in NORMS}
    if min(gain["none"]) > 0:
        verdict = SUPPORTED
    else:
        verdict = PARTLY if typical["batch"].median > typical["none"].median else NOT_SUPPORTED
    said = {norm: typical[norm].text(".1f") for norm in NORMS}
    diverged = {n: sum(r["diverged_at"] is not None for r in where(runs, norm=n)) for n in NORMS}
    each, good = len(where(runs, norm="none")), GOOD[runs[0]["data"]]
    return [
        Verdict(
            claim="Batch norm makes training less sensitive to the learning rate.",
            verdict=verdict,
            finding=f"Learning rates that work span {typical['batch'].median:.1f} decades with "
            f"batch norm, {typical['layer'].median:.1f} with layer norm, "
            f"{typical['none'].median:.1f} without",
            why=f"Test accuracy is at least {good:.0%} over {said['batch']} decades of learning "
            f"rates with batch norm, {said['layer']} with layer norm, {said['none']} without; "
            f"{diverged['batch']}, {diverged['layer']} and {diverged['none']} of {each} runs "
            "diverged.",
            numbers={f"decades {norm}": typical[norm].median for norm in NORMS}
            | {"decades gained": spread(gain["none"]).median},
        )
    ]


def draw(runs: list[Record]) -> Any:
    """Left, test accuracy; right, the mechanism: how far the weights grow."""
    figure, ((left, right),) = panels(1, 2)
    for norm in NORMS:
        arms = group(where(runs, norm=norm), ["lr"])
        rates = [lr for (lr,) in arms]
        band(
            left, rates, [[r["test_accuracy"] for r in rs] for rs in arms.values()], norm, mark=True
        )
        lost = [r for r in where(runs, norm=norm) if r["diverged_at"] is not None]
        crosses(left, [r["lr"] for r in lost], [r["test_accuracy"] for r in lost], norm)
        growth = {lr: [v for v in values(rs, "growth") if v < MOST] for (lr,), rs in arms.items()}
        growth = {lr: known for lr, known in growth.items() if known}
        band(right, [*growth], [*growth.values()], norm, mark=True)
    left.axhline(GOOD[runs[0]["data"]], color="0.5", lw=0.8)
    left.set(xscale="log", xlabel="learning rate", ylabel="test accuracy", ylim=(0, 1.02))
    percent(left.yaxis)
    right.set(xscale="log", yscale="log", xlabel="learning rate", ylim=(0.9, MOST))
    right.set_ylabel("growth of the hidden weights (factor)")
    right.legend(frameon=False)
    return figure


EXPERIMENT = Experiment(
    name="learning_rate",
    text=__doc__,
    configurations=configurations,
    run=run,
    judge=judge,
    draw=draw,
    keys=("norm", "lr"),
    measures={"test_accuracy": ".1%", "loss": ".3g", "growth": ".3g"},
    # From 20 other seeds in the quick size (batch norm 2 decades for each seed, none 0 to 1) and 5
    # in the default size (3 and 2); more steps widen the range at its lower end by up to a decade.
    bands={
        "decades batch": (1.5, 4.5),
        "decades none": (0.5, 3.5),
        "decades gained": (0.5, 2.5),
    },
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
