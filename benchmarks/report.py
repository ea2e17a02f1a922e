"""What was measured, as tables, as a picture, and against the goals."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

Rows = Sequence[dict[str, Any]]

TINYBN_TO = ("floor", "torch", "jax")
"""Whose ratios to tinybn stand in the table of the MLPs."""


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first row being the head, as aligned plain text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def number(value: float | None, scale: float = 1, digits: int = 3) -> str:
    """To three significant digits; – where there is none."""
    if value is None or value != value:
        return "–"
    value *= scale
    decimals = max(0, digits - len(str(int(abs(value)))))
    return f"{value:.{decimals}f}"


def mlp_tables(rows: Rows) -> str:
    """Time of a step per rival, and tinybn's ratios, by optimizer and thread count."""
    texts = []
    for (threads, optimizer), group in _grouped(rows, "threads", "optimizer"):
        rivals = list(group[0]["seconds"])
        ratios = [r for r in TINYBN_TO if r in rivals]
        cells = [["training step, µs", *rivals, *(f"tinybn/{r}" for r in ratios)]]
        for row in group:
            times = [number(row["seconds"][r], 1e6) for r in rivals]
            cells.append([row["net"], *times, *(f"{row['ratios'][r]:.2f}" for r in ratios)])
        means = [f"{geometric_mean(row['ratios'][r] for row in group):.2f}" for r in ratios]
        cells.append(["geometric mean", *("" for _ in rivals), *means])
        head = f"MLPs with batch norm, {optimizer}, threads: {threads}"
        texts.append(f"{head}\n\n{table(cells)}{_too_busy(group)}")
    return "\n\n".join(texts) + "\n\nproducts: the matrix products of the step alone, in NumPy"


LIMITS = """\
A column with + adds to what is left of it. Times are the best of the rounds, in µs.
  products  the step's matrix products alone; of best: their rate beside that of a square product
  + calls   all other NumPy calls, times what one costs on next to no data (the time of the same
            step with layers of one unit, over its calls): Python and NumPy's dispatch
  + bytes   what those calls read and write, at the bandwidth of a += b on arrays that fill as much
            memory as the step
  of floor  the sum, as a part of the floor's time. What it lacks: calls that broadcast, compare or
            take a number reach half of that bandwidth or less, and products alone find more of
            what they read in the cache than those in a step
  an op     (tinybn - floor) / the ops that tinybn records; no data: the same with layers of one
            unit, which is Python, checks and more calls. The rest is more work on the data"""


def limits_tables(rows: Rows) -> str:
    """What the floor's step is made of, and what tinybn's costs above it, by thread count."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("training step", lambda row: row["net"]),
        ("MFLOP", lambda row: number(row["facts"]["floor"]["flops"], 1e-6)),
        ("GFLOP/s", lambda row: number(row["rate"], 1e-9)),
        ("of best", lambda row: f"{row['rate'] / row['peak']:.0%}"),
        ("products", lambda row: number(row["products"], 1e6)),
        ("calls", lambda row: str(row["other_calls"])),
        ("each", lambda row: number(row["call"], 1e6)),
        ("+ calls", lambda row: number(row["dispatch"], 1e6)),
        ("MB", lambda row: number(row["facts"]["floor"]["bytes"], 1e-6)),
        ("GB/s", lambda row: number(row["bandwidth"], 1e-9)),
        ("+ bytes", lambda row: number(row["memory"], 1e6)),
        ("= sum", lambda row: number(row["explained"], 1e6)),
        ("floor", lambda row: number(row["best"]["floor"], 1e6)),
        ("of floor", lambda row: f"{row['explained'] / row['best']['floor']:.0%}"),
        ("tinybn", lambda row: number(row["best"]["tinybn"], 1e6)),
        ("ops", lambda row: str(row["facts"]["tinybn"]["ops"])),
        ("an op", lambda row: number(row["op"], 1e6)),
        ("no data", lambda row: number(row["op_no_data"], 1e6)),
    ]
    texts = []
    for (threads,), group in _grouped(rows, "threads"):
        cells = [[head for head, _ in columns]]
        cells += [[cell(row) for _, cell in columns] for row in group]
        texts.append(f"Where a step's time goes, sgd, threads: {threads}\n\n{table(cells)}")
    return "\n\n".join([*texts, LIMITS])


def norm_tables(rows: Rows) -> str:
    """Time of forward and backward, and the fused op's ratios, by thread count."""
    texts = []
    for (threads,), group in _grouped(rows, "threads"):
        rivals = list(group[0]["seconds"])
        others = rivals[1:]
        cells = [["forward and backward, µs", *rivals, *(f"fused/{r}" for r in others)]]
        for row in group:
            times = [number(row["seconds"][r], 1e6) for r in rivals]
            ratios = [f"{row['ratios'][r]:.2f}" for r in others]
            cells.append([f"{row['op']} {tuple(row['shape'])}", *times, *ratios])
        texts.append(f"Norm ops, threads: {threads}\n\n{table(cells)}{_too_busy(group)}")
    return "\n\n".join(texts)


