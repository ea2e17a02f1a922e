"""Aligned tables, JSON without infinities, and files that are written whole or not at all."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from lab.records import Record
from tinybn.checkpoint import replace

P = ParamSpec("P")


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
