"""Can very deep networks be trained with batch norm, and what helps them: the norm or the skip?

The tutorial's experiment 3. Networks of 5 to 100 hidden layers of width 64 learn without norm, with
batch norm and with layer norm, each with and without residual connections x + branch(x). A branch
is norm, activation and Linear (He et al. 2016, 1603.05027, without bottleneck). One more arm has
residual connections, no norm, and the branch divided by the depth: De & Smith 2020 (2002.10444) say
that the skip trains deep networks, and that batch norm only makes the branch small.

The usual network has ReLU, He's initialisation and plain SGD. At 50 layers, the default
initialisation, tanh and Adam replace them one at a time (--full: in all combinations, at every
depth). Each network uses the better of 2 learning rates, chosen on the validation data, and has 400
steps to reach 90 % test accuracy, or 800 with tanh or Adam, which are slower. (--full: 4 learning
rates and always 1000 steps. The usual network of 50 layers without skip connections does not get
there in 1000 steps either.)

About four minutes on two cores (--full: hours). For example

    python examples/deep_network.py --quick
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

from experiment import NOT_SUPPORTED, PARTLY, SUPPORTED, Experiment, Verdict, main
from figures import NAMES, STYLES, band, panels, percent
from results import Record, choose, group, spread, values, where
from training import TARGETS, Config, dataset, fit, stream

import tinybn as tb

ARMS = [
    *((norm, skip) for skip in ("no", "yes") for norm in ("none", "batch", "layer")),
    ("none", "1/depth"),
]
"""Each norm without and with skip connections, and what is to replace the norm."""
USUAL = {"init": "he", "activation": "relu", "optimizer": "sgd"}
CHANGES: list[Record] = [
    {"init": "default"},
    {"activation": "tanh", "steps": 800},
    {"optimizer": "adam", "steps": 800},
]
RATES = {"sgd": (0.03, 0.3, 0.01, 0.1), "adam": (0.0003, 0.003, 0.001, 0.01)}
DEPTHS = (5, 10, 20, 30, 50, 100)
DEEP = 50
"""Where the tutorial's "very deep" begins."""
WIDTH = 64
GOOD = {data: target - 0.05 for data, target in TARGETS.items()}
"""A network that gets to this test accuracy can be trained."""


def configurations(size: str) -> list[Record]:
    """Every arm at every depth; the changes one at a time at 50 layers, or combined (full)."""
    if size == "full":
        factors = itertools.product(("he", "default"), ("relu", "tanh"), ("sgd", "adam"), DEPTHS)
        nets: list[Record] = [dict(zip([*USUAL, "depth"], f, strict=True)) for f in factors]
    elif size == "default":
        nets = [USUAL | {"depth": depth} for depth in DEPTHS]
        nets += [USUAL | change | {"depth": DEEP} for change in CHANGES]
    else:
        nets = [USUAL | {"depth": depth} for depth in (5, DEEP)]
    count, steps = {"quick": (1, 100), "default": (2, 400), "full": (4, 1000)}[size]
    return [
        {"norm": norm, "skip": skip, "steps": steps, **net, "lr": lr}
        for net in nets
        for norm, skip in ARMS
        for lr in (RATES["sgd"][1:2] if size == "quick" else RATES[net["optimizer"]][:count])
    ]


class Residual(tb.nn.Module):
    """x + scale · branch(x)."""

    def __init__(self, branch: tb.nn.Module, scale: float) -> None:
        self.branch, self.scale = branch, scale

    def forward(self, x: tb.Tensor) -> tb.Tensor:
        return x + self.scale * self.branch(x)


