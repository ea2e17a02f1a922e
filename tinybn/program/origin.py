"""Where a line comes from: the Python code that is running when it is written.

tinybn's formulas use the names of their papers: `x_hat = d / sqrt(var + eps)`. A line therefore
takes its name from the source: from the innermost assignment whose whole right-hand side it
computes, or from that of a caller, if the function returns it.
"""

from __future__ import annotations

import ast
import functools
import linecache
import re
import sys
from collections.abc import Mapping
from types import CodeType
from typing import Any

from tinybn.autodiff import backward, grad
from tinybn.nn.module import Module
from tinybn.optim import Optimizer
from tinybn.program.line import Line, Origin

BACKWARD = {backward.__code__, grad.__code__}
ENGINE = {"autodiff", "backend", "fusion", "op", "tensor", "walk", "program"}
"""Parts of tinybn that run between a formula and the array function that computes it."""

RETURN = "return"
Span = tuple[int | None, int | None, int | None, int | None]
"""A piece of source: first line, last line, first column, last column."""


def origin(paths: Mapping[int, str], outermost: int) -> Origin:
    """The origin of a line that is written now.

    Args:
        paths: the full names of the layers, by id.
        outermost: the id of the frame to stop at: code outside the step must not name its lines.
    """
    section, layer, name, user = "forward", None, RETURN, ""
    frame: Any = sys._getframe(2)
    while frame and id(frame) != outermost:
        code, variables = frame.f_code, frame.f_locals
        owner = variables.get("self")
        package, _, module = frame.f_globals.get("__name__", "").partition(".")
        ours = package == "tinybn"
        if name == RETURN and not (ours and module.partition(".")[0] in ENGINE):
            name = _assigned(code.co_filename).get(_spans(code)[frame.f_lasti // 2], "")
        if code in BACKWARD:
            section = "backward"
        elif isinstance(owner, Optimizer):
            section = "update"
            parameter = getattr(variables.get("p"), "line", None)
            if code.co_name == "update" and parameter:
                layer = layer or (parameter.static.get("name", ""), "")
        elif isinstance(owner, Module) and code.co_name == "forward":
            layer = layer or (paths.get(id(owner), ""), repr(owner))
        if not user and not ours and package != "numpy":
            user = f"{code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return Origin(section, layer, within(layer, "" if name == RETURN else name), None, user)


@functools.lru_cache(1000)
def _spans(code: CodeType) -> list[Span]:
    """The piece of source that each instruction computes."""
    return list(code.co_positions())


@functools.cache
def _assigned(filename: str) -> dict[Span, str]:
    """The name that each expression of a file is assigned to; RETURN if it is returned."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:  # not Python: a shell's input, for instance
        return {}
    found: dict[Span, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Return(value=ast.AST() as value) | ast.Lambda(body=value):
                found[_span(value)] = RETURN
            case ast.Assign(targets=[ast.Name(id=name), *_], value=value):
                found[_span(value)] = name
            case ast.AugAssign(target=ast.Name(id=name)):
                found[_span(node)] = name
            case ast.IfExp() if _span(node) in found:  # parents come before children
                found[_span(node.body)] = found[_span(node.orelse)] = found[_span(node)]
    return found


def _span(node: Any) -> Span:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def within(layer: tuple[str, str] | None, name: str) -> str:
    """The full name of a result in a layer."""
    return f"{layer[0]}.{name}" if name and layer and layer[0] else name


def full_name(line: Line) -> str:
    """A name such as 1.x_hat (of layer 1) or 0.weight; "" if the formula names no such line."""
    return line.static["name"] if line.op == "input" else line.origin.name


def label(line: Line) -> str:
    """The full name as a Python name: x_hat_1, weight_0, d_weight_0."""
    found = re.fullmatch(r"((?:(?:d|old|new)_)*)(?:(.*)\.)?(.*)", full_name(line))
    prefix, path, last = found.groups("")  # type: ignore[union-attr]
    text = re.sub(r"\W", "_", f"{prefix}{last}_{path}" if path else prefix + last)
    return text if text.isidentifier() or not text else f"v{text}"
