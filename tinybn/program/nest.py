"""A chain of nests as Python source for Numba.

    def nest(t, c, k):
        a0 = float32(t[t[k]])
        n1 = t[k + 1]
        ...
        for i0 in range(n1):
            t0 = a0[i0]
            ...

The function holds no shapes and no constants, so layers of any width share it. All that it takes
stands in a table t, its own row beginning at k: lengths, and where in the table the addresses of
arrays and Python's numbers are (c is the same table, read as float64).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import prod

import numpy as np

from tinybn.program.line import EXPRESSIONS, REDUCTIONS, Line
from tinybn.program.loops import VIEWS, Place, contiguous, follows, is_number, operands, place
from tinybn.program.plan import Nest, Plan

PLAIN = {0, 1, -1, 0.5}
"""Numbers that stand in the text; others are arguments, so that more texts are the same."""

NEUTRAL = {"sum": "0", "sum_wide": "0", "max": "-np.inf", "min": "np.inf"}
COMBINED = {"sum": "{} + {}", "sum_wide": "plus({}, {})"}
COMBINED |= {"max": "larger({}, {})", "min": "smaller({}, {})"}
CALLS = {
    "maximum": "larger({}, {})",
    "minimum": "smaller({}, {})",
    "absolute": "abs({})",
    "where": "{1} if {0} else {2}",
}
POWERS = {2: "{0} * {0}", 3: "{0} * {0} * {0}", 0.5: "np.sqrt({0})", -1: "1 / {0}"}
BOOL, FLOAT32 = np.dtype(bool), np.dtype(np.float32)
ROWS = 8
"""How many rows are added up in float32."""


class Function:
    """The source of a chain, and its row of the table. slot: where in the table an address is, or
    a number.
    """

    def __init__(self, plan: Plan, chain: list[Nest], slot: Callable[[Line], int]) -> None:
        self.plan, self.slot = plan, slot
        self.row: list[int] = []
        self._names: dict[Hashable, str] = {}
        self._given: list[str] = []
        self._count = 0
        lines = [line for nest in chain for line in self._nest(nest)]
        self.body = "\n".join(indented(self._given + lines))

    def _argument(self, key: Hashable, letter: str, value: int, read: str = "{}") -> str:
        """The name of an entry of the row, which is read at the beginning."""
        if key not in self._names:
            self._names[key] = name = f"{letter}{len(self.row)}"
            self._given.append(f"{name} = {read.format(f't[k + {len(self.row)}]')}")
            self.row.append(value)
        return self._names[key]

    # --- loops ---

    def _nest(self, nest: Nest) -> list[str]:
        full = tuple(range(len(nest.dims)))
        places = {
            at for v in nest.lines for at in (place(v), *(at for _, at in self.plan.reads[v]))
        }
        self._flat = len(full) > 1 and places <= {full, ()}  # one loop will do
        self._lines = nest.lines
        self._dims = (prod(nest.dims),) if self._flat else nest.dims
        self._memo: dict[tuple[Line, Place], str] = {}
        depth = len(self._dims)
        self._before: list[list[str]] = [[] for _ in range(depth + 1)]
        self._after: list[list[str]] = [[] for _ in range(depth + 1)]
        stores = []
        for v in nest.lines:
            if v.op in REDUCTIONS:
                self._reduce(v, self._at(place(v)), self._at(full))
            else:
                name = self._name(v, self._at(place(v)))
                name = f"np.uint8({name})" if v.dtype == bool else name
                stores.append(f"{self._element(v, self._at(place(v)))} = {name}")
        lines = [*self._before[depth], *stores, *self._after[depth]]
        for d in reversed(range(depth)):
            lines = [*self._before[d], *self._for(d, lines), *self._after[d]]
        return lines

    def _at(self, at: Place) -> Place:
        return at[:1] if self._flat else at

    def _length(self, k: int) -> str:
        return self._argument((self._lines[0], k), "n", self._dims[k])

    def _for(self, k: int, lines: list[str]) -> list[str]:
        return [f"for i{k} in range({self._length(k)}):", *indented(lines)]

    def _element(self, v: Line, at: Place) -> str:
        v = self.plan.homes.get(v, v)
        text = f"i{at[0]}" if at else "0"
        for k in at[1:]:
            text = f"{f'({text})' if '+' in text else text} * {self._length(k)} + i{k}"
        kind = "uint8" if v.dtype == bool else v.dtype.name
        return f"{self._argument(v, 'a', self.slot(v), f'{kind}(t[{{}}])')}[{text}]"

    def _reduce(self, v: Line, at: Place, full: Place) -> None:
        """Adds up in a number, as far as the innermost loops go, and then in memory."""
        term, depth = self._value(v.inputs[0], full, v.dtype), len(full)
        outer = 1 + max(at, default=-1)
        combined, target = COMBINED[v.op], self._element(v, at)
        first = [f"{target} = np.{v.dtype}({NEUTRAL[v.op]})"]
        if outer < depth:
            total = f"s{self._count}"
            self._count += 1
            self._before[outer].append(f"{total} = np.{v.dtype}({NEUTRAL[v.op]})")
            self._before[depth].append(f"{total} = {combined.format(total, term)}")
            term = total
        if len(at) == outer:
            self._after[outer].append(f"{target} = {term}")
            return
        short = v.inputs[0].dtype == np.float32 and v not in self.plan.outputs
        if v.op == "sum_wide" and at == full[1:] and short:
            # A few rows are added up in float32, which is faster; there is room behind the sums.
            width = " * ".join(map(self._length, at))
            rows = self._argument((v, "rows"), "r", self.slot(v), f"float32(t[{{}}] + 8 * {width})")
            rows += target[target.index("[") :]
            self._before[depth].append(f"{rows} += {self._value(v.inputs[0], full, FLOAT32)}")
            clear = f"{rows} = np.float32(0)"
            flush = self._all(at, [f"{target} += np.float64({rows})", clear])
            last = f"i0 % {ROWS} == {ROWS - 1} or i0 == {self._length(0)} - 1"
            self._after[1] += [f"if {last}:", *indented(flush)]
            first.append(clear)
        else:
            self._after[outer].append(f"{target} = {combined.format(target, term)}")
        self._before[0] += self._all(at, first)

    def _all(self, at: Place, lines: list[str]) -> list[str]:
        for k in reversed(at):
            lines = self._for(k, lines)
        return lines

    # --- numbers ---

    def _value(self, v: Line, at: Place, dtype: np.dtype) -> str:
        """A line at a place, or what it is, in a dtype."""
        if not is_number(v):
            return cast(self._name(v, at), v.dtype, dtype)
        value = v.static.get("value")
        if v.op == "constant" and value in PLAIN:
            return f"np.{dtype}({np.asarray(value).item()})" if dtype != BOOL else repr(bool(value))
        read, kind = ("c[{}]", None) if v.dtype.kind == "f" else ("t[{}]", np.dtype(np.int64))
        return self._argument((v, dtype), "c", self.slot(v), cast(read, kind, dtype))

    def _name(self, v: Line, at: Place) -> str:
        """The name of an element, which is computed as soon as its loops are there."""
        if (v, at) not in self._memo:
            code = self._code(v, at)
            if not code.isidentifier():
                name = f"t{self._count}"
                self._count += 1
                self._before[1 + max(at, default=-1)].append(f"{name} = {code}")
                code = name
            self._memo[v, at] = code
        return self._memo[v, at]

    def _code(self, v: Line, at: Place) -> str:
        if v.op == "arange":
            return f"np.{v.dtype}(i{at[0]})" if at else f"np.{v.dtype}(0)"
        if (v in self.plan.stored and v not in self._lines) or not follows(v):
            return self._element(contiguous(v), at) + " != 0" * (v.dtype == bool)
        reads = [
            (a, self._at(here) if self._flat else tuple(at[k] for k in here))
            for a, here in operands(v, place(v))
        ]
        if v.op in VIEWS or v.op == "astype":
            return self._value(*reads[0], v.dtype)
        if v.op == "where":
            dtypes = [BOOL, v.dtype, v.dtype]
        else:
            kinds = (*[a.promoted for a in v.inputs], None)
            dtypes = getattr(np, v.op).resolve_dtypes(kinds)[:-1]
        args = [self._value(*read, dtype) for read, dtype in zip(reads, dtypes, strict=True)]
        if v.op == "power" and (pattern := POWERS.get(v.inputs[1].static.get("value", 0))):
            return pattern.format(args[0])
        name = (
            f"{v.op}_float32" if v.op in ("exp", "tanh") and v.dtype == np.float32 else f"np.{v.op}"
        )
        pattern = (
            CALLS.get(v.op) or EXPRESSIONS.get(v.op) or f"{name}({', '.join('{}' for _ in args)})"
        )
        return pattern.format(*args)


def indented(lines: list[str]) -> list[str]:
    """The lines, a level deeper."""
    return ["    " + line for line in lines]


def cast(text: str, dtype: np.dtype | None, to: np.dtype) -> str:
    """The source of a number, in another dtype. (Python's float has none.)"""
    if dtype == to:
        return text
    if to == BOOL:
        return f"({text} != 0)"
    if dtype == BOOL:  # compilers have vectors for that
        return f"(np.{to}(1) if {text} else np.{to}(0))"
    return f"np.{to}({text})"
