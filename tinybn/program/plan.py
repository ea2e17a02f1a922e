"""From lines to loops: what is stored in memory, and which lines share a nest of loops.

Some results must be stored: sums, outputs, what a matrix product reads or writes. Every other line
is part of the expressions that need it, and is computed again in each, unless that is expensive.
Stored lines with the same loops that read the same arrays form a *nest*: one pass over memory.
Nests that read what the one before made are a *chain*, and become one function.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tinybn.program.line import REDUCTIONS, Line
from tinybn.program.loops import (
    VIEWS,
    Place,
    contiguous,
    copied,
    factor,
    follows,
    how,
    is_number,
    loops,
    lowered,
    operands,
    place,
    viewed,
)
from tinybn.program.source import Program

COST = dict.fromkeys(VIEWS | {"astype", "arange"}, 0)
COST |= {"divide": 3, "sqrt": 4, "exp": 20, "tanh": 20, "log": 30, "power": 60}
CHEAP = 6
"""The most that computing a line again in another nest may cost, in operations."""


class Nest(NamedTuple):
    """Lines computed in one nest of loops of these lengths; or one that BLAS or NumPy computes."""

    how: str
    dims: tuple[int, ...]
    lines: list[Line]


class Plan:
    """homes: for an output, the input whose memory it is written to. stored: what is in memory.
    reads: what a stored line reads there, and where (None: anywhere). chains: in order.
    """

    def __init__(self, program: Program, homes: Mapping[int, int]) -> None:
        new: dict[Line, Line] = {}
        for v in program.lines:
            new[v] = lowered(v, tuple(new.get(a, a) for a in v.inputs))
        self.inputs, self.outputs = program.inputs, [new.get(v, v) for v in program.outputs]
        self.homes: dict[Line, Line] = {}
        for i, v in enumerate(self.outputs):
            home = program.inputs[homes[i]] if i in homes else None
            if v.kind or v is home:
                continue
            if v.op in ("input", "constant", *VIEWS) or v in self.outputs[:i]:
                self.outputs[i] = v = copied(v)
            if home:
                self.homes[v] = home
        alive = {*ordered(self.outputs)}
        self.lines = [v for v in ordered([*new.values(), *self.outputs]) if v in alive]
        self.stored = {v for v in self._needed() if not is_number(v)}
        while True:
            if stuck := self._schedule():
                self._release(stuck)
            elif more := self._expensive():
                self.stored |= more
            else:
                break

    def _needed(self) -> Iterator[Line]:
        """What must be stored."""
        yield from self.outputs
        for v in self.lines:
            by, full = how(v), place(v)
            if v.op in ("input", "constant", *REDUCTIONS) or by != "loops":
                yield v
            if by == "blas":
                yield from (factor(a)[0] for a in v.inputs)
            elif by == "numpy":
                yield from map(viewed, v.inputs)
            elif not follows(v):
                yield contiguous(v)
            elif v.op not in REDUCTIONS:
                for a, at in operands(v, full):  # the innermost loop would compute it many times
                    if len(at) < len(full) and full[-1] in at and viewed(a).op != "arange":
                        yield viewed(a)

    def _inside(self, v: Line) -> tuple[set[Line], list[tuple[Line, Place | None]]]:
        """The lines that the loops of a stored line compute, and what these read."""
        if (by := how(v)) != "loops":
            read = [
                factor(a)[0] if by == "blas" else viewed(a, stored=self.stored) for a in v.inputs
            ]
            return set(), [(a, None) for a in read if a in self.stored]
        full = tuple(range(len(loops(v))))
        stack = [(v.inputs[0], full)] if v.op in REDUCTIONS else list(operands(v, full))
        computed: set[Line] = set()
        seen: set[tuple[Line, Place]] = set()
        reads: dict[tuple[Line, Place | None], None] = {}
        while stack:
            pair = a, at = stack.pop()
            if pair in seen or is_number(a):
                continue
            seen.add(pair)
            if a in self.stored or a.op == "arange":
                reads[pair] = None
            elif not follows(a):
                reads[contiguous(a), None] = None
            else:
                stack += operands(a, at)
                computed |= {a} if at == full else set()
        return computed, list(reads)

    def _expensive(self) -> set[Line]:
        """Lines that several nests compute, although that is expensive."""
        nests = [nest for chain in self.chains for nest in chain]
        users = Counter(
            a for n in nests for a in set().union(*(self._computed[v] for v in n.lines))
        )
        cost = dict.fromkeys((*self.inputs, *self.stored), 0)
        found: set[Line] = set()
        for v in self.lines:
            if v not in cost:
                cost[v] = 0 if is_number(v) else COST.get(v.op, 1) + sum(cost[a] for a in v.inputs)
            if users[v] > 1 and cost[v] > CHEAP:
                found.add(v)
                cost[v] = 0  # what follows from it becomes cheap
        return found

    def _schedule(self) -> list[Line]:
        """Finds the chains. Returns lines that wait for each other."""
        made = [v for v in self.lines if v in self.stored and v.op not in ("input", "constant")]
        inside = {v: self._inside(v) for v in made}
        self._computed = {v: computed for v, (computed, _) in inside.items()}
        self.reads = {v: reads for v, (_, reads) in inside.items()}
        readers: dict[Line, list[tuple[Line, Place | None]]] = defaultdict(list)
        for q in made:
            for a, at in self.reads[q]:
                readers[a].append((q, at))
        waits = {v: {a for a, _ in self.reads[v] if a in inside} for v in made}
        for v, home in self.homes.items():  # the old value is read before, or in place by v itself
            there = None if v.op in REDUCTIONS else place(v)
            waits[v] |= {q for q, at in readers[home] if q is not v or at is None or at != there}
        then: dict[Line, list[Line]] = defaultdict(list)
        for v in made:
            for a in waits[v]:
                then[a].append(v)
        self.chains: list[list[Nest]] = []
        order = {v: i for i, v in enumerate(made)}
        ready = [v for v in made if not waits[v]]
        while ready:
            v = self._choose(ready)
            ready.remove(v)
            for later in then[v]:
                waits[later].remove(v)
                if not waits[later]:
                    insort(ready, later, key=order.__getitem__)
        return [v for v in made if waits[v]]

    def _choose(self, ready: list[Line]) -> Line:
        """Puts one of the lines into the last nest, a next nest of its chain, or a new chain."""
        if self.chains and (nest := self.chains[-1][-1]).how == "loops":
            known = {a for q in nest.lines for a, _ in self.reads[q]}.union(nest.lines)
            near = [v for v in ready if any(a in known for a, _ in self.reads[v])]
            for v in near:
                if how(v) == "loops" and loops(v) == nest.dims and self._beside(v, nest):
                    nest.lines.append(v)
                    return v
            made = {q for nest in self.chains[-1] for q in nest.lines}
            for v in ready:
                if how(v) == "loops" and any(a in made for a, _ in self.reads[v]):
                    self.chains[-1].append(Nest("loops", loops(v), [v]))
                    return v
        self.chains.append([Nest(how(ready[0]), loops(ready[0]), ready[:1])])
        return ready[0]

    def _beside(self, v: Line, nest: Nest) -> bool:
        """Whether v can be computed where the nest is: from what is made at that place, and
        overwriting what is read at that place.
        """
        full, home = tuple(range(len(nest.dims))), self.homes.get(v)
        return all(
            at == full and a.op not in REDUCTIONS for a, at in self.reads[v] if a in nest.lines
        ) and all(at == full for q in nest.lines for a, at in self.reads[q] if a is home)

    def _release(self, stuck: list[Line]) -> None:
        """An output whose home is still wanted is computed elsewhere, and copied at the end."""
        v = next(v for v in stuck if not {a for a, _ in self.reads[v]}.intersection(stuck))
        copy = copied(v)
        self.homes[copy] = self.homes.pop(v)
        self.outputs[self.outputs.index(v)] = copy
        self.stored.add(copy)
        self.lines.append(copy)


def ordered(outputs: list[Line]) -> list[Line]:
    """What lines depend on, and they, each after what it reads."""
    found: dict[Line, None] = {}
    stack = outputs[::-1]
    while stack:
        missing = [a for a in stack[-1].inputs if a not in found]
        stack += missing[::-1]
        if not missing:
            found[stack.pop()] = None
    return list(found)