def network(config: Record, features: int, classes: int) -> tb.nn.Module:
    """`depth` hidden Linear layers and one at the end; an MLP if there are no skip connections."""
    norm, depth, init = config["norm"], config["depth"], config["init"]
    rng = stream(config["seed"], "weights")
    activation = {"relu": tb.nn.ReLU, "tanh": tb.nn.Tanh}[config["activation"]]

    def linear(n: int, m: int) -> tb.nn.Module:  # the next batch norm removes any bias
        return tb.nn.Linear(n, m, bias=norm != "batch", init=init, rng=rng)

    def nonlinear() -> list[tb.nn.Module]:
        return [*([] if norm == "none" else [tb.nn.NORMS[norm](WIDTH)]), activation()]

    layers = [linear(features, WIDTH)]
    for _ in range(depth - 1):
        branch = tb.nn.Sequential(*nonlinear(), linear(WIDTH, WIDTH))
        scale = {"no": None, "yes": 1.0, "1/depth": 1 / depth}[config["skip"]]
        layers.append(branch if scale is None else Residual(branch, scale))
    return tb.nn.Sequential(*layers, *nonlinear(), tb.nn.Linear(WIDTH, classes, init=init, rng=rng))


def run(config: Record) -> Record:
    """Train until the target is reached."""
    own = ("depth", "skip", "activation", "init")
    rest = {key: value for key, value in config.items() if key not in own}
    options = Config(**rest, momentum=0.0, every=20)
    data = dataset(options.data, options.seed, options.data_dir)
    with tb.use_backend(options.backend):
        model = network(config, data.features, data.classes)
    good = GOOD[options.data]
    return fit(model, data, options, stop=good).measures(good)


def best(runs: list[Record]) -> list[Record]:
    """The runs at the learning rate that reaches the target first on the validation data, or else
    has the best accuracy there.
    """

    def worth(rs: list[Record]) -> tuple[float, float]:
        steps = spread(values(rs, "validation_steps_to_target")).median
        return steps, -spread(values(rs, "validation_accuracy")).median

    return where(runs, lr=choose(runs, worth))


def trained(runs: list[Record]) -> float:
    """The fraction of the runs at the best learning rate that reach the target."""
    chosen = best(runs)
    return sum(r["steps_to_target"] is not None for r in chosen) / len(chosen)


