"""What the run found, for a person: a table for each part, and the goals one by one."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

SHOWN = {
    "steps": ("net", "optimizer", "rival", "ms", "host_ms"),
    "norms": ("rows", "width", "op", "way", "ms", "gb_per_s"),
    "agreement": ("norm", "optimizer", "way", "largest_difference", "waits", "same_bits", "lines"),
    "errors": ("op", "fused", "composition", "misses"),
    "errors_tf32": ("op", "fused", "composition", "misses"),
    "suite": ("file", "passed", "failed", "skipped"),
}


def cell(value: Any) -> str:
    """A value, short."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def text(part: str, rows: list[Row]) -> str:
    """The rows of a part, aligned; at the end, what is missing, left out or wrong."""
    names = SHOWN[part]
    lines = [names, *([cell(row.get(name)) for name in names] for row in rows if measured(row))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    shown = [
        "  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    for row in rows:
        label = " ".join(
            cell(row[name]) for name in names if name in row and name not in ("ms", "waits")
        )
        for why in ("error", "left_out", "first_failure"):
            if why in row:
                shown.append(f"{why.replace('_', ' ')}: {label}: {row[why]}")
    missing = sorted(
        {
            f"{row.get('rival', row.get('way'))}: {row['missing']}"
            for row in rows
            if "missing" in row
        }
    )
    return "\n".join([*shown, *missing])


def measured(row: Row) -> bool:
    """Whether there is something to show in a table."""
    return not {"missing", "left_out", "error"} & row.keys()


def failed(part: str, found: dict[str, Any]) -> bool:
    """Whether anything in a part is wrong; what is missing or had no time is not."""
    wrong = any("error" in row or row.get("right") is False for row in found["rows"])
    return wrong or found["ended"] != "complete"


def answers(parts: dict[str, Any]) -> list[str]:
    """The goals, each with what was measured."""
    lines = []
    rows = parts.get("steps", {}).get("rows", [])
    times = {(r["net"], r["optimizer"], r["rival"]): r["ms"] for r in rows if "ms" in r}
    for mine, other in (("graph", "torch.compile"), ("graph", "jax"), ("eager", "torch")):
        ratios = {
            key[:2]: ms / times[(*key[:2], other)]
            for key, ms in times.items()
            if key[2] == mine and (*key[:2], other) in times
        }
        if ratios:
            worst = max(ratios, key=lambda key: ratios[key])
            lines.append(
                f"{mine} / {other}: {min(ratios.values()):.2f} to {ratios[worst]:.2f} "
                f"(worst: {' '.join(worst)}); goal: at most 1"
            )
    rows = parts.get("norms", {}).get("rows", [])
    speed = {
        (r["rows"], r["width"], r["op"], r.get("way")): r["gb_per_s"]
        for r in rows
        if "gb_per_s" in r
    }
    shares = {
        key: value / speed[(*key[:2], "copy", None)]
        for key, value in speed.items()
        if key[3] == "kernels"
        and key[0] * key[1] >= 4096 * 1024
        and (*key[:2], "copy", None) in speed
    }
    if shares:
        low = min(shares, key=lambda key: shares[key])
        lines.append(
            f"bandwidth of norm kernels / copy, from 4096 x 1024 on: {shares[low]:.2f} to "
            f"{max(shares.values()):.2f} (lowest: {low[2]} {low[0]} x {low[1]}); goal: at least 0.8"
        )
    rows = [r for r in parts.get("agreement", {}).get("rows", []) if "waits" in r]
    if rows:
        lines.append(f"steps that wait: {sum(r['waits'] for r in rows)} of {len(rows)}; goal: 0")
    rows = [r for r in parts.get("suite", {}).get("rows", []) if "right" in r]
    if rows:
        passed, bad = (sum(r.get(k, 0) for r in rows) for k in ("passed", "failed"))
        lines.append(f"tests: {passed} passed, {bad} failed; goal: all pass")
    return lines
