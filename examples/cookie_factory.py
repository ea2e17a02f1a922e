"""What do the four steps of batch norm do to a table of cookies, and over which axis?

The table has three cookies and three ingredients; the steps are mean, variance, standardise, and
scale and shift. Batch norm takes the statistics of each ingredient over the cookies. Layer norm
takes those of each cookie over its ingredients. The tutorial's code calls mean() on the whole table
and does neither.

How does the gradient get back from the first standardised cookie to the chocolate of all three? It
takes three paths: direct, through the mean, and through the variance. A fourth path adds 0.

A second. For example

    python examples/cookie_factory.py
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import tinybn as tb
from lab.command import main
from lab.figures import OTHERS, panels
from lab.records import Record, where
from lab.verdicts import NOT_SUPPORTED, SUPPORTED, Claim, Experiment, Numbers, Picture

INGREDIENTS = ("chocolate", "sugar", "butter")
COOKIES = [[2.0, 70.0, 120.0], [10.0, 90.0, 90.0], [6.0, 50.0, 150.0]]
"""Pieces of chocolate, grams of sugar, grams of butter."""
AXES: dict[str, tuple[int, ...]] = {"ingredient": (0,), "cookie": (1,), "table": (0, 1)}
DY = [[1.0], [0.0], [0.0]]
"""The gradient of the standardised chocolate: only the first cookie matters."""
BY_HAND = (0.051031, 0.051031, -0.102062)
PATHS = {  # its way, its colour, its hatch
    "direct": ("x → d → x̂", OTHERS[0], ""),
    "through the mean": ("x → μ → d → x̂", OTHERS[1], "//"),
    "through the variance": ("x → d → σ² → x̂", OTHERS[2], "\\\\\\\\"),
    "mean, then variance": ("x → μ → d → σ² → x̂", OTHERS[4], "xx"),
    "sum of the paths": ("autodiff", "0.25", ""),
    "closed form": ("the fused op", "0.5", ""),
    "finite difference": ("no rule at all", "0.7", ""),
}
KNOWN_AS = {
    "ingredient": "statistics per ingredient\n(batch norm)",
    "cookie": "statistics per cookie\n(layer norm)",
    "table": "statistics of the whole table\n(the tutorial's code)",
}


def configurations(size: str) -> list[Record]:
    """One arm per choice of axis."""
    return [{"statistics": statistics} for statistics in AXES]


def run(config: Record) -> Record:
    """The four steps one by one, and how far each ingredient is from mean 0 and variance 1."""
    axis, eps, gamma, beta = AXES[config["statistics"]], 0.0, 1.0, 0.0
    with tb.use_backend(config["backend"]):
        x = tb.tensor(COOKIES, dtype=np.float64)
        mean = tb.ops.mean(x, axis=axis, keepdims=True)  # 1
        var = tb.ops.mean((x - mean) ** 2, axis=axis, keepdims=True)  # 2
        x_hat = (x - mean) / tb.ops.sqrt(var + eps)  # 3
        y = (gamma * x_hat + beta).numpy()  # 4
        ops: Any = {"ingredient": tb.ops.batch_norm, "cookie": tb.ops.layer_norm}
        op = ops.get(config["statistics"])
        error = 0.0 if op is None else float(abs(y - op(x, eps=eps).numpy()).max())
    back = {"gradient": gradient()} if config["statistics"] == "ingredient" else {}
    return back | {
        "mean": mean.numpy().tolist(),
        "variance": var.numpy().tolist(),
        "y": y.tolist(),
        "off_mean": float(abs(y.mean(axis=0)).max()),
        "off_variance": float(abs(y.var(axis=0) - 1).max()),
        "off_op": error,
    }


def gradient() -> Record:
    """The gradient of x̂₁, the first cookie's chocolate, path by path, and the graph it walked."""
    x = tb.tensor([row[:1] for row in COOKIES], dtype=np.float64, requires_grad=True)
    mean = tb.ops.mean(x, axis=0, keepdims=True)
    d = x - mean
    variance = tb.ops.mean(d * d, axis=0, keepdims=True)
    x_hat = d / tb.ops.sqrt(variance)
    e = tb.check.explain_batch_norm(x, np.array(DY), eps=0.0)
    found = (e.direct, e.through_mean, e.through_variance, e.through_both, e.total, e.closed_form)
    paths = [*found, difference(x.numpy(), np.array(DY))]
    return {
        "paths": {name: p.ravel().tolist() for name, p in zip(PATHS, paths, strict=True)},
        "graph": tb.graph.tree(x_hat, names={"x": x}),
        "walk": str(e),
    }


