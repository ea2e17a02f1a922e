"""Running a program: its memory, the table of addresses, and the calls in order."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

import numpy as np

from tinybn.program import jit
from tinybn.program.line import Line, expression, names_for
from tinybn.program.loops import factor, how, is_number, lengths
from tinybn.program.nest import Function
from tinybn.program.plan import Nest, Plan
from tinybn.program.source import Program

COMPILED = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)


class Machine:
    """A program, ready to run.

    Args:
        program: what to run.
        homes: for an output, by number, the input whose memory receives it.

    Attributes:
        source: what runs, as Python.
    """

    def __init__(self, program: Program, homes: Mapping[int, int]) -> None:
        self._plan = plan = Plan(program, homes)
        constants = [a for v in plan.lines for a in v.inputs if a.op == "constant"]
        stored = [v for v in plan.lines if v in plan.stored]
        numbers = [v for v in (*plan.inputs, *plan.numbers) if v.kind]
        slots = dict.fromkeys([*plan.inputs, *constants, *plan.numbers, *stored])
        self._slots = {v: i for i, v in enumerate(slots, 1)}  # compiled functions write to t[0]
        self._fresh = [v for v in stored if v in plan.outputs and v not in plan.homes]
        table, self.source = self._linked(homes)
        self._table = np.array(table)
        self._values: list[Any] = [None] * len(table)
        self._numbers = {self._slots[v]: np.zeros((), v.dtype) for v in numbers}
        for slot, array in self._numbers.items():
            self._table[slot] = address(array)
        for v, array in (self._memory() | {v: v.static["value"] for v in constants}).items():
            self._point(self._slots[v], array)
        space = names_for(np) | {
            "v": self._values,
            "n": self._numbers,
            "t": self._table,
            "p": address(self._table),
            "address": address,
            "run": COMPILED(jit.load(jit.RUN)),
        }
        exec(self.source, space)  # noqa: S102, our own text
        self.run: Callable[[], list[Any]] = space["step"]
        """Returns the outputs in order; None for each that has a home."""

    def bind(self, i: int, value: Any) -> None:
        """Set input i to an array (of its shape and dtype) or a number, for all later runs."""
        slot = 1 + i
        if slot in self._numbers:
            self._values[slot] = self._numbers[slot][()] = value
        else:
            self._point(slot, value)

    def _point(self, slot: int, value: Any) -> None:
        """Make a slot refer to an array, or to a copy of it if it is not contiguous."""
        self._values[slot] = array = np.asarray(value, order="C")
        self._table[slot] = address(array)

    def _memory(self) -> dict[Line, np.ndarray]:
        """Arrays for all other stored lines. Memory is reused once its last reader has run."""
        plan, memory = self._plan, dict[Line, np.ndarray]()
        spare: dict[Any, list[np.ndarray]] = defaultdict(list)
        last: dict[Line, int] = {}
        for c, chain in enumerate(plan.chains):
            last |= {a: c for nest in chain for v in nest for a, _ in plan.reads[v]}
        dying: dict[int, list[Line]] = defaultdict(list)
        for c, chain in enumerate(plan.chains):
            for v in (v for nest in chain for v in nest):
                if v not in plan.homes and v not in self._fresh:
                    free = spare[v.size, v.dtype]
                    memory[v] = free.pop().reshape(v.shape) if free else aligned(v)
                    dying[last.get(v, c)].append(v)
            for v in dying[c]:
                spare[v.size, v.dtype].append(memory[v])
        return memory

    # --- linking ---

    def _linked(self, homes: Mapping[int, int]) -> tuple[list[int], str]:
        """The table, and the Python source that runs.

        The table holds the address of every array and number, then the row of each compiled call,
        and for each run of consecutive compiled calls the row of `jit.RUN`, which makes them.
        """
        table = [0] * (1 + len(self._slots))
        names: dict[str, str] = {}
        lines = []
        for v in self._plan.numbers:
            lines.append(f"{self._name(v)} = n[{self._slots[v]}][()] = {self._expression(v)}")
        for v in self._fresh:
            lines.append(f"{self._name(v)} = np.empty({v.shape}, np.{v.dtype})")
            lines.append(f"t[{self._slots[v]}] = address({self._name(v)})")
        calls = [(chain, *self._call(chain)) for chain in self._plan.chains]
        for compiled, group in groupby(calls, lambda call: bool(call[-1])):
            run: list[int] = []
            for chain, text, row in group:
                if compiled:
                    name = names.setdefault(text, f"nest_{len(names)}")
                    lines.append(f"# {name}(t, {len(table)})  {comment(chain)}")
                    run += [jit.load(text), len(table)]
                    table += row
                else:
                    lines.append(f"{text}  # {comment(chain)}")
            if compiled:
                lines.append(f"run(p, p, p, {len(table)})")
                table += [len(run) // 2, *run]
        results = [
            "None" if i in homes else self._name(v) for i, v in enumerate(self._plan.outputs)
        ]
        step = "\n    ".join(["def step():", *lines, f"return [{', '.join(results)}]"])
        functions = [f"def {name}(t, k):\n{text}\n\n\n" for text, name in names.items()]
        return table, f"{''.join(functions)}{step}\n"

    def _call(self, chain: list[Nest]) -> tuple[str, list[int]]:
        """The body of a compiled function and its row, or a NumPy statement and no row."""
        v = chain[0][0]
        if how(v) == "loops":
            function = Function(self._plan, chain, self._slot)
            return function.body, function.row
        if how(v) == "blas":
            factors = [factor(a) for a in v.inputs]
            if product := jit.product(v.dtype.name):
                row = [self._slot(a) for a in (factors[0][0], factors[1][0], v)]
                row += [product, *v.shape, v.inputs[0].shape[1]]
                for a, (_, turned) in zip(v.inputs, factors, strict=True):
                    row += [112, a.shape[0]] if turned else [111, a.shape[1]]
                return jit.DOT.format(v.dtype), row
            texts = [
                f"{self._name(b)}.reshape({a.shape[::-1]}).T"
                if turned
                else f"{self._name(b)}.reshape({a.shape})"
                for a, (b, turned) in zip(v.inputs, factors, strict=True)
            ]
            return f"np.matmul({', '.join(texts)}, out={self._name(v)})", []
        return f"{self._name(v)}[...] = {self._expression(v)}", []

    def _slot(self, v: Line) -> int:
        return self._slots[self._plan.homes.get(v, v)]

    def _name(self, v: Line) -> str:
        """What a line is called in a Python statement."""
        if is_number(v) and v.op == "constant":
            text = expression(v.op, [], v.static)
            return f"({text})" if text.startswith("-") else text
        if v in self._fresh or v in self._plan.numbers:
            return f"a{self._slots[v]}"
        return f"v[{self._slot(v)}]"

    def _expression(self, v: Line) -> str:
        return expression(v.op, [self._name(a) for a in v.inputs], v.static)


def aligned(v: Line) -> np.ndarray:
    """An array for a line, aligned for vector instructions."""
    size = v.size * v.dtype.itemsize
    block = np.empty(size + 64, np.uint8)
    begin = -address(block) % 64
    return block[begin : begin + size].view(v.dtype).reshape(v.shape)


def comment(chain: list[Nest]) -> str:
    """What a chain computes."""
    v = chain[0][0]
    names = [", ".join(q.origin.name or q.op for q in nest) for nest in chain]
    return f"{v.origin.section} {tuple(lengths(v))}: {'; '.join(names)}"


def address(a: np.ndarray) -> int:
    """The address of an array: the first field of its object. (`a.ctypes.data` takes 1 µs.)"""
    return ctypes.c_void_p.from_address(id(a) + object.__basicsize__).value or 0
