"""From lines to loops: which results are stored in memory, and which lines share loops.

Sums, outputs and whatever a matrix product reads or writes must be stored. Every other line becomes
part of the expressions that need it, unless it is expensive and several nests would compute it.

Stored lines with the same loops that read the same arrays form a *nest*, one pass over memory.
Nests that read the results of earlier nests form a *chain*, which becomes one function.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from tinybn.program import loops
from tinybn.program.line import REDUCTIONS, Line, apply
from tinybn.program.loops import EXPENSIVE, FREE, Place, how
from tinybn.program.passes import Emit, rewritten, without_dead
from tinybn.program.source import Program

Nest = list[Line]


class Plan:
    """How to run a program.

    Attributes:
        numbers: the lines that Python computes.
        homes: for an output, the input whose memory receives it.
        stored: the lines that have memory.
        reads: for a stored line, the stored lines that it reads and at which place (see loops.py);
            None means any place.
        chains: the nests of each function, in order.
    """

    def __init__(self, program: Program, homes: Mapping[int, int]) -> None:
        self.inputs, lines, self.outputs = rewritten(program, wide)
        self.homes: dict[Line, Line] = {}
        for i, v in enumerate(self.outputs):
            home = self.inputs[homes[i]] if i in homes else None
            if not v.kind and v is not home:
                if v.op in ("input", "constant") or v in self.outputs[:i]:
                    self.outputs[i] = v = copied(v)
                    lines.append(v)
                if home:
                    self.homes[v] = home
        self.lines = without_dead(Program(self.inputs, lines, self.outputs)).lines
        self.numbers = [v for v in self.lines if v.kind]
        self.stored = {v for v in self._needed() if not loops.is_number(v)}
        while not self._scheduled():
            pass

    def _needed(self) -> Iterator[Line]:
        """The lines that must be stored."""
        yield from (*self.inputs, *self.outputs)
        for v in self.lines:
            yield from (a for a in v.inputs if a.op == "constant")
            if how(v) != "loops" or v.op in REDUCTIONS:
                yield v
            if how(v) != "loops":
                yield from loops.whole(v)
            else:
                full = loops.full(v)
                for a, at in loops.operands(v, full):
                    while at and a.op in FREE and a.inputs:
                        a = a.inputs[0]
                    # The innermost loop would compute it many times.
                    if at is None or (at[-1:] == full[-1:] and at != full and a.op != "arange"):
                        yield a

    def _scheduled(self) -> bool:
        """Find the chains. False if more lines must be stored, so that it has to run again."""
        inside = {v: self._inside(v) for v in self.lines if v in self.stored}
        self.reads = {v: [(a, at) for a, at in inside[v] if a in self.stored] for v in inside}
        readers: dict[Line, set[tuple[Line, Place | None]]] = defaultdict(set)
        for v, reads in self.reads.items():
            for a, at in reads:
                readers[a].add((v, at))
        self.chains: list[list[Nest]] = []
        where: dict[Line, tuple[int, int]] = {}  # chain, nest
        for v in inside:
            waits = {a for a, _ in self.reads[v] if a in inside}
            if v in self.homes:
                in_place = set() if v.op in REDUCTIONS else {(v, loops.place(v))}
                waits |= {q for q, _ in readers[self.homes[v]] - in_place}
            if not waits <= where.keys():  # something later still reads its home
                self._write_later(v)
                return False
            where[v] = self._put(v, max((where[q] for q in waits), default=(-1, 0)))
        nests = [nest for chain in self.chains for nest in chain]
        users = Counter(a for nest in nests for a in {a for v in nest for a, _ in inside[v]})
        more = {a for a, n in users.items() if n > 1 and a.op in EXPENSIVE} - self.stored
        self.stored |= more
        return not more

    def _inside(self, v: Line) -> list[tuple[Line, Place | None]]:
        """The elements that a stored line is computed from, back to stored ones."""
        if how(v) != "loops":
            return [(a, None) for a in loops.whole(v)]
        found: dict[tuple[Line, Place | None], None] = {}
        stack = [*loops.operands(v, loops.full(v))]
        while stack:
            a, at = stack.pop()
            if not loops.is_number(a) and (a, at) not in found:
                found[a, at] = None
                if a not in self.stored and at is not None:
                    stack += loops.operands(a, at)
        return list(found)

    def _write_later(self, v: Line) -> None:
        """Store an output elsewhere, and copy it to its home at the end."""
        copy = copied(v)
        self.homes[copy] = self.homes.pop(v)
        self.outputs[self.outputs.index(v)] = copy
        self.stored.add(copy)
        self.lines.append(copy)

    def _put(self, v: Line, after: tuple[int, int]) -> tuple[int, int]:
        """Put a line into a nest, and return the numbers of its chain and nest.

        This is the first nest that fits, else a new one at the end of the chain that the line waits
        for, else a new one in a new chain.
        """
        if how(v) == "loops":
            for c, chain in enumerate(self.chains):
                for n, nest in enumerate(chain):
                    if (c, n) >= after and self._fits(v, nest):
                        nest.append(v)
                        return c, n
            c, _ = after
            if c >= 0 and how(self.chains[c][0][0]) == "loops":
                self.chains[c].append([v])
                return c, len(self.chains[c]) - 1
        self.chains.append([[v]])
        return len(self.chains) - 1, 0

    def _fits(self, v: Line, nest: Nest) -> bool:
        """Whether a nest can compute v, too.

        v must have the same loops, and share an array with the nest. It may read the results of the
        nest, and overwrite what the nest reads, only at the element that the loops have reached.
        """
        if how(nest[0]) != "loops" or loops.lengths(v) != loops.lengths(nest[0]):
            return False
        full, home = loops.full(v), self.homes.get(v)
        known = {a for q in nest for a, _ in self.reads[q]}.union(nest)
        return (
            any(a in known for a, _ in self.reads[v])
            and all(at == full and a.op not in REDUCTIONS for a, at in self.reads[v] if a in nest)
            and all(at == full for q in nest for a, at in self.reads[q] if a is home)
        )


def wide(v: Line, emit: Emit) -> Line:
    """The line, or for a sum of floats, a sum in float64 that is rounded at the end."""
    if v.op != "sum" or v.dtype.kind != "f" or v.dtype not in loops.DTYPES:
        return v
    total = emit("sum_wide", *v.inputs, **v.static)
    return total if v.dtype == np.float64 else emit("astype", total, dtype=v.dtype)


def copied(v: Line) -> Line:
    """A line that copies v."""
    return apply("astype", v, origin=v.origin, dtype=v.dtype)