def difference(x: np.ndarray, dy: np.ndarray, h: float = 1e-4) -> np.ndarray:
    """(f(x + h) - f(x - h)) / 2h in every element, where f is Σ dy · batch norm."""
    found = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        up, down = (tb.ops.batch_norm(a, eps=0.0) for a in (x + step, x - step))
        found[i] = float(np.sum(dy * (up - down))) / (2 * h)
    return found


def walk(runs: list[Record]) -> str:
    """The graph of x̂, and the gradient that each path back brings to x."""
    back = where(runs, statistics="ingredient")[0]["gradient"]
    return (
        "The chocolate, standardised: what x̂ was made of, with the lines of the gradient rules "
        "(#1 is d = x - μ)\n\n"
        f"{back['graph']}\n\nand back: what changes x̂ of the first cookie.\n{back['walk']}\n"
    )


def measure(runs: list[Record]) -> Numbers:
    """How far the steps are from the op, and the paths from the closed form."""
    steps, code = (where(runs, statistics=s)[0] for s in ("ingredient", "table"))
    layer = where(runs, statistics="cookie")[0]
    paths = {name: np.array(path) for name, path in steps["gradient"]["paths"].items()}
    total, closed = paths["sum of the paths"], paths["closed form"]

    def off(a: np.ndarray, b: Any) -> float:
        return float(abs(a - b).max())

    return {
        "mean of 2, 10, 6": steps["mean"][0][0],
        "variance of 2, 10, 6": steps["variance"][0][0],
        "error of the steps": max(
            steps["off_mean"], steps["off_variance"], steps["off_op"], layer["off_op"]
        ),
        "mean left by the whole table": code["off_mean"],
        "variance left by the whole table": code["off_variance"],
        "fourth path": off(paths["mean, then variance"], 0),
        "sum less closed form": off(total, closed),
        "finite difference less closed form": off(paths["finite difference"], closed),
        "sum less what it is by hand": off(total, BY_HAND),
    }


def steps_are_right(n: Numbers) -> str:
    """The rule of [steps]."""
    right = n["mean of 2, 10, 6"] == 6 and n["error of the steps"] < 1e-9
    return SUPPORTED if right else NOT_SUPPORTED


def code_is_right(n: Numbers) -> str:
    """The rule of [code]."""
    left = max(n["mean left by the whole table"], n["variance left by the whole table"])
    return SUPPORTED if left < 1e-9 else NOT_SUPPORTED


def paths_add_up(n: Numbers) -> str:
    """The rule of [paths]."""
    right = (
        n["fourth path"] == 0
        and n["sum less closed form"] < 1e-12
        and n["finite difference less closed form"] < 1e-7
        and n["sum less what it is by hand"] < 1e-6
    )
    return SUPPORTED if right else NOT_SUPPORTED


