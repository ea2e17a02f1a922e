"""Pictures: one colour, line style and mark per norm everywhere, and no other use of them.

Colours are those of Okabe and Ito, which colour-blind people can tell apart. What is not a norm
takes its colours from `OTHERS`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.files import write

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
OTHERS = ("#E69F00", "#56B4E9", "#7F5539", "#8A8A8A", "#B5B500")
"""Orange, sky blue, brown, grey and olive: for what is not a norm."""
LONGEST = 80
"""A title has fewer characters."""
MOST = 4
"""Panels in a figure."""


def panels(
    rows: int = 1, columns: int = 1, *, width: float = 9.0, height: float = 3.6, most: int = MOST
) -> Any:
    """A figure and its axes, an array of shape (rows, columns); `most` panels at most."""
    from matplotlib.figure import Figure

    if rows * columns > most:
        raise ValueError(f"a figure has at most {most} panels, not {rows} x {columns}")
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
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


def dots(
    ax: Any,
    x: Sequence[float],
    samples: Sequence[Sequence[float]],
    norm: str,
    *,
    label: str | None = None,
    bar: float = 0.0,
    **mark: Any,
) -> None:
    """A point per seed, side by side where x is shared, and a bar of half-width `bar` at the
    median; `samples` has one sequence per x. Points beside each other are those of one seed order.
    """
    colour = mark.pop("color", STYLES[norm][0])
    options = {"marker": MARKS[norm], "ms": 4, "alpha": 0.6, "lw": 0, "mew": 0} | mark
    for i, (at, sample) in enumerate(zip(x, samples, strict=True)):
        name = (label or NAMES[norm]) if i == 0 else None
        beside = np.linspace(-0.6, 0.6, len(sample)) * bar if bar else np.zeros(len(sample))
        ax.plot(at + beside, sample, color=colour, label=name, **options)
        if bar:
            ax.plot([at - bar, at + bar], [float(np.median(sample))] * 2, color=colour, lw=2)


def crosses(ax: Any, x: Sequence[float], y: Sequence[float], norm: str, **line: Any) -> None:
    """An × for each diverged run."""
    if len(x):  # an unclipped line without points would upset the layout
        options = {"color": STYLES[norm][0], "ms": 7, "mew": 1.6, "clip_on": False, "zorder": 5}
        ax.plot(x, y, "x", **(options | line))


def percent(axis: Any, digits: int = 0) -> None:
    """Write the axis' fractions as percentages."""
    axis.set_major_formatter(lambda value, _: f"{value:.{digits}%}")


def plain(axis: Any) -> None:
    """Write 1, 10, 100 and, where there is room, 2 and 5 between them, on a log axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    few = high / low > 100
    axis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def save(figure: Any, path: Path, title: str) -> None:
    """Write the figure with its title to a PNG file, in all its colours."""
    if len(title) >= LONGEST:
        raise ValueError(f"a title has fewer than {LONGEST} characters, not {len(title)}: {title}")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", pil_kwargs={"optimize": True})
    write(path, picture.getvalue())
