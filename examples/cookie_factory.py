"""What do the four steps of batch norm do to a table of cookies, and over which axis?

Three cookies, three ingredients: mean, variance, standardise, scale and shift. Batch norm takes the
statistics of each ingredient over the cookies, layer norm those of each cookie over its
ingredients; the tutorial's code, which says mean() of everything, does neither.

A second. For example

    python examples/cookie_factory.py
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from experiment import NOT_SUPPORTED, SUPPORTED, Experiment, Verdict, main
from figures import panels
from results import Record, where

import tinybn as tb

INGREDIENTS = ("chocolate", "sugar", "butter")
COOKIES = [[2.0, 70.0, 120.0], [10.0, 90.0, 90.0], [6.0, 50.0, 150.0]]
"""Pieces of chocolate, grams of sugar, grams of butter."""
AXES: dict[str, tuple[int, ...]] = {"ingredient": (0,), "cookie": (1,), "table": (0, 1)}
KNOWN_AS = {"ingredient": "batch norm", "cookie": "layer norm", "table": "neither: the code"}


def configurations(size: str) -> list[Record]:
    """The statistics of what."""
    return [{"statistics": statistics} for statistics in AXES]


def run(config: Record) -> Record:
    """The four steps, one by one, and how far each ingredient is from mean 0 and variance 1."""
    axis, eps, gamma, beta = AXES[config["statistics"]], 0.0, 1.0, 0.0
    with tb.use_backend(config["backend"]):
        x = tb.tensor(COOKIES, dtype=np.float64)
        mean = tb.ops.mean(x, axis=axis, keepdims=True)  # 1
        var = tb.ops.mean((x - mean) ** 2, axis=axis, keepdims=True)  # 2
        x_hat = (x - mean) / tb.ops.sqrt(var + eps)  # 3
        y = (gamma * x_hat + beta).numpy()  # 4
        ops = {"ingredient": tb.ops.batch_norm, "cookie": tb.ops.layer_norm}
        op = ops.get(config["statistics"])
        error = 0.0 if op is None else float(abs(y - op(x, eps=eps).numpy()).max())
    return {
        "mean": mean.numpy().tolist(),
        "variance": var.numpy().tolist(),
        "y": y.tolist(),
        "off_mean": float(abs(y.mean(axis=0)).max()),
        "off_variance": float(abs(y.var(axis=0) - 1).max()),
        "off_op": error,
    }


def judge(runs: list[Record]) -> list[Verdict]:
    """The sentence is supported, if the four steps give what the op gives and each ingredient has
    mean 0 and variance 1; and the code, if it does that, too.
    """
    steps, code = (where(runs, statistics=s)[0] for s in ("ingredient", "table"))
    layer = where(runs, statistics="cookie")[0]
    right = max(steps["off_mean"], steps["off_variance"], steps["off_op"], layer["off_op"])
    wrong = max(code["off_mean"], code["off_variance"])
    return [
        Verdict(
            claim="Mean, variance, standardise, scale and shift: the cookies 2, 10, 6 have mean 6.",
            verdict=SUPPORTED if right < 1e-9 else NOT_SUPPORTED,
            finding="Four steps, three choices of axis: only statistics per ingredient give each "
            "ingredient mean 0 and variance 1",
            why=f"The mean is {steps['mean'][0][0]:g}, the variance {steps['variance'][0][0]:.4g}; "
            "afterwards each ingredient has mean 0 and variance 1, and the steps and the ops agree "
            f"to {right:.1e}.",
            numbers={"mean of 2, 10, 6": steps["mean"][0][0], "error of the steps": right},
        ),
        Verdict(
            claim="Batch norm is (x - mean(x)) / sqrt(var(x) + eps), mean and variance of all of x",
            verdict=SUPPORTED if wrong < 1e-9 else NOT_SUPPORTED,
            finding="Statistics of the whole table leave the ingredients as far apart as they were",
            why="With the statistics of the whole table an ingredient's mean is up to "
            f"{code['off_mean']:.2f} away from 0, and its variance up to "
            f"{code['off_variance']:.2f} from 1: batch norm needs axis=0.",
            numbers={"mean left by the whole table": code["off_mean"]},
        ),
    ]


def draw(runs: list[Record]) -> Any:
    """The table before, and after each choice, as colours with the numbers in them."""
    tables = {"cookies": np.array(COOKIES)}
    tables |= {
        f"statistics per {r['statistics']}\n({KNOWN_AS[r['statistics']]})": np.array(r["y"])
        for r in runs
    }
    figure, (axes,) = panels(1, 4, width=11, height=3)
    for ax, (title, values) in zip(axes, tables.items(), strict=True):
        limit = 1.6 * abs(values).max()  # so that no colour is too dark for the numbers
        ax.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            text = f"{value:g}" if ax is axes[0] else f"{value:+.2f}"
            ax.text(j, i, text, ha="center", va="center", fontsize=10)
        ax.set_xticks(range(3), INGREDIENTS, fontsize=8)
        ax.set_yticks(range(3), [f"cookie {i}" for i in (1, 2, 3)] if ax is axes[0] else [])
        ax.set_title(title, fontsize=9)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    return figure


EXPERIMENT = Experiment(
    name="cookie_factory",
    text=__doc__,
    configurations=configurations,
    run=run,
    judge=judge,
    draw=draw,
    keys=("statistics",),
    measures={"off_mean": ".2g", "off_variance": ".2g", "off_op": ".2g"},
    # Arithmetic in float64; the last one is a matter of these cookies.
    bands={
        "mean of 2, 10, 6": (6, 6),
        "error of the steps": (0, 1e-12),
        "mean left by the whole table": (0.5, 2),
    },
    data=(),
    seeds={"quick": 1, "default": 1, "full": 1},
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