def overhead_table(rows: Rows) -> str:
    """µs per op, forward and backward, of small arrays."""
    rivals = list(rows[0]["seconds"])
    cells = [["forward and backward of an op, µs", *rivals, "overhead"]]
    for row in rows:
        times = [number(row["per_op"].get(r), 1e6) for r in rivals]
        cells.append([row["op"], *times, number(overhead_of(row), 1e6)])
    return (
        f"Overhead: one op of a chain\n\n{table(cells)}\n\n"
        "bare: the op's own array functions, called directly; overhead: tinybn - bare"
    )


def overhead_of(row: dict[str, Any]) -> float:
    """Seconds per op that are not spent in the op's array functions."""
    return row["per_op"]["tinybn"] - row["per_op"]["bare"]


def chain_table(rows: Rows) -> str:
    """Time and memory per op of long chains."""
    columns = [
        ("tinybn", "seconds", "tinybn: µs", 1e6),
        ("torch", "seconds", "torch: µs", 1e6),
        ("tinybn", "traced", "tinybn: bytes traced", 1),
        ("tinybn", "resident", "resident", 1),
        ("torch", "resident", "torch: bytes resident", 1),
    ]
    columns = [column for column in columns if column[0] in rows[0]["found"]]
    cells = [["chain of ops", *(head for _, _, head, _ in columns)]]
    for row in rows:
        found = [number(row["found"][r].get(key), scale) for r, key, _, scale in columns]
        cells.append([f"{row['op']}, {row['length']:,}", *found])
    return f"A chain of ops, forward and backward, per op\n\n{table(cells)}"


def memory_table(rows: Rows) -> str:
    """Peak memory of a step."""
    rivals = list(rows[0]["found"])
    cells = [["MiB above the model's", *rivals, "tinybn traced", "floor traced", "tinybn/torch"]]
    for row in rows:
        found = row["found"]
        mib = [number(found[r]["resident"], 2**-20) for r in rivals]
        mib += [number(found[r]["traced"], 2**-20) for r in ("tinybn", "floor")]
        cells.append([row["net"], *mib, number(_memory_ratio(row))])
    return f"Peak memory of a training step, SGD\n\n{table(cells)}"


def _memory_ratio(row: dict[str, Any]) -> float | None:
    found = row["found"]
    return found["tinybn"]["resident"] / found["torch"]["resident"] if "torch" in found else None


TABLES: dict[str, Callable[[Rows], str]] = {
    "mlp": mlp_tables,
    "limits": limits_tables,
    "norm": norm_tables,
    "overhead": overhead_table,
    "chain": chain_table,
    "memory": memory_table,
}

Goal = dict[str, Any]


def goals(results: dict[str, Any]) -> list[Goal]:
    """Each goal for which something was measured: what it is, its worst case, whether it holds."""
    found: list[Goal] = []

    def at_most(text: str, limit: float, values: Iterable[tuple[float, str]]) -> None:
        worst, where = max(values, default=(None, ""))
        if worst is not None:
            found.append({"goal": text, "worst": worst, "where": where, "holds": worst <= limit})

    rows = results.get("mlp", [])
    for rival, each, mean in (("torch", 1.0, 0.6), ("floor", 1.25, 1.1), ("jax", None, 1.0)):
        ratios = [(row["ratios"][rival], _case(row)) for row in rows if rival in row["ratios"]]
        if each:
            at_most(f"step: tinybn/{rival} at most {each} each", each, ratios)
        if ratios:
            together = geometric_mean(ratio for ratio, _ in ratios)
            at_most(f"step: tinybn/{rival} at most {mean} on average", mean, [(together, "")])

    rows = [row for row in results.get("norm", []) if row["threads"] == 1]
    at_most("norm: fused/composed at most 0.5", 0.5, _norm_ratios(rows, "composed"))
    small = [row for row in rows if row["shape"][0] * row["shape"][1] <= 256 * 1024]
    large = [row for row in rows if row not in small]
    at_most("norm: fused/torch at most 1, to 256×1024", 1.0, _norm_ratios(small, "torch"))
    at_most("norm: fused/torch at most 1.5 above", 1.5, _norm_ratios(large, "torch"))

    chains = [
        (row["found"]["tinybn"], f"{row['op']}, {row['length']:,}")
        for row in results.get("chain", [])
    ]
    at_most("chain: at most 2.5 µs an op", 2.5, ((1e6 * f["seconds"], case) for f, case in chains))
    at_most("chain: at most 600 bytes an op", 600, ((f["traced"], case) for f, case in chains))
    memory = [(_memory_ratio(row), row["net"]) for row in results.get("memory", [])]
    at_most("step: memory at most PyTorch's", 1.0, ((r, net) for r, net in memory if r is not None))
    return found


