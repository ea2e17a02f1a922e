"""Does a network need the gamma and beta that it learns?

The last of the tutorial's four steps scales by gamma and shifts by beta, and both are learned. An
MLP of 3 × 64 units, with ReLU or sigmoid, learns neither of them, gamma alone, beta alone, or both.
A fifth one learns nothing but gamma and beta: all its weights stay as they were drawn (Frankle,
Schwab & Morcos 2021, 2003.00152). Each uses the best of its learning rates, by validation data.

Half a minute on two cores. For example

    python examples/gamma_beta.py --quick
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import tinybn as tb
from lab.command import main
from lab.figures import dots, panels, percent
from lab.intervals import Interval, mean_interval, median_interval
from lab.records import Record, best, differences, fastest, ratios, values, where
from lab.training import TARGETS, Config, dataset, fit, stream
from lab.verdicts import NOT_SUPPORTED, PARTLY, SUPPORTED, Claim, Experiment, Numbers, Picture

NETS: dict[str, Record] = {
    "ReLU": {"activation": "relu", "init": "he"},
    "sigmoid": {"activation": "sigmoid", "init": "xavier"},
}
LEARNED = ("neither", "gamma", "beta", "both", "nothing else")
"""What batch norm learns; the last arm learns both and keeps all weights as they were drawn."""
RATES = (0.3, 1.0, 3.0)
ALONE = (1.0, 3.0, 10.0)
"""Learning rates for gamma and beta alone, which need larger ones."""
ENOUGH = 0.01
"""A difference of test accuracy that counts."""


class Fixed(tb.nn.Module):
    """x @ weight, with a weight that is not learned."""

    def __init__(self, weight: tb.Tensor) -> None:
        self.weight = weight.data  # an array is no parameter

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return tb.ops.matmul(x, self.weight)


def configurations(size: str) -> list[Record]:
    """Each net with each choice at each learning rate; quick: one net, one rate."""
    steps = {"quick": 200, "default": 300, "full": 2000}[size]
    quick = size == "quick"
    return [
        {"net": net, "learned": learned, "lr": lr, "steps": steps}
        for net in ([*NETS][:1] if quick else NETS)
        for learned in LEARNED
        for lr in (ALONE if learned == "nothing else" else RATES)[: 1 if quick else None]
    ]


def run(config: Record) -> Record:
    """Train with what may be learned."""
    learned = config["learned"]
    rest = {key: value for key, value in config.items() if key not in ("net", "learned")}
    options = Config(**rest, **NETS[config["net"]], momentum=0.0, every=10, early=60)
    data = dataset(options.data, options.seed, options.data_dir)
    return fit(build(options, data, learned), data, options).measures(TARGETS[options.data])


def build(config: Config, data: tb.data.Dataset, learned: str) -> tb.nn.MLP:
    """An MLP with batch norm that learns gamma, beta, both or neither."""

    def norm(width: int) -> tb.nn.BatchNorm:
        layer = tb.nn.BatchNorm(width)
        if learned in ("neither", "beta"):
            layer.gamma = None  # as if it were 1
        if learned in ("neither", "gamma"):
            layer.beta = None  # as if it were 0
        return layer

    with tb.use_backend(config.backend):
        model = tb.nn.MLP(
            [data.features, *config.hidden, data.classes],
            norm,
            config.activation,
            init=config.init,  # type: ignore[arg-type]
            rng=stream(config.seed, "weights"),
        )
    if learned == "nothing else":
        model.layers = tuple(
            Fixed(layer.weight) if isinstance(layer, tb.nn.Linear) else layer
            for layer in model.layers
        )
    return model


def arm(runs: list[Record], net: str, learned: str) -> list[Record]:
    """The runs at the learning rate that was fastest on validation data."""
    return best(where(runs, net=net, learned=learned), by=fastest)


def measure(runs: list[Record]) -> Numbers:
    """Steps and accuracy of each choice, against learning neither."""
    found: dict[str, Interval | float] = {}
    for net in dict.fromkeys(r["net"] for r in runs):
        neither = arm(runs, net, "neither")
        for learned in LEARNED:
            chosen = arm(runs, net, learned)
            found[f"steps, {net}, {learned}"] = median_interval(values(chosen, "steps_to_target"))
            found[f"accuracy, {net}, {learned}"] = mean_interval(values(chosen, "test_accuracy"))
        both = arm(runs, net, "both")
        found[f"steps, {net}, neither to both"] = median_interval(
            ratios(neither, both, "steps_to_target")
        )
        found[f"accuracy, {net}, both less neither"] = mean_interval(
            differences(both, neither, "test_accuracy")
        )
    return found


def nets_of(n: Any) -> list[str]:
    """The networks that were measured."""
    return [net for net in NETS if f"steps, {net}, both" in n]


def needed(n: Any) -> str:
    """The rule of [learn]."""
    missed = [
        n[f"steps, {net}, neither to both"].above(1)
        or n[f"accuracy, {net}, both less neither"].above(0)
        for net in nets_of(n)
    ]
    return SUPPORTED if all(missed) else PARTLY if any(missed) else NOT_SUPPORTED


def enough(n: Any) -> str:
    """The rule of [alone]."""
    far = [n[f"accuracy, {net}, nothing else"].above(0.5) for net in nets_of(n)]
    return SUPPORTED if all(far) else PARTLY if any(far) else NOT_SUPPORTED


def draw(runs: list[Record]) -> Any:
    """Steps and accuracy for each choice, a column per net."""
    nets = list(dict.fromkeys(r["net"] for r in runs))
    figure, axes = panels(2, len(nets), height=5.4)
    finite = [v for v in values(runs, "steps_to_target") if np.isfinite(v)]
    never = 1.5 * max(finite)
    for (above, below), net in zip(axes.T, nets, strict=True):
        arms = [arm(runs, net, learned) for learned in LEARNED]
        steps = [[min(v, never) for v in values(rs, "steps_to_target")] for rs in arms]
        dots(above, range(len(LEARNED)), steps, "batch", bar=0.25)
        dots(below, range(len(LEARNED)), [values(rs, "test_accuracy") for rs in arms], "batch",
             bar=0.25)  # fmt: skip
        above.set_title(f"{net}, batch norm", fontsize=9)
        above.axhline(never, color="0.6", lw=0.8)
        above.set(yscale="log", ylim=(10, 1.4 * never))
        below.set_ylim(0, 1.02)
        percent(below.yaxis)
        for ax in (above, below):
            ax.set_xticks(range(len(LEARNED)), LEARNED, fontsize=8)
    axes[0, 0].annotate("never", (-0.2, never), xytext=(0, 2), textcoords="offset points",
                        ha="left", fontsize=8, color="0.4")  # fmt: skip
    axes[0, 0].set_ylabel(f"steps to {TARGETS[runs[0]['data']]:.0%}")
    axes[1, 0].set_ylabel("test accuracy at the end")
    figure.supxlabel("what is learned of gamma and beta", fontsize=9)
    return figure


def told(n: Any, name: str, form: str) -> str:
    """A number for each net, as in "1.1 (0.9 to 1.3) with ReLU and …"."""
    return " and ".join(f"{n[name.format(net)].text(form)} ({net})" for net in nets_of(n))


EXPERIMENT = Experiment(
    name="gamma_beta",
    text=__doc__,
    ran="Networks of 3 × 64 units, ReLU or sigmoid, with batch norm on digits, 300 steps of 64; "
    "three learning rates for each choice of what is learned.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "gamma_beta.learn",
            decide=needed,
            finding=lambda n: (
                "Learning neither takes "
                + " and ".join(
                    f"{n[f'steps, {net}, neither to both'].text('.2g')} ({net})"
                    for net in nets_of(n)
                )
                + " times the steps of learning both."
            ),
            answer=lambda n: (
                "Gamma and beta let the network undo the first three steps. The next layer's "
                "weights can do the same, so little is lost without them."
            ),
        ),
        Claim(
            "gamma_beta.alone",
            decide=enough,
            finding=lambda n: (
                "With random weights, gamma and beta alone get to "
                + " and ".join(
                    f"{100 * n[f'accuracy, {net}, nothing else'].middle:.0f} % ({net})"
                    for net in nets_of(n)
                )
                + " test accuracy; guessing gets to 10 %."
            ),
        ),
    ),
    pictures={
        "gamma_beta": Picture(
            draw,
            title=lambda n: "Learning neither gamma nor beta costs little; alone, they learn a lot",
            caption="Steps to the target and test accuracy after 300 steps, at the learning rate "
            "that was fastest on validation data; a point per seed, a bar at the median. "
            "“Nothing else”: all weights stay random.",
        )
    },
    keys=("net", "learned", "lr"),
    measures={"steps_to_target": ".0f", "test_accuracy": ".1%", "loss": ".3g"},
    # From 6 other seeds in the quick size (1.02, 0.00 and 0.82) and 3 in the default size (0.91,
    # 0.00 and 0.87).
    bands={
        "steps, ReLU, neither to both": (0.5, 2),
        "accuracy, ReLU, both less neither": (-0.04, 0.04),
        "accuracy, ReLU, nothing else": (0.6, 0.96),
    },
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