def judge(runs: list[Record]) -> list[Verdict]:
    """ "Impossible without" is supported, if at 50 layers and more fewer than half of the runs of
    every arm without norm become good; not supported, if more than half of some arm's do in each of
    these networks; otherwise partly. "Smoothly with" is supported, if more than half do with batch
    norm alone in each of these networks; partly, if with batch norm and skip connections. That it
    is the skip is supported, if without skip connections fewer than half of every arm's runs become
    good, and with them more than half with either norm, and of those with a scaled branch.
    """
    deep = group([r for r in runs if r["depth"] >= DEEP], [*USUAL, "depth"])
    share = {
        net: {arm: trained(where(rs, norm=arm[0], skip=arm[1])) for arm in ARMS}
        for net, rs in deep.items()
    }

    def everywhere(*arms: tuple[str, str]) -> bool:
        return all(share[net][arm] > 0.5 for net in share for arm in arms)

    def anywhere(*arms: tuple[str, str]) -> bool:
        return any(share[net][arm] > 0.5 for net in share for arm in arms)

    bare, plain = [a for a in ARMS if a[0] == "none"], [a for a in ARMS if a[1] == "no"]
    without = all(any(share[net][arm] > 0.5 for arm in bare) for net in share)
    impossible = NOT_SUPPORTED if without else PARTLY if anywhere(*bare) else SUPPORTED
    smooth = NOT_SUPPORTED
    if everywhere(("batch", "yes")):
        smooth = SUPPORTED if everywhere(("batch", "no")) else PARTLY
    skip = everywhere(("batch", "yes"), ("layer", "yes"), ("none", "1/depth"))
    usual = where(runs, **USUAL)
    depths = sorted({r["depth"] for r in usual})
    deepest = {
        arm: max(
            (d for d in depths if trained(where(usual, norm=arm[0], skip=arm[1], depth=d)) > 0.5),
            default=0,
        )
        for arm in ARMS
    }
    most, good = max(depths), GOOD[runs[0]["data"]]
    steps = {
        arm: spread(
            values(best(where(usual, norm=arm[0], skip=arm[1], depth=most)), "steps_to_target")
        )
        for arm in ARMS
    }
    total = {arm: sum(share[net][arm] > 0.5 for net in share) for arm in ARMS}
    limit = max(r["steps"] for r in usual)
    said = (
        f"In {limit} steps, most seeds get to {good:.0%} test accuracy up to this depth (ReLU, He, "
        f"SGD): {deepest['none', 'no']} without norm, {deepest['batch', 'no']} with batch norm, "
        f"{deepest['layer', 'no']} with layer norm; with skip connections "
        f"{deepest['none', 'yes']}, {deepest['batch', 'yes']} and {deepest['layer', 'yes']}; "
        f"{deepest['none', '1/depth']} without norm, the branch divided by the depth. (0: not even "
        f"{min(depths)}; {most} is the deepest.)"
    )
    return [
        Verdict(
            claim="Very deep networks, of 50 layers and more, train smoothly with batch norm.",
            verdict=smooth,
            finding=f"ReLU, SGD: without skip connections batch norm gets to "
            f"{deepest['batch', 'no']} layers; with them to {deepest['batch', 'yes']}, and so do "
            f"layer norm ({deepest['layer', 'yes']}) and no norm at all if the branch is scaled "
            f"({deepest['none', '1/depth']})",
            why=f"{said} Of the {len(share)} networks of {DEEP} layers and more, "
            f"batch norm alone trains {total['batch', 'no']}, with skip connections "
            f"{total['batch', 'yes']}.",
            numbers={
                "deepest batch": deepest["batch", "no"],
                "deepest batch, skip": deepest["batch", "yes"],
            },
        ),
        Verdict(
            claim="Very deep networks are nearly impossible to train without batch norm.",
            verdict=impossible,
            finding=f"Without any norm, {total['none', '1/depth']} of {len(share)} networks of "
            f"{DEEP} layers and more can be trained, if their residual branch is scaled",
            why=f"Without any norm, of the {len(share)} networks of {DEEP} layers and more "
            f"{total['none', 'no']} can be trained plainly, {total['none', 'yes']} with skip "
            f"connections (with ReLU and He each block doubles the activations' variance), and "
            f"{total['none', '1/depth']} with the branch divided by the depth. At {most} layers "
            f"that takes {steps['none', '1/depth'].text('.0f')} steps; batch norm with skip "
            f"connections {steps['batch', 'yes'].text('.0f')}.",
            numbers={"deepest none, 1/depth": deepest["none", "1/depth"]},
        ),
        Verdict(
            claim="What trains very deep networks is the skip connection with a small branch, "
            "rather than the norm (De & Smith 2020).",
            verdict=SUPPORTED
            if skip and not anywhere(*plain)
            else PARTLY
            if skip
            else NOT_SUPPORTED,
            finding=f"Of {len(share)} networks of {DEEP} layers and more, skip connections train "
            f"{total['batch', 'yes']} with batch norm, {total['layer', 'yes']} with layer norm, "
            f"{total['none', '1/depth']} with a scaled branch; without skip connections, no norm, "
            f"batch norm and layer norm train {', '.join(str(total[arm]) for arm in plain)}",
            why=f"Networks of {DEEP} layers and more that can be trained, of {len(share)}: "
            + "; ".join(f"{describe(arm)} {n}" for arm, n in total.items())
            + ".",
            numbers={
                "plain that train": sum(total[arm] for arm in plain) / len(plain) / len(share)
            },
        ),
    ]


def describe(arm: tuple[str, str]) -> str:
    """Its name."""
    skip = {"no": "", "yes": ", skip", "1/depth": ", skip, branch / depth"}[arm[1]]
    return NAMES[arm[0]] + skip