def draw_tables(runs: list[Record]) -> Any:
    """The table before, and after each choice of axis, as colours with the numbers in them."""
    tables = {"the cookies": np.array(COOKIES)}
    tables |= {KNOWN_AS[r["statistics"]]: np.array(r["y"]) for r in runs}
    figure, (axes,) = panels(1, 4, width=11, height=3)
    for ax, (title, values) in zip(axes, tables.items(), strict=True):
        limit = 1.6 * abs(values).max()  # so that no colour is too dark for the numbers
        ax.imshow(values, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            text = f"{value:g}" if ax is axes[0] else f"{value:+.2f}"
            ax.text(j, i, text, ha="center", va="center", fontsize=10)
        ax.set_xticks(range(3), INGREDIENTS, fontsize=8)
        ax.set_yticks(range(3), [f"cookie {i}" for i in (1, 2, 3)] if ax is axes[0] else [])
        ax.set_title(title, fontsize=9)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    return figure


def draw_paths(runs: list[Record]) -> Any:
    """On the left the names of the paths, then a panel per cookie with signed bars."""
    paths = where(runs, statistics="ingredient")[0]["gradient"]["paths"]
    figure, (axes,) = panels(1, 4, width=11, height=3.4)
    limit = 1.9 * max(abs(v) for values in paths.values() for v in values)
    for row, (name, (way, colour, hatch)) in enumerate(PATHS.items()):
        axes[0].text(1, row - 0.16, name, ha="right", va="center", fontsize=9)
        axes[0].text(1, row + 0.24, way, ha="right", va="center", fontsize=7, color="0.35")
        for ax, value in zip(axes[1:], paths[name], strict=True):
            ax.barh(row, value, 0.62, color=colour, hatch=hatch, edgecolor="white", lw=0.5)
            ax.text(value + (0.01 if value >= 0 else -0.01), row,
                    f"{value + 0.0:+.6f}" if abs(value) > 1e-9 else "0", va="center", fontsize=7.5,
                    ha="left" if value >= 0 else "right")  # fmt: skip
    for i, ax in enumerate(axes):
        ax.set(ylim=(len(PATHS) - 0.4, -0.6), yticks=[])
        ax.spines["left"].set_visible(False)
        ax.axhline(3.5, color="0.6", lw=0.8)
        if i == 0:
            ax.axis("off")
            ax.set_xlim(0, 1)
        else:
            ax.set_xlim(-limit, limit)
            ax.axvline(0, color="0.3", lw=0.8)
            ax.set_title(f"gradient of cookie 1's x̂\nat the chocolate of cookie {i}", fontsize=9)
    return figure


EXPERIMENT = Experiment(
    name="cookie_factory",
    text=__doc__,
    ran="A table of three cookies and three ingredients, in float64, step by step and backwards.",
    configurations=configurations,
    run=run,
    measure=measure,
    claims=(
        Claim(
            "cookie_factory.steps",
            decide=steps_are_right,
            finding=lambda n: (
                f"The mean is {n['mean of 2, 10, 6']:g} and the variance "
                f"{n['variance of 2, 10, 6']:.4g}; the four steps and the op agree to "
                f"{n['error of the steps']:.1e}."
            ),
        ),
        Claim(
            "cookie_factory.code",
            decide=code_is_right,
            finding=lambda n: (
                "With the statistics of the whole table an ingredient's mean is up to "
                f"{n['mean left by the whole table']:.2f} away from 0, and its variance up to "
                f"{n['variance left by the whole table']:.2f} from 1: batch norm needs axis=0."
            ),
        ),
        Claim(
            "cookie_factory.paths",
            decide=paths_add_up,
            finding=lambda n: (
                "The gradient is the sum of the three paths, to "
                f"{n['sum less closed form']:.0e}; a fourth, through the mean to the variance, "
                "adds exactly 0."
            ),
            picture="cookie_factory-paths",
        ),
    ),
    pictures={
        "cookie_factory": Picture(
            draw_tables,
            title=lambda n: "Only statistics per ingredient give each one mean 0, variance 1",
            caption="The table of cookies, and the same table standardised with the statistics of "
            "each ingredient, of each cookie, and of the whole table.",
        ),
        "cookie_factory-paths": Picture(
            draw_paths,
            title=lambda n: "Three paths add up to the gradient; the fourth adds exactly 0",
            caption="What reaches the chocolate of each cookie if only the first standardised "
            "cookie matters: path by path, their sum, and two independent checks of the sum.",
        ),
    },
    keys=("statistics",),
    measures={"off_mean": ".2g", "off_variance": ".2g", "off_op": ".2g"},
    # Arithmetic in float64; what the whole table leaves is a matter of these cookies, and by hand
    # there are six digits.
    bands={
        "mean of 2, 10, 6": (6, 6),
        "error of the steps": (0, 1e-12),
        "mean left by the whole table": (0.5, 2),
        "fourth path": (0, 0),
        "sum less closed form": (0, 1e-12),
        "finite difference less closed form": (0, 1e-7),
        "sum less what it is by hand": (0, 5e-7),
    },
    data=(),
    seeds={"quick": 1, "default": 1, "full": 1},
    blocks=(0,),
    walk=walk,
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
