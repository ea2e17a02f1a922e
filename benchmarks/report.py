"""The measurements as tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from statistics import geometric_mean, median
from typing import Any

Row = dict[str, Any]
Rows = Sequence[Row]

STEP_RATIOS = (
    ("compiled", "torch"),
    ("compiled", "torch.compile"),
    ("compiled", "jax"),
    ("compiled", "pytensor"),
    ("compiled", "floor"),
    ("compiled", "products"),
    ("composition", "compiled"),
    ("eager", "torch"),
)
NORM_RATIOS = (
    ("compiled", "torch"),
    ("composition", "torch"),
    ("composition", "compiled"),
    ("composition", "jax"),
    ("eager", "torch"),
)
LEGEND = (
    "compiled, composition, eager: tinybn, compiled with closed forms, compiled from primitive ops "
    "alone,\nand not compiled. torch: PyTorch eager"
)


def ratio(row: Row, a: str, b: str) -> float | None:
    """The time of a over that of b, the median of the rounds; None if one is missing."""
    times = row["times"]
    if a not in times or b not in times:
        return None
    return median(x / y for x, y in zip(times[a], times[b], strict=True))


def mean_ratio(rows: Rows, a: str, b: str) -> float | None:
    """The geometric mean of the ratios of the rows."""
    ratios = [r for row in rows if (r := ratio(row, a, b)) is not None]
    return geometric_mean(ratios) if ratios else None


def grouped(rows: Rows, *names: str) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Groups of consecutive rows with the same values of these entries."""

    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in names)

    return [(values, list(group)) for values, group in itertools.groupby(rows, key)]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned plain text; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def number(value: float | None, scale: float = 1, digits: int = 3) -> str:
    """A number to three significant digits; – for None."""
    if value is None or value != value:
        return "–"
    value *= scale
    decimals = max(0, digits - len(str(int(abs(value)))))
    return f"{value:.{decimals}f}"


def step_tables(rows: Rows) -> str:
    """Times of a step, and ratios, by thread count and optimizer."""
    texts = []
    for (threads, optimizer), group in grouped(rows, "threads", "optimizer"):
        head = f"MLPs with batch norm, {optimizer}, threads: {threads}"
        texts.append(_race(head, "training step", group, STEP_RATIOS, lambda row: row["net"]))
    return "\n\n".join([*texts, f"{LEGEND}. products: the step's matrix products alone, in NumPy"])


def norm_tables(rows: Rows) -> str:
    """Times of forward and backward, and ratios, by thread count."""
    texts = [
        _race(
            f"Norm ops, threads: {threads}", "forward and backward", group, NORM_RATIOS, norm_case
        )
        for (threads,), group in grouped(rows, "threads")
    ]
    return "\n\n".join([*texts, LEGEND])


def norm_case(row: Row) -> str:
    """The norm and its shape."""
    return f"{row['op']} {tuple(row['shape'])}"


def _race(
    head: str,
    work: str,
    rows: Rows,
    ratios: Iterable[tuple[str, str]],
    label: Callable[[Row], str],
) -> str:
    rivals = list(rows[0]["times"])
    cells = [[f"{work}, µs", *rivals]]
    cells += [[label(row), *(number(median(row["times"][r]), 1e6) for r in rivals)] for row in rows]
    ratios = [(a, b) for a, b in ratios if a in rivals and b in rivals]
    if not ratios:
        return f"{head}\n\n{table(cells)}{_too_busy(rows)}"
    parts = [["ratio", *(f"{a}/{b}" for a, b in ratios)]]
    parts += [[label(row), *(f"{ratio(row, a, b):.2f}" for a, b in ratios)] for row in rows]
    parts.append(["geometric mean", *(f"{mean_ratio(rows, a, b):.2f}" for a, b in ratios)])
    return f"{head}\n\n{table(cells)}{_too_busy(rows)}\n\n{table(parts)}"


def _too_busy(rows: Rows) -> str:
    """A warning if a rival kept more cores busy than it should."""
    busy = {
        rival
        for row in rows
        for rival, cores in row["cores"].items()
        if cores > row["threads"] + 0.1
    }
    return f"\n(more threads than asked for: {', '.join(sorted(busy))})" if busy else ""


def compiling_table(rows: Rows) -> str:
    """Seconds to compile, and microseconds of a call."""
    cells = [["", "cold, s", "warm, s", "wider, s", "new files", "import numba, s", "a call, µs"]]
    for row in rows:
        cold, warm, wider = (row[name] for name in ("cold", "warm", "wider"))
        seconds = [number(cost["seconds"]) for cost in (cold, warm, wider)]
        files = "/".join(str(cost["files"]) for cost in (cold, warm, wider))
        call = number(row["call"], 1e6)
        cells.append([row["net"], *seconds, files, number(warm["import"]), call])
    return (
        f"What compiling costs\n\n{table(cells)}\n\n"
        "cold: an empty cache folder. warm: a new process. wider: another, for other widths.\n"
        "new files: in that folder, each time. a call: guards and bookkeeping"
    )


def accuracy_table(rows: Rows) -> str:
    """Errors of gradients."""
    ways = list(rows[0]["found"])
    cells = [["float32 error of gradients, ULP of scale", *ways]]
    cells += [[row["case"], *(number(row["found"][way]) for way in ways)] for row in rows]
    return f"Rounding\n\n{table(cells)}"


def memory_table(rows: Rows) -> str:
    """Peak memory of a step."""
    rivals = list(rows[0]["found"])
    cells = [["MiB, with model and optimizer", *rivals]]
    cells += [[row["net"], *(number(row["found"][r], 2**-20) for r in rivals)] for row in rows]
    return f"Peak memory of a training step, SGD\n\n{table(cells)}"


def overhead_table(rows: Rows) -> str:
    """µs per op, forward and backward, of small arrays."""
    rivals = list(rows[0]["times"])
    cells = [["forward and backward of an op, µs", *rivals]]
    for row in rows:
        times = [row["times"].get(r) for r in rivals]
        per_op = [median(t) / row["length"] if t else None for t in times]
        cells.append([row["op"], *(number(t, 1e6) for t in per_op)])
    return f"One op of a chain\n\n{table(cells)}"


def chain_table(rows: Rows) -> str:
    """Time and memory per op of long chains."""
    columns = [
        ("eager", "seconds", "eager: µs", 1e6),
        ("torch", "seconds", "torch: µs", 1e6),
        ("eager", "traced", "eager: bytes traced", 1),
        ("eager", "resident", "resident", 1),
        ("torch", "resident", "torch: bytes resident", 1),
    ]
    columns = [column for column in columns if column[0] in rows[0]["found"]]
    cells = [["chain of ops", *(head for _, _, head, _ in columns)]]
    for row in rows:
        found = [number(row["found"][r].get(key), scale) for r, key, _, scale in columns]
        cells.append([f"{row['op']}, {row['length']:,}", *found])
    return f"A chain of ops, forward and backward, per op\n\n{table(cells)}"


TABLES: dict[str, Callable[[Rows], str]] = {
    "mlp": step_tables,
    "norm": norm_tables,
    "compiling": compiling_table,
    "accuracy": accuracy_table,
    "memory": memory_table,
    "overhead": overhead_table,
    "chain": chain_table,
}
