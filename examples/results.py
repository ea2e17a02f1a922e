"""From the runs of an experiment to medians and ranges, choices, tables, and files.

A run is a dictionary of its configuration and its measures. None means that something never
happened (a target that was not reached) or is not finite (the loss of a diverged run). As a number
it counts as infinite, so a median is infinite when most runs never got there.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeAlias

from tinybn.checkpoint import replace

Record: TypeAlias = dict[str, Any]
P = ParamSpec("P")


class Spread(NamedTuple):
    """The median and the range of some values."""

    median: float
    low: float
    high: float

    def text(self, form: str = ".3g") -> str:
        """As in "34 (28–41)"."""
        median, low, high = (
            format(v, form) if math.isfinite(v) else "∞" if v > 0 else "?" for v in self
        )
        return median if low == high else f"{median} ({low}–{high})"


def where(runs: Iterable[Record], **conditions: Any) -> list[Record]:
    """The runs whose configurations have these values."""
    return [r for r in runs if all(r.get(key) == value for key, value in conditions.items())]


def values(runs: Iterable[Record], measure: str) -> list[float]:
    """One measure of each run; None counts as infinite."""
    return [math.inf if r[measure] is None else float(r[measure]) for r in runs]


def spread(numbers: Sequence[float]) -> Spread:
    """Median and range, without NaN (never divided by never)."""
    known = [v for v in numbers if not math.isnan(v)] or [math.nan]
    return Spread(statistics.median(known), min(known), max(known))


def interval(numbers: Sequence[float]) -> Spread:
    """The mean and its 95 % confidence interval, by Student's t: mean ± t · s / √n.

    The quantile t of n - 1 degrees of freedom is that of the normal distribution, corrected
    (Abramowitz & Stegun 1964, 26.7.5): within 1 % for n >= 4.
    """
    n, mean = len(numbers), statistics.fmean(numbers)
    if n < 2:
        return Spread(mean, -math.inf, math.inf)
    z, v = statistics.NormalDist().inv_cdf(0.975), n - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    half = t * statistics.stdev(numbers) / math.sqrt(n)
    return Spread(mean, mean - half, mean + half)


def ratios(runs: Iterable[Record], others: Iterable[Record], measure: str) -> list[float]:
    """The measure of each run divided by that of the other run with the same seed."""
    first, second = ({r["seed"]: v for r, v in zip(rs, values(rs, measure), strict=True)}
                     for rs in (list(runs), list(others)))  # fmt: skip
    return [_ratio(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]


def _ratio(a: float, b: float) -> float:
    if math.isinf(a) and math.isinf(b):
        return math.nan
    return a / b if b else math.inf


def choose(
    runs: Iterable[Record],
    by: Callable[[list[Record]], Any],
    key: str = "lr",
) -> Any:
    """The value of `key` (a learning rate) whose runs give the smallest `by`.

    `by` must use validation data alone; test data are for the report.
    """
    groups = group(runs, (key,))
    return min(groups.items(), key=lambda item: by(item[1]))[0][0]


def group(runs: Iterable[Record], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Record]]:
    """The runs grouped by the values of these keys, in the order of first appearance."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for r in runs:
        groups.setdefault(tuple(r.get(key) for key in keys), []).append(r)
    return groups


def summary(
    runs: Iterable[Record], keys: Sequence[str], measures: Mapping[str, str]
) -> list[Record]:
    """Per configuration: the seeds, how many runs diverged, median and range of each measure."""
    return [
        dict(zip(keys, names, strict=True))
        | {
            "seeds": [r["seed"] for r in rs],
            "diverged": sum(r.get("diverged_at") is not None for r in rs),
        }
        | {measure: spread(values(rs, measure))._asdict() for measure in measures}
        for names, rs in group(runs, keys).items()
    ]


def summary_table(
    rows: Sequence[Record], keys: Sequence[str], measures: Mapping[str, str]
) -> list[list[str]]:
    """The rows of `summary` as cells; `measures` says how the numbers are written."""
    cells = [
        [
            *(_cell(row[key]) for key in keys),
            *(Spread(**row[measure]).text(form) for measure, form in measures.items()),
            f"{row['diverged']} of {len(row['seeds'])}" if row["diverged"] else "–",
        ]
        for row in rows
    ]
    return [[*keys, *(m.replace("_", " ") for m in measures), "diverged"], *cells]


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned plain text; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def replace_unprintable() -> None:
    """Let stdout replace characters that its encoding lacks, such as ∞, instead of raising."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def tidy(runs: Sequence[Record]) -> str:
    """One line per run, as CSV: everything but the curves."""
    columns = dict.fromkeys(
        key for r in runs for key, value in r.items() if not isinstance(value, list | dict)
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(runs)
    return text.getvalue()


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically: an older one stays until the new one is complete."""
    replace(path, content.encode() if isinstance(content, str) else content)


def survives_a_broken_pipe(main: Callable[P, int]) -> Callable[P, int]:
    """Let a command end with one line when nobody reads its output any longer (a decorator)."""

    @functools.wraps(main)
    def command(*args: P.args, **keywords: P.kwargs) -> int:
        try:
            status = main(*args, **keywords)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
            print("the output was closed before its end", file=sys.stderr)
            return 1
        return status

    return command


def dumps(content: Any, **options: Any) -> str:
    """JSON, with null for numbers that are not finite."""
    return json.dumps(_finite(content), allow_nan=False, ensure_ascii=False, **options)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
