"""A chain of nests as Python source for Numba.

    def nest(t, k):
        a0 = float32(t[t[k + 0]])
        n1 = t[k + 1]
        ...
        for i0 in range(n1):
            t0 = a0[i0]
            ...

The function contains no shapes and no constants, so layers of any width share it. Its row of the
table `t`, which begins at `k`, holds lengths, and the positions of array addresses in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import count

import numpy as np

from tinybn.program import loops
from tinybn.program.line import EXPRESSIONS, REDUCTIONS, Line
from tinybn.program.loops import FREE, Place
from tinybn.program.plan import Nest, Plan

NEUTRAL = {"sum": "0", "sum_wide": "0", "max": "-np.inf", "min": "np.inf"}
COMBINED = {"sum": "{} + {}", "sum_wide": "plus({}, {})"}
COMBINED |= {"max": "larger({}, {})", "min": "-larger(-{}, -{})"}
POWERS = {2: "{0} * {0}", 3: "{0} * {0} * {0}", 0.5: "np.sqrt({0})", -1: "1 / {0}"}


class Function:
    """The function of a chain: its body, and its row of the table.

    `slot` returns the position of a line's address in the table.
    """

    def __init__(self, plan: Plan, chain: list[Nest], slot: Callable[[Line], int]) -> None:
        self.plan, self.slot = plan, slot
        self.row: list[int] = []
        self._arguments: dict[Hashable, str] = {}
        self._reading: list[str] = []
        self._variables = (f"t{i}" for i in count())
        lines = [line for nest in chain for line in self._nest(nest)]
        self.body = "\n".join(indented(self._reading + lines))

    def _argument(self, key: Hashable, letter: str, value: int, pattern: str) -> str:
        """The variable that holds an entry of the row."""
        if key not in self._arguments:
            name = self._arguments[key] = f"{letter}{len(self.row)}"
            self._reading.append(f"{name} = {pattern.format(f't[k + {len(self.row)}]')}")
            self.row.append(value)
        return self._arguments[key]

    # --- loops ---

    def _nest(self, nest: Nest) -> list[str]:
        self._lines, self._lengths = nest, loops.lengths(nest[0])
        self._elements: dict[tuple[Line, Place | None], str] = {}
        depth = len(self._lengths)
        # What comes before the loop at each depth, and after it; the last is the innermost body.
        self._before: list[list[str]] = [[] for _ in range(depth + 1)]
        self._after: list[list[str]] = [[] for _ in range(depth + 1)]
        stores = []
        for v in nest:
            if v.op in REDUCTIONS:
                self._reduce(v)
            else:
                value = self._element(v, loops.place(v))
                value = f"np.uint8({value})" if v.dtype == bool else value
                stores.append(f"{self._memory(v, loops.place(v))} = {value}")
        lines = [*self._before[depth], *stores, *self._after[depth]]
        for d in reversed(range(depth)):
            lines = [*self._before[d], *self._loop(d, lines), *self._after[d]]
        return lines

    def _length(self, k: int) -> str:
        return self._argument((self._lines[0], k), "n", self._lengths[k], "{}")

    def _loop(self, k: int, lines: list[str]) -> list[str]:
        return [f"for i{k} in range({self._length(k)}):", *indented(lines)]

    def _reduce(self, v: Line) -> None:
        """Accumulate along the innermost loops in a variable, and along outer loops in memory."""
        at, target = loops.place(v), self._memory(v, loops.place(v))
        combined, neutral = COMBINED[v.op], f"np.{v.dtype}({NEUTRAL[v.op]})"
        term = cast(self._element(v.inputs[0], loops.full(v)), v.inputs[0].dtype, v.dtype)
        outer = 1 + max(at, default=-1)
        if outer < len(self._lengths):
            total = next(self._variables)
            self._before[outer].append(f"{total} = {neutral}")
            self._before[-1].append(f"{total} = {combined.format(total, term)}")
            term = total
        if len(at) < outer:
            first = [f"{target} = {neutral}"]
            for k in reversed(at):
                first = self._loop(k, first)
            self._before[0] += first
            term = combined.format(target, term)
        self._after[outer].append(f"{target} = {term}")

    # --- elements ---

    def _memory(self, v: Line, at: Place) -> str:
        """An element of a stored line."""
        v = self.plan.homes.get(v, v)
        index = f"i{at[0]}" if at else "0"
        for k in at[1:]:
            index = f"{f'({index})' if '+' in index else index} * {self._length(k)} + i{k}"
        return f"{self._argument(v, 'a', self.slot(v), f'{v.dtype}(t[{{}}])')}[{index}]"

    def _element(self, v: Line, at: Place) -> str:
        """The variable that holds an element, computed as far out as its loops allow."""
        if (v, at) not in self._elements:
            known = loops.is_number(v) or (v in self.plan.stored and v not in self._lines)
            code = self._memory(v, at) if known else self._code(v, at)
            if not code.isidentifier():
                name = next(self._variables)
                self._before[1 + max(at, default=-1)].append(f"{name} = {code}")
                code = name
            self._elements[v, at] = code
        return self._elements[v, at]

    def _code(self, v: Line, at: Place) -> str:
        if v.op == "arange":
            return f"np.{v.dtype}(i{at[0]})" if at else f"np.{v.dtype}(0)"
        if v.op in FREE:
            dtypes = [v.dtype]
        elif v.op == "where":
            dtypes = [np.dtype(bool), v.dtype, v.dtype]
        else:
            dtypes = getattr(np, v.op).resolve_dtypes((*[a.promoted for a in v.inputs], None))[:-1]
        args = []
        for (a, here), dtype in zip(loops.operands(v, at), dtypes, strict=True):
            text = self._memory(a, at) if here is None else self._element(a, here)
            args.append(cast(text, a.dtype, dtype))
        return pattern(v).format(*args)


def pattern(v: Line) -> str:
    """The source of an operation on elements."""
    if v.op in FREE:
        return "{}"
    if v.op == "where":
        return "{1} if {0} else {2}"
    if v.op == "power" and (power := POWERS.get(v.inputs[1].static.get("value", 0))):
        return power
    name = f"{v.op}_float32" if v.op in ("exp", "tanh") and v.dtype == np.float32 else f"np.{v.op}"
    return EXPRESSIONS.get(v.op, f"{name}({', '.join('{}' for _ in v.inputs)})")


def cast(text: str, dtype: np.dtype, to: np.dtype) -> str:
    """The source of a number, converted to another dtype."""
    return text if dtype == to else f"np.{to}({text})"


def indented(lines: list[str]) -> list[str]:
    """The lines, indented one level deeper."""
    return ["    " + line for line in lines]
