"""Where things are written: the line that called an op, and the text of a gradient rule."""

from __future__ import annotations

import ast
import functools
import linecache
import sys
from pathlib import Path
from typing import Any

from tinybn.fusion import FusedOp
from tinybn.op import Op

PACKAGE = Path(__file__).parent.parent.parent
ENGINE = {"tinybn.node", "tinybn.op", "tinybn.fusion", "tinybn.parameters", "tinybn.ops"}
"""The modules that run between a formula and `watch`."""


def formula() -> tuple[str, str]:
    """The file and line that called the op that is being recorded, and the text of that line."""
    frame: Any = sys._getframe(2)
    while frame.f_globals.get("__name__") in ENGINE:
        frame = frame.f_back
    path, number = frame.f_code.co_filename, frame.f_lineno
    return f"{shown_path(path)}:{number}", linecache.getline(path, number).strip()


def shown_path(path: str) -> str:
    """A path of tinybn from its top folder; of any other file the name."""
    inside = Path(path).is_relative_to(PACKAGE)
    return Path(path).relative_to(PACKAGE).as_posix() if inside else Path(path).name


def rule_of(op: Op, i: int) -> tuple[str, str]:
    """The source of the rule for input i, and its file and line."""
    fused = isinstance(op, FusedOp)
    rule = getattr(op, "closed_form", None) if fused else getattr(op, "rules", [None])[i]
    code = getattr(rule, "__code__", None)
    if code is None:
        return "", ""
    place = f"{shown_path(code.co_filename)}:{code.co_firstlineno}"
    if fused:
        return f"the closed form of {op.name}", place
    return _lambdas(code.co_filename).get(_start(code), f"{code.co_name}(…)"), place


def _start(code: Any) -> tuple[int, int] | None:
    """Where the body of a lambda starts: the first line and column of its instructions."""
    spots = [(line, column) for line, _, column, _ in code.co_positions() if column]
    return min(spots, default=None)


@functools.cache
def _lambdas(filename: str) -> dict[Any, str]:
    """The text of each lambda of a file, by where its body starts."""
    text = "".join(linecache.getlines(filename))
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Lambda):
            source = " ".join((ast.get_source_segment(text, node) or "").split())
            source = source.replace("( ", "(").replace(" )", ")")
            found[node.body.lineno, node.body.col_offset] = source
    return found
