"""A picture of the ratios of training steps and norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, Rows, norm_case, ratio

PANELS: tuple[tuple[str, str, str, Callable[[Row], str]], ...] = (
    ("mlp", "compiled", "training step, SGD: tinybn compiled / …", lambda row: row["net"]),
    ("norm", "composition", "norm: composition compiled / …", norm_case),
)
COLOURS = {
    "floor": "#000000", "torch": "#d55e00", "torch.compile": "#e69f00", "jax": "#0072b2",
    "pytensor": "#009e73", "eager": "#999999", "compiled": "#cc79a7",
}  # fmt: skip
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2)


def draw(results: dict[str, Any], path: Path) -> Path | None:
    """Draw the ratios and return the path, or None without data or matplotlib."""
    panels = [
        (rows, *panel[1:])
        for panel in PANELS
        if (rows := [r for r in results.get(panel[0], []) if r.get("optimizer", "sgd") == "sgd"])
        and panel[1] in rows[0]["times"]
    ]
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no picture.")
        return None
    if not panels:
        return None
    counts = sorted({row["threads"] for rows, *_ in panels for row in rows})
    figure = Figure(figsize=(6.5 * len(counts), 4.5 * len(panels)), layout="constrained", dpi=110)
    grid = figure.subplots(len(panels), len(counts), squeeze=False)
    for (rows, ours, title, label), line in zip(panels, grid, strict=True):
        for threads, axes in zip(counts, line, strict=True):
            chosen = [row for row in rows if row["threads"] == threads]
            _ratios(axes, ours, chosen, [label(row) for row in chosen])
            axes.set_title(f"{title} (threads: {threads})", fontsize=10)
    machine = results["machine"]
    about = f"{machine['cpu']}, {machine['cores']} cores, NumPy {machine['numpy']}"
    figure.suptitle(f"Below 1, tinybn is faster. {about}", fontsize=11)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary)
    return temporary.replace(path)


def _ratios(axes: Any, ours: str, rows: Rows, labels: Sequence[str]) -> None:
    for rival, colour in COLOURS.items():
        ratios = [ratio(row, ours, rival) for row in rows]
        if rival != ours and any(ratios):
            axes.plot(ratios, range(len(rows)), "o", color=colour, label=rival, alpha=0.85)
    axes.axvline(1, color="grey", lw=1)
    axes.set(xscale="log", xlim=(0.02, 4), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_xticks(TICKS, map(str, TICKS))
    axes.minorticks_off()
    axes.grid(alpha=0.3, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
