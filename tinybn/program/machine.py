"""Running a program: memory, a table that says what lies where, and calls in order."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from copy import copy
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from tinybn.program import jit
from tinybn.program.line import Line, expression, names_for
from tinybn.program.loops import factor, loops
from tinybn.program.nest import Function
from tinybn.program.plan import Nest, Plan
from tinybn.program.source import Program, function, source

LINE = 64
"""Bytes of a line of the cache."""

APART = 5 * LINE
"""Between arrays: caches have few places for what lies a multiple of 4096 bytes apart."""

COMPILED = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)


class Call(NamedTuple):
    """A compiled function and its row of the table; or a statement of NumPy's, without a row."""

    text: str
    row: list[int]
    comment: str


class Machine:
    """A program, ready to run.

    homes: for an output, by number, the input to whose memory it is written. source: what runs, to
    be read. size: the bytes of memory that it plans.
    """

    def __init__(self, program: Program, homes: Mapping[int, int]) -> None:
        self._plan = plan = Plan(program, homes)
        fresh = {v for v in plan.outputs if not v.kind}.difference(plan.homes, plan.inputs)
        memory, self.size = arranged(plan, fresh)
        given = [v for v in plan.inputs if v.kind]
        computed = [v for v in plan.lines if v.kind and v.op not in ("input", "constant")]
        numbers = Program(given, computed, given + computed)
        self._numbers = function(numbers, np, "numbers")  # computed by Python itself
        placed = [v for v in plan.lines if v.op == "constant" or v in plan.stored]
        slots = dict.fromkeys([*plan.inputs, *computed, *placed])
        self._slots = {v: i for i, v in enumerate(slots)}
        self._values: list[Any] = [None] * len(slots)  # arrays and numbers
        calls = self._link([self._call(chain) for chain in plan.chains])
        self.source = f"{source(numbers, 'numbers')}\n\n{calls}"
        for v, i in self._slots.items():
            if v in memory or (v.op == "constant" and v.shape):
                a = memory[v] if v in memory else np.ascontiguousarray(v.static["value"])
                self._values[i], self._table[i] = a, address(a)
            elif v.op == "constant":
                self._column(v)[i] = self._values[i] = v.static["value"]
        self._given: list[Any] = [None] * len(given)
        self._bound = [(self._slots[v], given.index(v) if v.kind else None) for v in plan.inputs]
        self._kept = [(self._column(v), self._slots[v]) for v in given + computed]
        self._made = [(self._slots[v], v.shape, v.dtype) for v in slots if v in fresh]
        self._constants = [i for i, v in enumerate(plan.outputs) if v.op == "constant"]
        self._results = [None if i in homes else self._slot(v) for i, v in enumerate(plan.outputs)]

    def bind(self, i: int, value: Any) -> None:
        """From now on, input i is this array (of its shape and dtype), or this number."""
        slot, number = self._bound[i]
        if number is None:
            value = np.asarray(value)  # a NumPy scalar is an object of another kind
            value = value if value.flags.c_contiguous else value.copy()
            self._values[slot] = value
            self._table[slot] = address(value)
        else:
            self._given[number] = value

    def run(self) -> list[Any]:
        """The outputs without a home, in order; None in the place of those that have one."""
        values, table = self._values, self._table
        for (column, slot), value in zip(self._kept, self._numbers(*self._given), strict=True):
            values[slot] = column[slot] = value
        for slot, shape, dtype in self._made:
            values[slot] = a = np.empty(shape, dtype)
            table[slot] = address(a)
        for call, arguments in self._steps:
            call(*arguments)
        results = [None if slot is None else values[slot] for slot in self._results]
        for i in self._constants:
            results[i] = copy(results[i])
        for slot, _, _ in self._made:  # as soon as the caller lets go, the memory is free again
            values[slot] = None
        return results

    def _slot(self, v: Line) -> int:
        return self._slots[self._plan.homes.get(v, v)]

    def _column(self, v: Line) -> np.ndarray:
        return self._floats if v.dtype.kind == "f" else self._table

    def _call(self, chain: list[Nest]) -> Call:
        nest = chain[0]
        v = nest.lines[0]
        names = [", ".join(q.origin.name or q.op for q in nest.lines) for nest in chain]
        comment = f"{v.origin.section} {loops(v)}: {'; '.join(names)}"
        if nest.how == "loops":
            f = Function(self._plan, chain, self._slot)
            return Call(f.body, f.row, comment)
        if nest.how == "blas" and v.dtype.name in jit.blas():
            factors = [factor(a) for a in v.inputs]
            row = [self._slot(a) for a in (factors[0][0], factors[1][0], v)]
            row += [jit.blas()[v.dtype.name], *v.shape, v.inputs[0].shape[1]]
            for a, (_, turned) in zip(v.inputs, factors, strict=True):
                row += [112, a.shape[0]] if turned else [111, a.shape[1]]
            return Call(jit.DOT.format(v.dtype), row, comment)
        out, read = f"v[{self._slot(v)}]", [self._text(a) for a in v.inputs]
        if v.op == "matmul":
            return Call(f"np.matmul({', '.join(read)}, out={out})", [], comment)
        return Call(f"{out}[...] = {expression(v.op, read, v.static)}", [], comment)

    def _text(self, v: Line) -> str:
        """What a line is in a statement of NumPy's."""
        if v in self._plan.stored or (v.kind and v.op != "constant"):
            return f"v[{self._slot(v)}]"
        return f"({expression(v.op, [self._text(a) for a in v.inputs], v.static)})"

    def _link(self, calls: list[Call]) -> str:
        """Makes the table: addresses and numbers, the rows of all calls, and the calls."""
        names: dict[str, str] = {}
        begin = len(self._slots)
        rows: list[int] = []
        runs: list[int] = []  # each the number of calls, then functions and rows
        steps: list[Any] = []
        listing = "def step(t, c, v):\n"
        for compiled, group in groupby(calls, lambda call: bool(call.row)):
            run: list[int] = []
            for text, row, comment in group:
                code = text
                if compiled:
                    name = names.setdefault(text, f"nest_{len(names)}")
                    code = f"{name}(t, c, {begin + len(rows)})"
                    run += [jit.load(text), begin + len(rows)]
                    rows += row
                else:
                    space = names_for(np)
                    exec(f"def statement(v):\n    {text}", space)  # noqa: S102, our own text
                    steps.append(space["statement"])
                listing += f"    {code}  # {comment}\n"
            if compiled:
                steps.append(len(runs))
                runs += [len(run) // 2, *run]
        self._table = np.array([0] * begin + rows + runs, np.int64)
        self._floats = self._table.view(np.float64)
        at, several = address(self._table), COMPILED(jit.load(jit.RUN))
        self._steps = [
            (several, (at, at, begin + len(rows) + x)) if type(x) is int else (x, (self._values,))
            for x in steps
        ]
        functions = [f"def {name}(t, c, k):\n{text}\n" for text, name in names.items()]
        return "\n\n".join([*functions, listing])


def arranged(plan: Plan, fresh: set[Line]) -> tuple[dict[Line, np.ndarray], int]:
    """Memory for what is stored, neither in an input's nor in a fresh array, and its size: parts of
    one block, free again after the last chain that reads them.
    """
    last: dict[Line, int] = {}
    for i, chain in enumerate(plan.chains):
        last |= {a: i for nest in chain for v in nest.lines for a, _ in plan.reads[v]}
    begins: dict[Line, int] = {}
    live: list[tuple[int, int, int]] = []  # begin, end, last chain
    size = 0
    for i, chain in enumerate(plan.chains):
        live = [block for block in live if block[2] >= i]
        for v in (v for nest in chain for v in nest.lines):
            if v not in plan.homes and v not in fresh:
                each = v.dtype.itemsize + 4 * (v.op == "sum_wide")  # see Function
                wide = -(-v.size * each // LINE) * LINE + APART
                begin = 0
                for first, end, _ in sorted(live):
                    if begin + wide <= first:
                        break
                    begin = max(begin, end)
                live.append((begin, begin + wide, last.get(v, i)))
                begins[v] = begin
                size = max(size, begin + wide)
    block = np.zeros(size + LINE, np.uint8)
    block = block[-address(block) % LINE :]
    parts = {v: block[b : b + v.size * v.dtype.itemsize] for v, b in begins.items()}
    return {v: part.view(v.dtype).reshape(v.shape) for v, part in parts.items()}, size


def address(a: np.ndarray) -> int:
    """Where an array lies: the first field of its object. NumPy takes a microsecond to say so."""
    return ctypes.c_void_p.from_address(id(a) + object.__basicsize__).value or 0
