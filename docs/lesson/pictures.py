"""The look of the lesson's pictures: SVG in the color of the page's text, dark or light.

The colors are those of Okabe and Ito, which color-blind people tell apart; paths also differ in
their hatch.
"""

import io
from html import escape

import matplotlib
import numpy as np
from matplotlib.figure import Figure

INK = "black"  # becomes the color of the page's text
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
PATHS = {
    "direct": (BLUE, "//"),
    "through μ": (ORANGE, "\\\\"),
    "through σ²": (GREEN, "xx"),
    "through σ², then μ": (PURPLE, ".."),
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tinybn",
    "font.sans-serif": ["system-ui", "DejaVu Sans"],
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "gray",
    "grid.alpha": 0.25,
}


NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


class Picture(Figure):
    """A figure for the last line of a cell. `description` says in words what it shows."""

    def __init__(self, description, columns=1, height=2.6, **options):
        with matplotlib.rc_context(STYLE):
            super().__init__(figsize=(7.2, height), layout="constrained", facecolor="none")
            self.subplots(1, columns, **options)
        self.description = description

    def _repr_html_(self):
        for ax in self.axes:
            if ax.get_legend():
                ax.get_legend().set_frame_on(False)
        text = io.StringIO()
        with matplotlib.rc_context(STYLE):
            self.savefig(text, format="svg", metadata=NO_METADATA)
        svg = text.getvalue().replace("#000000", "currentColor")
        style = "max-width:100%;height:auto;fill:currentColor"  # for black text
        svg = svg[svg.index("<svg") :].replace("<svg", f'<svg style="{style}"', 1)
        return f'<div role="img" aria-label="{escape(self.description)}">{svg}</div>'


def bars(ax, names, values, color=BLUE, hatch=None, title=""):
    """One bar per name, with its number."""
    drawn = ax.bar(names, values, color=color, hatch=hatch, edgecolor=INK, linewidth=0.6)
    ax.bar_label(drawn, fmt=lambda value: f"{value:.3g}".replace("-", "−"), padding=2, fontsize=9)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.margins(y=0.2)
    ax.set_title(title)


def piles(ax, names, contributions):
    """Contributions to a gradient, piled up per sample; the diamond is their sum."""
    up, down = np.zeros(len(names)), np.zeros(len(names))
    for path, values in contributions.items():
        color, hatch = PATHS[path]
        values = np.ravel(values)
        base = np.where(values < 0, down, up)
        ax.bar(names, values, 0.5, base, color=color, hatch=hatch, edgecolor=INK, label=path)
        up, down = up + values.clip(0), down + values.clip(max=0)
    ax.plot(names, up + down, "D", color=INK, label="sum")
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.legend(fontsize=9)
