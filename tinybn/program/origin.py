"""Where a line comes from, read from the Python that is running when it is written down.

The formulas of tinybn have the names of their papers: `x_hat = d / sqrt(var + eps)`. So what a line
is called is there to be read: the innermost assignment whose whole right-hand side it computes,
past the functions that return it, tells the name.
"""

from __future__ import annotations

import ast
import functools
import linecache
import re
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

from tinybn.nn.module import Module
from tinybn.optim import Optimizer
from tinybn.program.line import Line, Origin

Span = tuple[int | None, int | None, int | None, int | None]

RETURN = "return"
RECORDER = "tinybn.program.step"
ENGINE = {
    f"tinybn.{name}"
    for name in (
        "autodiff",
        "backend",
        "fusion",
        "modes",
        "op",
        "parameters",
        "tape",
        "tensor",
        "walk",
    )
}
"""What stands between a formula and the array function that computes it."""


def origin(paths: Mapping[int, str], names: Mapping[int, str]) -> Origin:
    """The origin of a line that is written down now.

    paths: the full names of the layers, by id. names: those of inputs, by id of their lines.
    """
    section, layer, name, user = "forward", None, "", ""
    naming = True
    for frame in _frames():
        module = frame.f_globals.get("__name__", "")
        code, variables = frame.f_code, frame.f_locals
        if not module.startswith("tinybn.program") and module not in ENGINE and naming:
            found = _assigned(code.co_filename).get(_span(code, frame.f_lasti), "")
            naming = found == RETURN
            name = "" if naming else found
        owner = variables.get("self")
        if module == "tinybn.walk":
            section = "backward"
        elif isinstance(owner, Optimizer):
            section = "update"
            if code.co_name == "update" and hasattr(variables.get("p"), "line"):
                layer = layer or (names.get(id(variables["p"].line), ""), "")
        elif isinstance(owner, Module) and layer is None and code.co_name == "forward":
            layer = (paths.get(id(owner), ""), repr(owner))
        if not user and module.partition(".")[0] not in ("tinybn", "numpy"):
            user = f"{code.co_filename}:{frame.f_lineno}"
    return Origin(section, layer, name, None, user)


def _frames() -> Iterator[FrameType]:
    """From the innermost one to the step's own: who calls a compiled step names nothing in it."""
    frame: Any = sys._getframe(2)
    while frame and frame.f_globals.get("__name__") != RECORDER:
        yield frame
        frame = frame.f_back


def _span(code: CodeType, offset: int) -> Span:
    """Which piece of the source the instruction at `offset` computes."""
    positions = list(_positions(code))
    return positions[offset // 2]


@functools.cache
def _positions(code: CodeType) -> tuple[Span, ...]:
    return tuple((a, c, b, d) for a, b, c, d in code.co_positions())


@functools.cache
def _assigned(filename: str) -> dict[Span, str]:
    """Of a source file: the name that the expression there is assigned to, or RETURN."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:  # no Python: a shell's input, for instance
        return {}
    found: dict[Span, str] = {}
    values: list[Any]
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value:
            name, values = RETURN, [node.value]
        elif isinstance(node, ast.Lambda):
            name, values = RETURN, [node.body]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, values = node.targets[0].id, [node.value]
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            name, values = node.target.id, [node]
        else:
            continue
        for value in values:
            if isinstance(value, ast.IfExp):
                values += [value.body, value.orelse]
            found[_place(value)] = name
    return found


def _place(node: Any) -> Span:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def label(line: Line) -> str:
    """What a line's result is called: x_hat_1 in layer 1, weight_0 for the input 0.weight; "" if it
    has no name where it comes from.
    """
    if line.op == "input":
        return _identifier(line.static["name"])
    name, layer = line.origin.name, line.origin.layer
    if not name or name.startswith(("d_", "new_")) or not layer or not layer[0]:
        return _identifier(name)
    return _identifier(f"{layer[0]}.{name}")


def _identifier(name: str) -> str:
    """A full name such as 0.weight as a Python name: weight_0."""
    *path, last = name.split(".")
    prefix = re.match(r"((d|old|new)_)*", name)[0]  # type: ignore[index]
    if prefix and path:
        path[0], last = path[0].removeprefix(prefix), prefix + last
    text = re.sub(r"\W", "_", "_".join([last, *path]))
    return text if text.isidentifier() or not text else f"v{text}"
