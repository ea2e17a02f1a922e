"""Pictures: one colour and line style per norm everywhere, medians, and bands over seeds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results import write

STYLES: dict[str, tuple[str, Any]] = {  # colour-blind safe: Okabe & Ito
    "none": ("#000000", "--"),
    "batch": ("#0072B2", "-"),
    "layer": ("#D55E00", "-."),
    "group": ("#009E73", ":"),
    "rms": ("#CC79A7", (0, (3, 1, 1, 1))),
}
MARKS = {"none": "s", "batch": "o", "layer": "^", "group": "D", "rms": "v"}
NAMES = {
    "none": "no norm",
    "batch": "batch norm",
    "layer": "layer norm",
    "group": "group norm",
    "rms": "RMS norm",
}


def panels(rows: int = 1, columns: int = 1, *, width: float = 9.0, height: float = 3.6) -> Any:
    """A figure and its axes, an array of shape (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.grid(alpha=0.3, lw=0.5)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def band(
    ax: Any,
    x: Sequence[float],
    samples: Sequence[Sequence[float]],
    norm: str,
    *,
    label: str | None = None,
    mark: bool = False,
    **line: Any,
) -> None:
    """The median over seeds as a line and the range as a band; `samples` has one sequence per x."""
    colour, style = STYLES[norm]
    options = {"color": colour, "linestyle": style, "label": label or NAMES[norm], "lw": 1.6}
    options |= {"marker": MARKS[norm], "ms": 4} if mark else {}
    ax.plot(x, [float(np.median(s)) for s in samples], **(options | line))
    low, high = [min(s) for s in samples], [max(s) for s in samples]
    ax.fill_between(x, low, high, color=(options | line)["color"], alpha=0.15, lw=0)


def crosses(ax: Any, x: Sequence[float], y: Sequence[float], norm: str, **line: Any) -> None:
    """An × for each diverged run."""
    if len(x):  # an unclipped line without points would upset the layout
        options = {"color": STYLES[norm][0], "ms": 7, "mew": 1.6, "clip_on": False, "zorder": 5}
        ax.plot(x, y, "x", **(options | line))


def percent(axis: Any, digits: int = 0) -> None:
    """Write the axis' fractions as percentages."""
    axis.set_major_formatter(lambda value, _: f"{value:.{digits}%}")


def save(figure: Any, path: Path, title: str) -> None:
    """Write the figure with its title to a PNG file."""
    from textwrap import fill

    figure.suptitle(fill(title, int(figure.get_figwidth() * 11)), fontsize=11, fontweight="bold")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write(path, picture.getvalue())
