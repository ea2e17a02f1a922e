"""Run a recorded step: check that it still fits, hand over the arrays, store the results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from tinybn.program.place import MISSING, Place, is_array, same, tester
from tinybn.program.step import Result, Step, check_tensors
from tinybn.program.tree import bare, mapped
from tinybn.tensor import Tensor, tick, wrap

_grad = attrgetter("grad")


class Run:
    """A recorded step, connected to everything it reads and changes.

    Usually, all arrays and settings are the same objects as at the last call. A single expression
    then confirms this, and the machine already has the arrays.

    homes: for each output that the machine writes over an input, that input.
    """

    def __init__(self, step: Step, machine: Any, homes: dict[int, int]) -> None:
        self.step, self.machine, state = step, machine, step.state
        inputs, written = step.program.inputs, {*homes.values()}
        used = {*step.program.parameters(), *(inputs[i] for i in written)}
        sources = list(enumerate(step.sources))
        places = [(i, p) for i, p in sources if isinstance(p, Place)]
        counts = {place.id: (place.owner, place.key) for place in state.numbers}
        self.arguments = [(i, number) for i, number in sources if isinstance(number, int)]
        self.draws = [(i, draw) for i, draw in sources if callable(draw)]
        self.numbers = [(i, *counts[p.id]) for i, p in places if p.id in counts]
        self.counts, self.types = [*counts.values()], [type(p.get()) for p in state.numbers]
        # Places of arrays, then of settings, and what they held at the last call
        self.slots = [(i, p) for i, p in places if inputs[i] in used and p.id not in counts]
        self.shapes = [(inputs[i].shape, inputs[i].dtype) for i, _ in self.slots]
        arrays = [p._replace(key="grad._data") if p.is_gradient else p for _, p in self.slots]
        settings = state.fixed()
        self.places = [*arrays, *(place for place, _ in settings)]
        self.known = [*(None for _ in arrays), *(value for _, value in settings)]
        self.unchanged = tester(self.places)
        self.strided: list[int] = []
        # What the machine overwrites, and its reference counts while nobody else refers to it
        self.written = [n for n, (i, _) in enumerate(self.slots) if i in written]
        self.graded = [p.owner for i, p in self.slots if i in written and p.is_gradient]
        self.owned: list[Any] = []
        self.references: list[int] | None = None
        # Places of results that the machine does not put there
        self.assigned = [(k, p.set, p.is_gradient) for k, p in step.assigned if k not in homes]
        tensors = [p.owner for _, p in step.assigned if not p.is_gradient]
        self.changed = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
        self.fits()

    def fits(self) -> bool:
        """Whether the program still fits. If it does, the machine has the arrays of the state."""
        try:
            if not self.unchanged(self.known) and not self._update():
                return False
            counts = [owner[key] for owner, key in self.counts]
        except MISSING:
            return False
        alike = [counts[n] for n in self.step.alike]
        return counts == alike and [*map(type, counts)] == self.types

    def _update(self) -> bool:
        """Whether new arrays have the old shapes and dtypes, and new settings are equal to old."""
        now = [place.get() for place in self.places]
        for array, shape in zip(now, self.shapes, strict=False):
            if not is_array(array) or (array.shape, array.dtype) != shape:
                return False
        if not all(map(same, now[len(self.slots) :], self.known[len(self.slots) :])):
            return False
        self.known, self.references = now, None
        for n, (i, _) in enumerate(self.slots):
            self.machine.bind(i, now[n])
        self.strided = [n for n in range(len(self.slots)) if not now[n].flags.c_contiguous]
        return True

    def __call__(self, leaves: Sequence[Any]) -> Any:
        machine, step = self.machine, self.step
        if Tensor in map(type, leaves):
            check_tensors(leaves, step.state)
        for i, check in step.checks:
            source = step.sources[i]
            check(bare(leaves[source]) if isinstance(source, int) else source.get())
        for i, number in self.arguments:
            machine.bind(i, bare(leaves[number]))
        for i, owner, key in self.numbers:
            machine.bind(i, owner[key])
        for n in self.strided:  # the machine has a copy
            machine.bind(self.slots[n][0], self.known[n])
        for i, draw in self.draws:
            machine.bind(i, draw())
        if self._references() != self.references:
            self._own()
        results = [*machine.run(), *leaves]
        for k, put, gradient in self.assigned:
            put(wrap(results[k]) if gradient else results[k])
        for k, number in step.gradients:
            leaves[number].grad = wrap(results[k])
        for place in step.cleared:
            place.set(None)
        now = tick()
        for tensor in self.changed:
            tensor._changed = [now]
        for k in step.tensors:
            results[k] = wrap(results[k])
        return mapped(
            lambda leaf: results[leaf.number] if type(leaf) is Result else leaf, step.returned
        )

    def _references(self) -> list[int]:
        """Reference counts of everything that the machine overwrites."""
        gradients = map(_grad, self.graded)
        return [*map(sys.getrefcount, self.owned), *map(sys.getrefcount, gradients)]

    def _own(self) -> None:
        """Copy what the machine overwrites: at the first call, and whenever others refer to it.

        Code that holds a parameter's array or gradient thus keeps its numbers, as in eager mode.
        """
        copy = None
        for n in self.written:
            place = self.slots[n][1]
            copy = bare(place.get()).copy()
            place.set(wrap(copy) if place.is_gradient else copy)
            self.known[n] = copy
            self.machine.bind(self.slots[n][0], copy)
        del copy  # no reference of ours
        self.owned = [self.known[n] for n in self.written]
        self.references = self._references()
