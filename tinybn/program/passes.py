"""Passes: functions that turn a program into a shorter or cheaper one.

`exact` keeps every result to the last bit. `relaxed` keeps results in exact arithmetic, but rounds
differently: it moves factors that are constant along a sum out of the sum. Equal sums then become
one, and the composition of batch norm is left with the sums of its closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinybn.program.line import Line, apply, constant, evaluate, is_elementwise
from tinybn.program.source import Program

Emit = Callable[..., Line]
Rule = Callable[[Line, Emit], Line]


def exact(program: Program) -> Program:
    """A program with fewer lines and the same results, to the last bit."""
    return without_dead(without_equal(simplified(program)))


def relaxed(program: Program) -> Program:
    """A program with less arithmetic and the same results, up to rounding."""
    return exact(reciprocals(exact(short_sums(exact(program)))))


def rewritten(program: Program, rule: Rule) -> Program:
    """The program with each line replaced by `rule(line, emit)`.

    The line that the rule receives already reads the replacements of its inputs. The rule returns
    this line, another line, or a new one made by `emit(op, *inputs, **static)`.
    """
    new: dict[Line, Line] = {}
    placed: dict[Line, None] = {}  # in order
    for old in program.lines:
        inputs = tuple(new.get(a, a) for a in old.inputs)
        line = old if inputs == old.inputs else old.reading(inputs)
        unnamed = old.origin._replace(name="")

        def emit(op: str, *given: Line, origin: Any = unnamed, **static: Any) -> Line:
            made = apply(op, *given, origin=origin, **static)
            placed[made] = None
            return made

        new[old] = result = rule(line, emit)
        if result.origin is unnamed:
            result.origin = old.origin
        if result.op not in ("input", "constant"):
            placed.setdefault(result)
    return Program(program.inputs, list(placed), [new.get(a, a) for a in program.outputs])


# --- passes that keep every bit ---


def without_dead(program: Program) -> Program:
    """The program without the lines that no output depends on."""
    needed = set(program.outputs)
    lines = []
    for line in reversed(program.lines):
        if line in needed:
            needed.update(line.inputs)
            lines.append(line)
    return Program(program.inputs, lines[::-1], program.outputs)


def without_equal(program: Program) -> Program:
    """The program with each set of equal lines replaced by the first of them."""
    first: dict[Any, Line] = {}

    def rule(line: Line, emit: Emit) -> Line:
        equal = (first.setdefault(a.key(), a) if a.op == "constant" else a for a in line.inputs)
        line = line.reading(tuple(equal))
        return first.setdefault(line.key(), line)

    return rewritten(program, rule)


NEUTRAL = {"multiply": 1, "divide": 1, "power": 1, "subtract": 0}
"""x op this number is x, bit for bit. (x + 0 is not, because -0 + 0 is 0.)"""


def simple(line: Line, emit: Emit) -> Line:
    """Compute constants, and remove operations that change nothing.

    Examples are x · 1, a reshape to the same shape, and a broadcast before an operation that
    broadcasts by itself.
    """
    op, inputs, static = line.op, line.inputs, line.static
    if not inputs:
        return line
    a, b = inputs[0], inputs[-1]
    if all(x.op == "constant" for x in inputs) and not line.shape and op != "broadcast_to":
        return constant(evaluate(op, [x.static["value"] for x in inputs], static))
    if op == "reshape" and a.op == "reshape":
        return emit("reshape", a.inputs[0], shape=line.shape)
    if op == "negative" and a.op == "negative":
        return a.inputs[0]
    if op == "multiply" and _is(a, 1) and _same(b, line):
        return b
    if _same(a, line) and (
        (op in ("reshape", "broadcast_to", "astype") and a.op != "constant")
        or (op == "transpose" and static["axes"] == tuple(range(line.ndim)))
        or (op in NEUTRAL and _is(b, NEUTRAL[op]))
    ):
        return a
    if is_elementwise(op) and op != "power" and line.shape:  # NumPy computes x ** 2 as x * x
        spread = (x.op == "broadcast_to" and not x.inputs[0].kind for x in inputs)
        bare = [x.inputs[0] if s else x for x, s in zip(inputs, spread, strict=True)]
        if bare != list(inputs) and np.broadcast_shapes(*[x.shape for x in bare]) == line.shape:
            return emit(op, *bare, **static)
    return line


simplified = partial(rewritten, rule=simple)


def _is(line: Line, value: float) -> bool:
    """Whether a line is this number; -0.0 is not 0."""
    given = line.static["value"] if line.op == "constant" and not line.shape else None
    return given == value and not np.signbit(given)


def _same(a: Line, line: Line) -> bool:
    return (a.shape, a.dtype, a.kind) == (line.shape, line.dtype, line.kind)


# --- passes that round differently ---


def reciprocal(line: Line, emit: Emit) -> Line:
    """Multiply by reciprocals if there are fewer of them than quotients."""
    if line.op == "divide" and line.dtype.kind == "f" and not line.kind:
        a, b = line.inputs
        if b.size < line.size and b.dtype == line.dtype and not b.kind:
            return emit("multiply", a, emit("divide", constant(1.0), b))
    return line


def short_sum(line: Line, emit: Emit) -> Line:
    """Move factors that are constant along a sum out of it, and drop sums of centred terms."""
    if line.op not in ("sum", "sum_wide") or line.inputs[0].dtype.kind != "f":
        return line
    v, axes = line.inputs[0], line.static["axis"]
    if math.prod(v.shape[a] for a in axes) < 2:
        return line
    terms = _terms(v, axes, emit)
    if terms[0].inside is v:
        return line
    total: Line | None = None
    for inside, then in terms:
        if _is_centred(inside, axes):
            continue  # in exact arithmetic, its sum is 0: a path without gradient
        part = emit(line.op, inside, axis=axes)
        for op, *factor in then:
            part = emit(op, part, *factor)
        total = emit("add", total, part) if total else part
    zero = constant(line.dtype.type(0))
    return total or emit("broadcast_to", zero, shape=line.shape)


reciprocals, short_sums = (partial(rewritten, rule=rule) for rule in (reciprocal, short_sum))


class Term(NamedTuple):
    """Σ `inside`, followed by steps `then`, each ("multiply", factor) or just ("negative",)."""

    inside: Line
    then: list[tuple[Any, ...]]


def _terms(v: Line, axes: tuple[int, ...], emit: Emit, depth: int = 10) -> list[Term]:
    """Terms that add up to Σ v, with factors that are constant along the axes moved out."""

    def terms(a: Line) -> list[Term]:
        return _terms(a, axes, emit, depth - 1)

    def followed(a: Line, *step: Any) -> list[Term]:
        return [Term(inside, [*then, step]) for inside, then in terms(a)]

    if not depth:  # without a limit, x + x after x + x would take exponential time
        return [Term(v, [])]
    if v.op == "negative":
        return followed(v.inputs[0], v.op)
    if v.op == "add" and all(a.shape == v.shape for a in v.inputs):
        parts = [term for a in v.inputs for term in terms(a)]
        # Taking the sum apart pays only if something moves out of each part.
        if all(_is_centred(t.inside, axes) or any(len(step) > 1 for step in t.then) for t in parts):
            return parts
    if v.op in ("multiply", "divide"):
        a, b = v.inputs
        if v.op == "multiply" and _is_constant(a, v, axes):
            a, b = b, a
        if _same(a, v) and _is_constant(b, v, axes):
            return followed(a, v.op, b)
        if v.op == "multiply" and _same(a, v) and _same(b, v):
            (one, *more), (other, *others) = terms(a), terms(b)
            if (one.then or other.then) and not more and not others:
                inside = emit("multiply", one.inside, other.inside)
                return [Term(inside, one.then + other.then)]
    return [Term(v, [])]


def _is_constant(a: Line, v: Line, axes: tuple[int, ...]) -> bool:
    """Whether a, an operand of v, is constant along these axes of v."""
    skip = v.ndim - a.ndim
    return all(axis < skip or a.shape[axis - skip] == 1 for axis in axes)


def _is_centred(line: Line, axes: tuple[int, ...]) -> bool:
    """Whether the line is a - Σ a / n along the axes, so that its sum along them is 0."""
    if line.op != "subtract" or line.inputs[1].op != "divide":
        return False
    total, count = line.inputs[1].inputs
    total = total.inputs[0] if total.op == "astype" else total
    return (
        total.op in ("sum", "sum_wide")
        and total.inputs[0] is line.inputs[0]
        and total.static["axis"] == axes
        and _is(count, math.prod(line.shape[a] for a in axes))
    )
