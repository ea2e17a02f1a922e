"""Does batch norm work because it reduces the internal covariate shift?

The usual explanation says that the distribution of each layer's input no longer changes while the
layers below it learn. Santurkar et al. (2018, 1805.11604) put the change back: noise follows each
batch norm, with a nonzero mean and a variance other than 1 that are drawn for each unit at each
step. An MLP of 5 × 64 units learns at five learning rates: without norm, with batch norm, with
batch norm and noise (as strong as theirs, and four times as strong), and with the noise alone. How
fast does it learn, and how much do the layers' inputs shift from step to step?

Santurkar et al. also measure the shift by gradients (definition 2.1): how much does the gradient of
a layer change when the layers below it take their step? And their own explanation is smoothness:
how much do the loss and the gradient change along the direction of the gradient?

A minute and a half on two cores. For example

    python examples/covariate_shift.py --quick
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
from lab.intervals import Interval, median_interval, written
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

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
SAME = 0.1
"""The learning rate at which the smoothness is compared."""
SMALL = 0.01
"""A learning rate at which all steps are small."""
ALONG = (0.25, 0.5, 1.0, 2.0, 4.0)
"""So many times the learning rate along the gradient: where loss and gradient are looked at."""
NETS: dict[str, tuple[str, float, str, str, str]] = {
    "no norm": ("none", 0, *STYLES["none"], "s"),
    "noise alone": ("none", 1, OTHERS[3], ":", "v"),
    "batch norm": ("batch", 0, *STYLES["batch"], "o"),
    "batch norm, noise": ("batch", 1, OTHERS[1], "-.", "D"),
    "batch norm, 4 × noise": ("batch", 4, OTHERS[0], "-.", "^"),
}
"""The norm, how much noise, and how it is drawn."""
MILD, STRONG = "batch norm, noise", "batch norm, 4 × noise"
EARLY = 100
"""Up to here, medians of shift and smoothness are taken: later, batch norm has little to learn."""
PROBES = (20, 40, 60, 80, EARLY, 200, 400)
"""The steps at which shift and smoothness are measured."""
MEASURES = ("shift", "gradient_shift", "cosine", "loss_range", "gradient_change", "smoothness")


class Noise(tb.nn.Module):
    """s·x + m in training, with new s and m in every step.

    m ~ U(μ ± 0.1) and s ~ N(σ, 0.1²) for each value; μ ~ U(±amount/2) and σ ~ U(1, 1 + amount/4)
    for each unit. Evaluation uses their means, 0 and 1 + amount/8.
    """

    def __init__(self, amount: float, seed: tuple[int, int]) -> None:
        self.amount = amount
        self.seed = seed
        self.count = 0

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        if not self.training:
            return x * (1 + self.amount / 8)
        rng = np.random.default_rng([*self.seed, self.count])
        self.count += 1
        mean = rng.uniform(-self.amount / 2, self.amount / 2, x.shape[1])
        deviation = rng.uniform(1, 1 + self.amount / 4, x.shape[1])
        m = mean + rng.uniform(-0.1, 0.1, x.shape)
        s = deviation + 0.1 * rng.standard_normal(x.shape)
        scale, shift = (tb.tensor(a.astype(np.float32), backend=x.backend) for a in (s, m))
        return x * scale + shift


def configurations(size: str) -> list[Record]:
    """Every net at every learning rate; two of them for a quick look."""
    steps = {"quick": 200, "default": 400, "full": 1500}[size]
    rates = (SMALL, SAME, 0.3) if size == "quick" else RATES
    return [{"net": net, "lr": lr, "steps": steps} for net in NETS for lr in rates]


def run(config: Record) -> Record:
    """Train, and measure shift and smoothness at some steps."""
    norm, amount, *_ = NETS[config["net"]]
    rest = {key: value for key, value in config.items() if key != "net"}
    options = Config(
        **rest,
        norm=norm,
        hidden=(64,) * 5,
        momentum=0.0,
        every=10,
        early=100,
        compile=not amount,  # Noise counts its steps, which a recorded program would not do
    )
    data = dataset(options.data, options.seed, options.data_dir)
    model = build(options, data, amount)
    rng = stream(options.seed, "noise")
    probes: list[Record] = []

    def look(step: int) -> None:
        if step in PROBES:
            batch = rng.choice(len(data.train.y), options.batch_size, replace=False)
            probes.append(
                {"step": step} | probe(model, data.train.x[batch], data.train.y[batch], options)
            )

    done = fit(model, data, options, look=look)
    measured = done.measures(TARGETS[options.data])
    curves = {name: [p[name] for p in probes] for name in ("step", *MEASURES)}
    early = {name: [p[name] for p in probes if p["step"] <= EARLY] for name in MEASURES}
    typical = {name: float(np.median(v)) if v else None for name, v in early.items()}
    return measured | typical | {"curves": curves}


def build(config: Config, data: tb.data.Dataset, amount: float) -> tb.nn.Sequential:
    """Linear, norm, noise and ReLU for each hidden layer, and a Linear at the end."""
    sizes, rng = [data.features, *config.hidden], stream(config.seed, "weights")
    layers: list[tb.nn.Module] = []
    with tb.use_backend(config.backend):
        for i, (n, m) in enumerate(pairwise(sizes)):
            layers.append(tb.nn.Linear(n, m, bias=config.norm == "none", init="he", rng=rng))
            layers += [tb.nn.BatchNorm(m)] if config.norm == "batch" else []
            layers += [Noise(amount, (config.seed, i))] if amount else []
            layers.append(tb.nn.ReLU())
        layers.append(tb.nn.Linear(sizes[-1], data.classes, init="he", rng=rng))
        return tb.nn.Sequential(*layers)


def probe(model: tb.nn.Sequential, x: np.ndarray, y: np.ndarray, config: Config) -> Record:
    """The effect of steps along the gradient, on one batch.

    shift: how far the mean of a layer's input moves in one step, in its standard deviations: the
        root of the mean square over all units, the noise being another after the step.
    gradient_shift: ‖G' - G‖/‖G‖, where G is the gradient of a layer's weights, and G' the same
        after the layers below have taken their step (definition 2.1); cosine: that between G and
        G'. Both are means over the layers above the first.
    loss_range: the largest less the smallest loss within 4 steps (Santurkar et al., figure 4a).
    gradient_change: the largest ‖g' - g‖/‖g‖ there; smoothness: the largest ‖g' - g‖/(η ‖g‖), which
        is how fast the gradient turns (figures 4b and 4c). The noise is held fixed there.
    """
    inputs = tb.tensor(x, backend=config.backend)
    parameters = model.parameters()
    noises = [layer for layer in model.modules() if isinstance(layer, Noise)]
    state, counts = model.state_dict(), [noise.count for noise in noises]
    begin = [p.numpy() for p in parameters]

    def at(
        step: float, later: int = 0, below: int | None = None
    ) -> tuple[float, np.ndarray, list[np.ndarray]]:
        """Loss, gradient and layer inputs after a step of size `step` along the gradient, of all
        parameters or of the first `below` alone.
        """
        for i, (p, old, g) in enumerate(zip(parameters, begin, first, strict=True)):
            size = step if below is None or i < below else 0.0
            moved = (old - config.lr * size * g).astype(old.dtype)
            p.data = tb.tensor(moved, backend=config.backend).data
        for noise, count in zip(noises, counts, strict=True):
            noise.count = count + later
        seen, h = [], inputs
        for layer in model.layers:
            if isinstance(layer, tb.nn.Linear) and h is not inputs:
                seen.append(h.numpy())
            h = layer(h)
        loss = tb.ops.cross_entropy(h, y)
        gradients[:] = [g.numpy() for g in tb.grad(loss, parameters)]
        return loss.item(), np.concatenate([g.ravel() for g in gradients]), seen

    gradients: list[np.ndarray] = []
    first = [np.zeros_like(p) for p in begin]
    loss, g, before = at(0)
    first = list(gradients)
    there = [at(step) for step in ALONG]
    _, _, after = at(1.0, later=1)
    shifts, cosines = [], []
    layers = [layer for layer in model.layers if isinstance(layer, tb.nn.Linear)]
    for layer in layers[1:]:
        i = next(i for i, p in enumerate(parameters) if p is layer.weight)
        at(1.0, below=i)
        old, new = first[i].ravel(), gradients[i].ravel()
        lengths = [float(np.linalg.norm(v)) or math.nan for v in (old, new)]
        shifts.append(float(np.linalg.norm(new - old)) / lengths[0])
        cosines.append(float(old @ new) / (lengths[0] * lengths[1]))
    model.load_state_dict(state)
    for noise, count in zip(noises, counts, strict=True):
        noise.count = count
    losses = [loss, *(other[0] for other in there)]
    size = float(np.linalg.norm(g)) or math.nan
    changes = [float(np.linalg.norm(other[1] - g)) / size for other in there]
    moved = [
        (b.mean(0) - a.mean(0)) / (a.std(0) + 1e-3) for a, b in zip(before, after, strict=True)
    ]
    return {
        "shift": float(np.sqrt(np.mean(np.concatenate(moved) ** 2))),
        "gradient_shift": float(np.mean(shifts)),
        "cosine": float(np.mean(cosines)),
        "loss_range": max(losses) - min(losses),
        "gradient_change": max(changes),
        "smoothness": max(c / (config.lr * s) for c, s in zip(changes, ALONG, strict=True)),
    }


def measure(runs: list[Record]) -> Numbers:
    """Steps, shifts and smoothness: best against best, and at the same learning rate."""
    chosen = {net: best(where(runs, net=net), by=fastest) for net in NETS}
    same = {net: where(runs, net=net, lr=SAME) for net in ("no norm", "batch norm")}
    found: dict[str, Interval | float] = {}
    for net, rs in chosen.items():
        found[f"steps, {net}"] = median_interval(values(rs, "steps_to_target"))
        for name in ("shift", "gradient_shift", "cosine"):
            found[f"{name}, {net}"] = median_interval(values(rs, name))

    def factor(a: str, b: str, name: str = "steps_to_target") -> Interval:
        return median_interval(ratios(chosen[a], chosen[b], name))

    found["steps, noise to batch norm"] = factor(MILD, "batch norm")
    found["steps, 4 × noise to batch norm"] = factor(STRONG, "batch norm")
    found["steps, no norm to batch norm"] = factor("no norm", "batch norm")
    found["steps, no norm to 4 × noise"] = factor("no norm", STRONG)
    found["shift, noise to batch norm"] = factor(MILD, "batch norm", "shift")
    found["shift, 4 × noise to no norm"] = factor(STRONG, "no norm", "shift")
    for name in ("shift", "gradient_shift"):
        found[f"{name}, no norm to batch norm"] = factor("no norm", "batch norm", name)
    for name in ("shift", "gradient_shift", "loss_range", "gradient_change", "smoothness"):
        at_same = median_interval(ratios(same["no norm"], same["batch norm"], name))
        found[f"{name}, no norm to batch norm at {SAME:g}"] = at_same
    slow = {net: where(runs, net=net, lr=SMALL) for net in ("no norm", "batch norm")}
    found[f"gradient_shift, no norm to batch norm at {SMALL:g}"] = median_interval(
        ratios(slow["no norm"], slow["batch norm"], "gradient_shift")
    )
    return found


def the_reason(n: Any) -> str:
    """The rule of [reason]."""
    strong = n["shift, noise to batch norm"].above(10) and n["shift, 4 × noise to no norm"].above(1)
    faster = n["steps, no norm to 4 × noise"]
    if strong and faster.above(1):
        return NOT_SUPPORTED
    return SUPPORTED if strong and faster.below(1) else NOT_RESOLVED


def cuts(n: Any) -> str:
    """The rule of [cut]."""
    both = [n["shift, no norm to batch norm"], n[f"shift, no norm to batch norm at {SAME:g}"]]
    if all(v.above(10) for v in both):
        return SUPPORTED
    return PARTLY if all(v.above(1) for v in both) else NOT_SUPPORTED


def not_of_gradients(n: Any) -> str:
    """The rule of [gradient]."""
    name = "gradient_shift, no norm to batch norm"
    points = [n[name], n[f"{name} at {SAME:g}"], n[f"{name} at {SMALL:g}"]]
    reduced = [v.above(1) for v in points]
    return NOT_SUPPORTED if all(reduced) else PARTLY if any(reduced) else SUPPORTED


def smoother(n: Any) -> str:
    """The rule of [smoother]."""
    names = ("loss_range", "gradient_change", "smoothness")
    more = [n[f"{name}, no norm to batch norm at {SAME:g}"].above(1) for name in names]
    return SUPPORTED if all(more) else PARTLY if any(more) else NOT_SUPPORTED


def draw(runs: list[Record]) -> Any:
    """Speed over the learning rate; then, at one learning rate, what is measured over steps."""
    figure, ((speed, shift), (of_gradient, smooth)) = panels(2, 2, width=9.5, height=7)
    finite = [v for v in values(runs, "steps_to_target") if math.isfinite(v)]
    never = 1.6 * max(finite, default=1.0)
    curves = {"shift": shift, "gradient_shift": of_gradient, "gradient_change": smooth}
    for net, (norm, _, colour, style, mark) in NETS.items():
        line: dict[str, Any] = {"color": colour, "linestyle": style, "label": net}
        arms = group(where(runs, net=net), ["lr"])
        steps = {lr: values(rs, "steps_to_target") for (lr,), rs in arms.items()}
        shown = {lr: [min(v, never) for v in vs] for lr, vs in sorted(steps.items())}
        band(speed, [*shown], [*shown.values()], norm, marker=mark, ms=4, **line)
        lost = [lr for lr, vs in steps.items() if math.isinf(spread(vs).median)]
        crosses(speed, lost, [never] * len(lost), norm, color=colour)
        same = [r["curves"] for r in where(runs, net=net, lr=SAME) if r["diverged_at"] is None]
        for name, ax in curves.items():
            samples = [*zip(*(c[name] for c in same), strict=True)]
            band(ax, same[0]["step"] if same else [], samples, norm, marker=mark, ms=3, **line)
    speed.set(xscale="log", yscale="log", xlabel="learning rate")
    speed.set_ylabel(f"steps to {TARGETS[runs[0]['data']]:.0%} test accuracy (×: never)")
    for ax, what in (
        (shift, "shift of the layers' inputs in a step (σ)"),
        (of_gradient, "shift of the gradients (‖G′ − G‖ / ‖G‖)"),
        (smooth, "change along the gradient (‖g′ − g‖ / ‖g‖)"),
    ):
        ax.set(yscale="log", xlabel=f"step (learning rate {SAME:g})", ylabel=what)
    figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=5,
                  frameon=False, fontsize=9)  # fmt: skip
    return figure


EXPERIMENT = Experiment(
    name="covariate_shift",
    text=__doc__,
    ran="ReLU networks of 5 × 64 units on digits, 400 steps of 64 at five learning rates from 0.01 "
    "to 1; shift and smoothness are medians over probes in the first 100 steps.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "covariate_shift.reason",
            decide=the_reason,
            finding=lambda n: (
                f"With {n['shift, 4 × noise to no norm'].text('.3g')} times the covariate shift of "
                "a network without norm, batch norm still learns "
                f"{n['steps, no norm to 4 × noise'].text('.2g')} times faster than it."
            ),
            answer=lambda n: (
                "Batch norm does cut the shift, but that is not why it helps: noise that makes the "
                f"shift {n['shift, noise to batch norm'].text('.3g')} times as large costs "
                f"it a factor of {n['steps, noise to batch norm'].text('.2g')} in steps, and going "
                f"without norm one of {n['steps, no norm to batch norm'].text('.2g')}."
            ),
        ),
        Claim(
            "covariate_shift.cut",
            decide=cuts,
            finding=lambda n: (
                "In a step, the mean of a layer's input moves by "
                f"{n['shift, no norm'].text('.2g')} of its standard deviations without norm and "
                f"by {n['shift, batch norm'].text('.2g')} with batch norm: "
                f"{n['shift, no norm to batch norm'].text('.3g')} times less."
            ),
        ),
        Claim(
            "covariate_shift.gradient",
            decide=not_of_gradients,
            finding=lambda n: (
                "When the layers below take their step, a layer's gradient changes by "
                f"{n['gradient_shift, no norm'].text('.2g')} of its length without norm and by "
                f"{n['gradient_shift, batch norm'].text('.2g')} with batch norm."
            ),
            answer=lambda n: (
                "This is at each network's fastest learning rate. At the same rate, the gradient "
                "shifts without norm "
                f"{n[f'gradient_shift, no norm to batch norm at {SMALL:g}'].text('.2g')} times as "
                f"much as with batch norm if the rate is {SMALL:g}, and "
                f"{n[f'gradient_shift, no norm to batch norm at {SAME:g}'].text('.2g')} times as "
                f"much if it is {SAME:g}."
            ),
        ),
        Claim(
            "covariate_shift.smoother",
            decide=smoother,
            finding=lambda n: (
                "Within four steps along the gradient, the gradient turns "
                f"{n[f'smoothness, no norm to batch norm at {SAME:g}'].text('.2g')} times as fast "
                "without norm as with batch norm, and the loss ranges over "
                f"{n[f'loss_range, no norm to batch norm at {SAME:g}'].text('.2g')} times as much."
            ),
        ),
    ),
    pictures={
        "covariate_shift": Picture(
            draw,
            title=lambda n: (
                "With "
                f"{written(n['shift, 4 × noise to no norm'].middle, '.1f')} times the covariate "
                "shift, batch norm is "
                f"{written(n['steps, no norm to 4 × noise'].middle, '.1f')} times as fast"
            ),
            caption="Steps to 95 % test accuracy over the learning rate, and, at learning rate "
            "0.1, three measures over the steps. Lines are medians, bands ranges over seeds.",
        )
    },
    keys=("net", "lr"),
    measures={
        "steps_to_target": ".0f",
        "test_accuracy": ".1%",
        "shift": ".3g",
        "gradient_shift": ".3g",
        "cosine": ".3f",
        "loss_range": ".3g",
        "gradient_change": ".3g",
        "smoothness": ".3g",
    },
    # From 4 other seeds in the quick size (1.1, 3.0, 71, 188, 2.9, 0.81, 2.7 and 5.8) and 3 in the
    # default size (1.1, 1.9, 21, 191, 2.9, 0.72, 2.3 and 5.6).
    bands={
        "steps, noise to batch norm": (0.4, 2.5),
        "steps, no norm to 4 × noise": (1, math.inf),
        "shift, noise to batch norm": (10, 300),
        "shift, no norm to batch norm at 0.1": (20, 1000),
        "gradient_shift, no norm to batch norm at 0.1": (1.6, 5),
        "gradient_shift, no norm to batch norm at 0.01": (0.4, 1.5),
        "smoothness, no norm to batch norm at 0.1": (1.3, 5),
        "gradient_change, no norm to batch norm at 0.1": (2.5, 15),
    },
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