def draw(runs: list[Record]) -> Any:
    """Test accuracy against depth, without and with skip connections; and the changes at 50."""
    figure, ((left, middle, right),) = panels(1, 3, width=12.5, height=4)
    usual = where(runs, **USUAL)
    depths = sorted({r["depth"] for r in usual})
    for norm, skip in ARMS:
        ax = left if skip == "no" else middle
        arms = [best(where(usual, norm=norm, skip=skip, depth=depth)) for depth in depths]
        form: Record = {"label": NAMES[norm], "mark": True}
        if skip == "1/depth":
            form |= {"color": "#009E73", "marker": "P", "linestyle": ":",
                     "label": "no norm, branch / depth"}  # fmt: skip
        band(ax, depths, [[r["test_accuracy"] for r in arm] for arm in arms], norm, **form)
        lost = [r for arm in arms for r in arm if r["diverged_at"] is not None]
        ax.plot([r["depth"] for r in lost], [r["test_accuracy"] for r in lost], "x",
                color=STYLES[norm][0], ms=7, mew=1.6)  # fmt: skip
    for ax, title in ((left, "without skip connections"), (middle, "with skip connections")):
        ax.axhline(GOOD[runs[0]["data"]], color="0.5", lw=0.8)
        ax.set(xscale="log", xlabel="hidden layers", ylim=(0, 1.02))
        ax.set_xticks(depths, [str(d) for d in depths])
        ax.minorticks_off()
        ax.set_title(f"ReLU, He, SGD, {title}", fontsize=9)
        percent(ax.yaxis)
        ax.legend(frameon=False, fontsize=8, loc="lower left" if ax is left else "center right")
    left.set_ylabel(f"test accuracy (training ends at {GOOD[runs[0]['data']]:.0%})")
    nets = group(where(runs, depth=DEEP), [*USUAL])
    for column, rs in enumerate(nets.values()):
        for row, (norm, skip) in enumerate(ARMS):
            arm = best(where(rs, norm=norm, skip=skip))
            accuracy = spread(values(arm, "test_accuracy"))
            good = trained(arm)
            right.text(column, row, f"{accuracy.median:.0%}", ha="center", va="center", fontsize=9,
                       fontweight="bold" if good > 0.5 else None)  # fmt: skip
            right.fill_between([column - 0.48, column + 0.48], row - 0.46, row + 0.46, lw=0,
                               color="#56B4E9" if good > 0.5 else "0.9", alpha=0.6)  # fmt: skip
    names = {"he": "He", "default": "default", "relu": "ReLU", "tanh": "tanh", "sgd": "SGD",
             "adam": "Adam"}  # fmt: skip
    right.set_xticks(range(len(nets)), ["\n".join(names[w] for w in net) for net in nets])
    right.set_yticks(range(len(ARMS)), [describe(arm) for arm in ARMS])
    right.tick_params(labelsize=8, length=0)
    right.invert_yaxis()
    right.grid(visible=False)
    right.spines[:].set_visible(False)
    right.set_title(f"{DEEP} layers, test accuracy; blue: it trains", fontsize=9)
    return figure


EXPERIMENT = Experiment(
    name="deep_network",
    text=__doc__,
    configurations=configurations,
    run=run,
    judge=judge,
    draw=draw,
    keys=("norm", "skip", *USUAL, "depth", "lr"),
    measures={"steps_to_target": ".0f", "test_accuracy": ".1%", "ms_per_step": ".2f"},
    # The deepest network without skip connections that trained had 5 layers in the quick size,
    # whose other one has 50, and 20 in the default size. 8 other seeds of the quick size say the
    # same. Of 15 cases of 50 layers and more without skip connections, 2 trained: batch norm with
    # tanh, and no norm with Adam; both come near the end of their steps.
    bands={
        "deepest batch": (5, 30),
        "deepest batch, skip": (DEEP, max(DEPTHS)),
        "deepest none, 1/depth": (DEEP, max(DEPTHS)),
        "plain that train": (0, 0.21),
    },
    seeds={"quick": 2, "default": 3, "full": 5},
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
