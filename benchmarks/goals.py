"""What the benchmark should show, and whether it does: each goal with its worst case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.report import Row, Rows, grouped, mean_ratio, norm_case, number, ratio, table

Goal = dict[str, Any]
Case = tuple[float | None, str]
"""A figure and what it describes."""

EACH = (("torch", 1.0), ("jax", 1.0), ("pytensor", 1.0), ("floor", 1.0))
ON_AVERAGE = (("torch", 0.25), ("jax", 0.5), ("floor", 0.42))
ONE_THREAD = ("jax",)
NORMS = (("batch", 1.0), ("rms", 1.0), ("layer", 1.1))


def goals(results: dict[str, Any]) -> list[Goal]:
    """Each goal that has measurements: its text, its worst case, and whether it holds."""
    found = []
    for text, limit, cases in (*_steps(results), *_norms(results), *_rest(results)):
        figures = [(value, where) for value, where in cases if value is not None]
        if figures:
            worst, where = max(figures)
            held = worst <= limit
            found.append(
                {"goal": text, "limit": limit, "worst": worst, "where": where, "held": held}
            )
    return found


def goals_table(found: Sequence[Goal]) -> str:
    """The goals as a table."""
    if not found:
        return "No goal is about this."
    rows = [["goal", "at most", "worst", "", ""]]
    for goal in found:
        figures = number(goal["limit"]), number(goal["worst"])
        rows.append([goal["goal"], *figures, "held" if goal["held"] else "MISSED", goal["where"]])
    return table(rows)


def _steps(results: dict[str, Any]) -> Iterator[tuple[str, float, Iterable[Case]]]:
    rows = results.get("mlp", [])
    groups = grouped(rows, "threads", "optimizer")
    for rival, limit in EACH:
        yield f"compiled / {rival}, each", limit, _each(_for(rival, rows), "compiled", rival)
    for rival, limit in ON_AVERAGE:
        of = [(key, group) for key, group in groups if _for(rival, group)]
        yield f"compiled / {rival}, mean", limit, _means(of, "compiled", rival)
    yield "composition / compiled, each", 1.15, _each(rows, "composition", "compiled")
    small = [row for row in rows if row["sizes"][0] <= 64]
    large = [row for row in rows if row not in small]
    yield "eager / torch, small networks, each", 1.0, _each(small, "eager", "torch")
    small_groups = grouped(small, "threads", "optimizer")
    yield "eager / torch, small networks, mean", 0.75, _means(small_groups, "eager", "torch")
    yield "eager / torch, large networks, each", 1.05, _each(large, "eager", "torch")


def _norms(results: dict[str, Any]) -> Iterator[tuple[str, float, Iterable[Case]]]:
    for op, limit in NORMS:
        rows = [row for row in results.get("norm", []) if row["op"] == op]
        cases = [(ratio(row, "composition", "torch"), _norm(row)) for row in rows]
        yield f"{op} norm: composition / torch, each", limit, cases


def _rest(results: dict[str, Any]) -> Iterator[tuple[str, float, Iterable[Case]]]:
    rows = results.get("compiling", [])
    for name, limit in (("cold", 5.0), ("warm", 0.5), ("wider", 0.5)):
        yield f"compiling, {name}: s", limit, [(r[name]["seconds"], r["net"]) for r in rows]
    yield "compiling, wider: new files", 0, [(r["wider"]["files"], r["net"]) for r in rows]
    calls = [(1e6 * r["call"], r["net"]) for r in rows if r["call"] is not None]
    yield "guards and bookkeeping of a call: µs", 15.0, calls
    rows = results.get("memory", [])
    for a, b in (("compiled", "eager"), ("composition", "eager"), ("eager", "torch")):
        yield f"memory: {a} / {b}", 1.0, [(_memory(row, a, b), row["net"]) for row in rows]
    rows = results.get("accuracy", [])
    for way in ("compiled", "composition"):
        yield f"float32 error: {way} - eager, ULP", 2.0, [(_lost(r, way), r["case"]) for r in rows]


def _for(rival: str, rows: Rows) -> Rows:
    return [row for row in rows if row["threads"] == 1] if rival in ONE_THREAD else rows


def _each(rows: Rows, a: str, b: str) -> list[Case]:
    return [
        (ratio(row, a, b), f"{row['net']}, {row['optimizer']}, threads: {row['threads']}")
        for row in rows
    ]


def _means(groups: Iterable[tuple[tuple[Any, ...], Rows]], a: str, b: str) -> list[Case]:
    return [
        (mean_ratio(rows, a, b), f"{optimizer}, threads: {threads}")
        for (threads, optimizer), rows in groups
    ]


def _norm(row: Row) -> str:
    return f"{norm_case(row)}, threads: {row['threads']}"


def _memory(row: Row, a: str, b: str) -> float | None:
    """Goals for networks that need enough memory; resident memory comes in pages."""
    found = row["found"]
    return found[a] / found[b] if found.get(a) and found.get(b, 0) >= 2**20 else None


def _lost(row: Row, way: str) -> float | None:
    found = row["found"]
    return found[way] - found["eager"] if way in found else None