def goals_table(found: Sequence[Goal]) -> str:
    """The goals, one a line."""
    rows = [["goal", "worst", "", "holds"]]
    rows += [
        [g["goal"], number(g["worst"]), g["where"], "yes" if g["holds"] else "NO"] for g in found
    ]
    return table(rows) if found else "No goal is about this."


def _case(row: dict[str, Any]) -> str:
    return f"{row['net']}, {row['optimizer']}, threads: {row['threads']}"


def _norm_ratios(rows: Rows, rival: str) -> list[tuple[float, str]]:
    return [
        (row["ratios"][rival], f"{row['op']} {tuple(row['shape'])}")
        for row in rows
        if rival in row["ratios"]
    ]


def _grouped(rows: Rows, *names: str) -> list[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in names)

    return [(values, list(group)) for values, group in itertools.groupby(rows, key)]


def _too_busy(rows: Rows) -> str:
    """A line, if a rival kept more cores busy than it was to have."""
    busy = {
        rival
        for row in rows
        for rival, cores in row["cores"].items()
        if cores > row["threads"] + 0.1
    }
    return f"\n(more threads than asked for: {', '.join(sorted(busy))})" if busy else ""


COLOURS = {
    "floor": "#000000", "torch": "#d55e00", "jax": "#0072b2", "autograd": "#009e73",
    "mygrad": "#cc79a7", "composed": "#e69f00",
}  # fmt: skip


def draw(results: dict[str, Any], path: Path) -> Path | None:
    """The ratios of the MLPs and of the norms, and where it was drawn; None without matplotlib."""
    panels: list[tuple[str, Callable[[dict[str, Any]], str], str, str | None]] = [
        ("mlp", lambda row: row["net"], "training step, {}: time of tinybn / time of …", "sgd"),
        ("norm", lambda row: f"{row['op']}\n{tuple(row['shape'])}", "norm: fused / …", None),
    ]
    panels = [panel for panel in panels if results.get(panel[0])]
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no picture.")
        return None
    if not panels:
        return None
    threads = sorted({row["threads"] for part, *_ in panels for row in results[part]})
    figure = Figure(figsize=(6.5 * len(threads), 4.2 * len(panels)), layout="constrained", dpi=110)
    grid = figure.subplots(len(panels), len(threads), squeeze=False)
    for (part, label, title, optimizer), line in zip(panels, grid, strict=True):
        for count, axes in zip(threads, line, strict=True):
            rows = [row for row in results[part] if row["threads"] == count]
            rows = [row for row in rows if optimizer in (None, row.get("optimizer"))]
            _ratios(axes, rows, [label(row) for row in rows])
            axes.set_title(f"{title.format(optimizer)} (threads: {count})", fontsize=10)
    machine = results["machine"]
    figure.suptitle(
        f"Below 1, tinybn is faster. {machine['cpu']}, {machine['cores']} cores, "
        f"NumPy {machine['numpy']}",
        fontsize=11,
    )
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary)
    return temporary.replace(path)


def _ratios(axes: Any, rows: Rows, labels: Sequence[str]) -> None:
    for rival, colour in COLOURS.items():
        ratios = [row["ratios"].get(rival) for row in rows]
        if any(ratios):
            axes.plot(ratios, range(len(rows)), "o", color=colour, label=rival, alpha=0.85)
    axes.axvline(1, color="grey", lw=1)
    axes.set(xscale="log", xlim=(0.04, 12), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    ticks = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.grid(alpha=0.3, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
