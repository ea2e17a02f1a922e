"""From the runs of an experiment to medians, choices and pairs.

A run is a dictionary of its configuration and its measures. None means that something never
happened (a target that was not reached) or is not finite (the loss of a diverged run). As a number
it counts as infinite, so a median is infinite when most runs never got there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

Record: TypeAlias = dict[str, Any]


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
    """Median and range."""
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def pairs(
    runs: Iterable[Record], others: Iterable[Record], measure: str
) -> list[tuple[float, float]]:
    """The measure of each run beside that of the other run with the same seed, in their order."""
    first, second = ({r["seed"]: v for r, v in zip(rs, values(rs, measure), strict=True)}
                     for rs in (list(runs), list(others)))  # fmt: skip
    if first.keys() != second.keys():
        raise ValueError(f"not the same seeds: {sorted(first)} and {sorted(second)}")
    return [(first[seed], second[seed]) for seed in sorted(first)]


def ratios(runs: Iterable[Record], others: Iterable[Record], measure: str) -> list[float]:
    """The measure of each run divided by that of the other run with the same seed.

    Never divided by never is 1: neither was ahead. No seed is left out.
    """
    return [1.0 if a == b else a / b if b else math.inf for a, b in pairs(runs, others, measure)]


def differences(runs: Iterable[Record], others: Iterable[Record], measure: str) -> list[float]:
    """The measure of each run less that of the other run with the same seed; never less never
    is 0.
    """
    return [0.0 if a == b else a - b for a, b in pairs(runs, others, measure)]


def fastest(runs: list[Record]) -> tuple[float, float]:
    """The key for `best`: steps to the target on validation data, then accuracy there."""
    steps = spread(values(runs, "validation_steps_to_target")).median
    return steps, -statistics.fmean(values(runs, "validation_accuracy"))


def most_accurate(runs: list[Record]) -> float:
    """The key for `best`: mean accuracy on validation data. One failed seed shows in a mean."""
    return -statistics.fmean(values(runs, "validation_accuracy"))


def best(
    runs: Iterable[Record],
    by: Callable[[list[Record]], Any] = most_accurate,
    key: str = "lr",
) -> list[Record]:
    """The runs at the learning rate (or another `key`) with the smallest `by`, seed by seed.

    `by` must use validation data alone; test data are for the report.
    """
    chosen: list[Record] = min(group(runs, (key,)).values(), key=by)
    return sorted(chosen, key=lambda r: r["seed"])


def group(runs: Iterable[Record], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Record]]:
    """The runs grouped by the values of these keys, in the order of first appearance."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for r in runs:
        groups.setdefault(tuple(r.get(key) for key in keys), []).append(r)
    return groups


def summary(
    runs: Iterable[Record], keys: Sequence[str], measures: Mapping[str, str]
) -> list[Record]:
    """Per configuration: the seeds, how many runs diverged, median and range of each measure, or
    None where it is not measured.
    """
    return [
        dict(zip(keys, names, strict=True))
        | {
            "seeds": [r["seed"] for r in rs],
            "diverged": sum(r.get("diverged_at") is not None for r in rs),
        }
        | {
            measure: spread(values(rs, measure))._asdict() if measure in rs[0] else None
            for measure in measures
        }
        for names, rs in group(runs, keys).items()
    ]


def summary_table(
    rows: Sequence[Record], keys: Sequence[str], measures: Mapping[str, str]
) -> list[list[str]]:
    """The rows of `summary` as cells; `measures` says how the numbers are written."""
    cells = [
        [
            *(_cell(row[key]) for key in keys),
            *(
                _spread_of(row[measure]).text(form) if row[measure] else "–"
                for measure, form in measures.items()
            ),
            f"{row['diverged']} of {len(row['seeds'])}" if row["diverged"] else "–",
        ]
        for row in rows
    ]
    return [[*keys, *(m.replace("_", " ") for m in measures), "diverged"], *cells]


def _spread_of(row: Record) -> Spread:
    """The spread that a file has, with None for what is infinite."""
    return Spread(*(math.inf if v is None else v for v in row.values()))


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
