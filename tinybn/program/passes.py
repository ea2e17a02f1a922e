"""Passes: functions that make a shorter or cheaper program of a program.

`exact` leaves every result as it is, to the last bit. `relaxed` computes the same in exact
arithmetic, but rounds in other places: it moves what does not change along a sum out of the sum.
Then equal sums meet, and what is left of the composition of batch norm are the two sums of its
closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinybn.program.line import Line, Origin, apply, constant, evaluate
from tinybn.program.source import Program

Emit = Callable[..., Line]
Rule = Callable[[Line, Emit], Line]


def exact(program: Program) -> Program:
    """The same results from fewer lines."""
    return without_dead(without_equal(simplified(program)))


def relaxed(program: Program) -> Program:
    """The same results, but for rounding, from less arithmetic."""
    return exact(reciprocals(exact(short_sums(exact(program)))))


def rewritten(program: Program, rule: Rule) -> Program:
    """Every line replaced by what `rule(line, emit)` returns.

    The line reads what its inputs were replaced by; the rule returns it, or another line, which
    `emit(op, *inputs, **static)` makes.
    """
    new: dict[Line, Line] = {}
    placed: dict[Line, None] = {}  # in order
    for old in program.lines:
        inputs = tuple(new.get(a, a) for a in old.inputs)
        line = old if inputs == old.inputs else old.reading(inputs)

        def emit(op: str, *given: Line, origin: Origin = old.origin, **static: Any) -> Line:
            made = apply(op, *given, origin=origin, **static)
            placed[made] = None
            return made

        new[old] = result = rule(line, emit)
        if result.op not in ("input", "constant"):
            placed.setdefault(result)
    return Program(program.inputs, list(placed), [new.get(a, a) for a in program.outputs])


# exact


def without_dead(program: Program) -> Program:
    """Only the lines that an output depends on."""
    needed = set(program.outputs)
    lines = []
    for line in reversed(program.lines):
        if line in needed:
            needed.update(line.inputs)
            lines.append(line)
    return Program(program.inputs, lines[::-1], program.outputs)


def without_equal(program: Program) -> Program:
    """One line in place of several that compute the same from the same."""
    first: dict[Any, Line] = {}

    def rule(line: Line, emit: Emit) -> Line:
        inputs = tuple(
            first.setdefault(a.key(), a) if a.op == "constant" else a for a in line.inputs
        )
        line = line if inputs == line.inputs else line.reading(inputs)
        return first.setdefault(line.key(), line)

    return rewritten(program, rule)


def simplified(program: Program) -> Program:
    """Constants computed, and what changes nothing left out: x · 1, a reshape to the same shape,
    a broadcast that the next operation does by itself.
    """
    return rewritten(program, _simple)


NEUTRAL = {"multiply": 1, "divide": 1, "power": 1, "subtract": 0}
"""x op this is x, bit for bit. (x + 0 is not: -0 + 0 is 0.)"""


def _simple(line: Line, emit: Emit) -> Line:
    a = line.inputs[0] if line.inputs else line
    if line.op == "full":
        return emit("broadcast_to", _number(line.static), shape=line.shape) if line.shape else line
    if line.inputs and all(x.op == "constant" for x in line.inputs) and not line.shape:
        return constant(evaluate(line), line.origin)
    if line.op in ("reshape", "broadcast_to") and line.shape == a.shape:
        return a
    if line.op == "reshape" and a.op == "reshape":
        return emit("reshape", a.inputs[0], shape=line.shape)
    if line.op == "transpose" and line.static["axes"] == tuple(range(line.ndim)):
        return a
    if line.op == "astype" and a.kind is None and a.dtype == line.dtype:
        return a
    if line.op == "negative" and a.op == "negative":
        return a.inputs[0]
    if line.op in NEUTRAL and _is(line.inputs[1], NEUTRAL[line.op]) and _same(a, line):
        return a
    if line.op == "multiply" and _is(a, 1) and _same(line.inputs[1], line):
        return line.inputs[1]
    if _elementwise(line):
        bare = [x.inputs[0] if x.op == "broadcast_to" else x for x in line.inputs]
        if (
            bare != list(line.inputs)
            and np.broadcast_shapes(*[x.shape for x in bare]) == line.shape
        ):
            return emit(line.op, *bare, **line.static)
    return line


def _number(static: Any) -> Line:
    return constant(np.dtype(static["dtype"]).type(static["value"]))


def _is(line: Line, value: float) -> bool:
    """Whether a line is this number; -0.0 is not 0."""
    given = line.static["value"] if line.op == "constant" and not line.shape else None
    return given == value and not np.signbit(given)


def _same(a: Line, line: Line) -> bool:
    return a.shape == line.shape and a.dtype == line.dtype and a.kind == line.kind


def _elementwise(line: Line) -> bool:
    return line.op in ("where", "astype") or (
        isinstance(getattr(np, line.op, None), np.ufunc) and line.op != "matmul"
    )


# up to rounding


def short_sums(program: Program) -> Program:
    """What does not change along a sum moved out of it, and sums of what is centred left out."""
    return rewritten(program, _short_sum)


def reciprocals(program: Program) -> Program:
    """Division by fewer numbers than are divided becomes multiplication by their reciprocals."""

    def rule(line: Line, emit: Emit) -> Line:
        if line.op == "divide" and line.dtype.kind == "f" and line.kind is None:
            a, b = line.inputs
            if b.size < line.size and b.dtype == line.dtype and b.kind is None:
                unnamed = line.origin._replace(name="")
                return emit("multiply", a, emit("divide", constant(1.0), b, origin=unnamed))
        return line

    return rewritten(program, rule)


def _short_sum(line: Line, emit: Emit) -> Line:
    if line.op not in ("sum", "sum_wide") or line.inputs[0].dtype.kind != "f":
        return line
    v, axes = line.inputs[0], line.static["axis"]

    def unnamed(op: str, *given: Line, **static: Any) -> Line:
        return emit(op, *given, origin=line.origin._replace(name=""), **static)

    terms = _terms(v, axes, unnamed)
    if all(term.inside is v for term in terms) or math.prod(v.shape[a] for a in axes) < 2:
        return line
    total: Line | None = None
    for sign, factors, inside in terms:
        if _centred_along(inside) == axes:
            continue  # its sum is 0 in exact arithmetic: the path that carries no gradient
        part = unnamed(line.op, inside, axis=axes)
        for op, factor in factors:
            part = unnamed(op, part, factor)
        if total is not None:
            total = unnamed("add" if sign > 0 else "subtract", total, part)
        else:
            total = part if sign > 0 else unnamed("negative", part)
    return unnamed("full", shape=line.shape, value=0, dtype=line.dtype) if total is None else total


class Term(NamedTuple):
    """sign · inside, multiplied or divided by factors, none of which changes along the sum."""

    sign: int
    factors: list[tuple[str, Line]]
    inside: Line


def _terms(v: Line, axes: tuple[int, ...], emit: Emit) -> list[Term]:
    """v as a sum of terms. A sum is taken apart only if that moves something out of each part."""
    if v.op == "negative":
        return [term._replace(sign=-term.sign) for term in _terms(v.inputs[0], axes, emit)]
    if v.op == "add" and all(a.shape == v.shape for a in v.inputs):
        terms = [term for a in v.inputs for term in _terms(a, axes, emit)]
        if all(term.factors or _centred_along(term.inside) == axes for term in terms):
            return terms
    return [_term(v, axes, emit)]


def _term(v: Line, axes: tuple[int, ...], emit: Emit) -> Term:
    if v.op == "negative":
        sign, factors, inside = _term(v.inputs[0], axes, emit)
        return Term(-sign, factors, inside)
    if v.op in ("multiply", "divide"):
        a, b = v.inputs
        if v.op == "multiply" and _unchanged(a, v, axes):
            a, b = b, a
        if a.shape == v.shape and a.dtype == v.dtype and _unchanged(b, v, axes):
            sign, factors, inside = _term(a, axes, emit)
            return Term(sign, [*factors, (v.op, b)], inside)
        if v.op == "multiply" and a.shape == b.shape and a.dtype == b.dtype:
            one, other = _term(a, axes, emit), _term(b, axes, emit)
            if one.inside is not a or other.inside is not b:
                inside = emit("multiply", one.inside, other.inside)
                return Term(one.sign * other.sign, one.factors + other.factors, inside)
    return Term(1, [], v)


def _unchanged(a: Line, v: Line, axes: tuple[int, ...]) -> bool:
    """Whether a, an operand of v, is the same all along the axes of v."""
    skip = v.ndim - a.ndim
    return all(axis < skip or a.shape[axis - skip] == 1 for axis in axes)


def _centred_along(line: Line) -> tuple[int, ...] | None:
    """The axes, if the line is a - Σ a / n along some: then it sums up to 0 there."""
    if line.op == "subtract" and line.inputs[1].op == "divide":
        total, count = line.inputs[1].inputs
        total = total.inputs[0] if total.op == "astype" else total
        if total.op in ("sum", "sum_wide") and total.inputs[0] is line.inputs[0]:
            axes: tuple[int, ...] = total.static["axis"]
            if _is(count, math.prod(line.shape[a] for a in axes)):
                return axes
    return None
