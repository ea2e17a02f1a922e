"""Running a recorded step: look whether it still fits, point the machine to the arrays, run it."""

from __future__ import annotations

import sys
from operator import attrgetter, getitem, is_
from typing import Any

from tinybn.program.place import Place, is_array
from tinybn.program.state import State
from tinybn.program.step import Argument, Returned, Step, check_tensors
from tinybn.tensor import Tensor, tick, wrap

KEYS = {"_data": 0, "grad": 1}
_data, _grad, _gradient = map(attrgetter, ("_data", "grad", "grad._data"))


class Run:
    """A recorded step, connected to what it reads and changes.

    homes: by number, the outputs that the machine writes to the memory of an input.
    """

    def __init__(self, step: Step, state: State, machine: Any, homes: dict[int, int]) -> None:
        self.step, self.machine, self.settings = step, machine, Settings(state, step)
        inputs, written = step.program.inputs, {*homes.values()}
        read = {*step.program.parameters()}
        sources = list(enumerate(step.sources))
        places = [(i, p) for i, p in sources if isinstance(p, Place)]
        numbers = {p.id for alike in step.alike for p in alike}
        self.numbers = [(i, p.owner, p.key) for i, p in places if p.id in numbers]
        self.arguments = [(i, a.number) for i, a in sources if isinstance(a, Argument)]
        self.draws = [(i, s) for i, s in sources if not isinstance(s, Place | Argument)]
        # Places of arrays: data of Tensors, then gradients, then the rest; and the arrays there.
        self.slots = [
            (i, p) for i, p in places if i in written or (inputs[i] in read and p.id not in numbers)
        ]
        self.slots.sort(key=lambda slot: KEYS.get(slot[1].of_tensor or "", len(KEYS)))
        data, gradients = ([p.owner for _, p in self.slots if p.of_tensor == key] for key in KEYS)
        rest = [place for _, place in self.slots if place.of_tensor not in KEYS]
        self.data, self.gradients, self.rest = data, gradients, rest
        self.kinds = [(inputs[i].shape, inputs[i].dtype) for i, _ in self.slots]
        self.arrays: list[Any] = [None] * len(self.slots)
        # What is overwritten, and the references to it that are ours.
        self.mine = [n for n, (i, _) in enumerate(self.slots) if i in written]
        self.graded = [p.owner for i, p in self.slots if i in written and p.of_tensor == "grad"]
        self.owned: list[Any] = []
        self.references: list[int] | None = None  # not known: to be copied
        targets = list(enumerate(step.targets))
        self.changed = [
            p.owner for _, p in targets if isinstance(p, Place) and p.of_tensor == "_data"
        ]
        others = [(k, p) for k, p in targets if isinstance(p, Place) and k not in homes]
        counted = [line.kind for line in step.program.outputs]
        self.counts = [(k, p.owner, p.key) for k, p in others if counted[k]]
        self.assigned = [(k, p) for k, p in others if not counted[k]]
        self.returned = [(k, r) for k, r in targets if isinstance(r, Returned)]
        self.returned_gradients = [(k, a.number) for k, a in targets if isinstance(a, Argument)]
        self.holds()

    def holds(self) -> bool:
        """Whether what was read while recording is as it was. If so, the machine knows the arrays
        of the state afterwards.
        """
        try:
            now = [
                *map(_data, self.data),
                *map(_gradient, self.gradients),
                *map(Place.get, self.rest),
            ]
        except (AttributeError, LookupError, ValueError):  # a gradient that is None now, …
            return False
        if not all(map(is_, now, self.arrays)):
            if not all(
                is_array(a) and (a.shape, a.dtype) == kind
                for a, kind in zip(now, self.kinds, strict=True)
            ):
                return False
            for n, array in enumerate(now):
                self._bind(n, array)
            self.references = None
        return self.settings.hold()

    def __call__(self, leaves: list[Any]) -> Any:
        machine, step = self.machine, self.step
        if Tensor in map(type, leaves):
            check_tensors(leaves, step.state)
        given = [(i, bare(leaves[number])) for i, number in self.arguments]
        if step.checks:
            arrays = dict(given)
            for i, check in step.checks:
                check(arrays[i] if i in arrays else step.sources[i].get())
        for i, value in given:
            machine.bind(i, value)
        for i, owner, key in self.numbers:
            machine.bind(i, owner[key])
        for i, draw in self.draws:
            machine.bind(i, draw())
        if self._references() != self.references:
            self._own()
        results = machine.run()
        for k, owner, key in self.counts:
            owner[key] = results[k]
        for k, place in self.assigned:
            place.set(wrap(results[k]) if place.of_tensor == "grad" else results[k])
        for k, number in self.returned_gradients:
            leaves[number].grad = wrap(results[k])
        for place in step.cleared:
            place.set(None)
        now = tick()
        for tensor in self.changed:
            tensor._changed = now
        returned = [leaves[r.number] if type(r) is Argument else r for r in step.returned]
        for k, (number, tensor) in self.returned:
            returned[number] = wrap(results[k]) if tensor else results[k]
        return step.rebuild(returned)

    def _references(self) -> list[int]:
        """How often what the machine overwrites is referred to."""
        gradients = map(_grad, self.graded)
        return [*map(sys.getrefcount, self.owned), *map(sys.getrefcount, gradients)]

    def _own(self) -> None:
        """Copy what the machine overwrites, before the first run and when there are more references
        to it than ours: who holds the array of a parameter, or a gradient, keeps its numbers, as
        when the step is not compiled.
        """
        copy = None
        for n in self.mine:
            place = self.slots[n][1]
            copy = bare(place.get()).copy()
            place.set(wrap(copy) if place.of_tensor == "grad" else copy)
            self._bind(n, copy)
        del copy  # no reference of ours
        self.owned = [self.arrays[n] for n in self.mine]
        self.references = self._references()

    def _bind(self, n: int, array: Any) -> None:
        self.arrays[n] = array if array.flags.c_contiguous else None  # else, it is copied each time
        self.machine.bind(self.slots[n][0], array)


class Settings:
    """What was read while recording, to be compared quickly."""

    def __init__(self, state: State, step: Step) -> None:
        self.state = state
        self.ungraded = [t for _, t in state.tensors.values() if t.grad is None]
        self.columns: list[tuple[Any, ...]] = []
        for get, in_dict in ((getitem, True), (getattr, False)):
            rows = [
                (p.owner, p.key, value)
                for p, value in state.settings
                if isinstance(p.owner, dict) == in_dict and not isinstance(p.owner, list | tuple)
            ]
            if not in_dict:
                rows += [(t, "grad", None) for t in self.ungraded]
            self.columns.append((get, *zip(*rows, strict=True)) if rows else (get, (), (), ()))
        self.alike = [[(p.owner, p.key) for p in same] for same in step.alike if len(same) > 1]
        self.numbers = [place for same in step.alike for place in same]
        self.kinds = [type(place.get()) for place in self.numbers]
        self.containers = [(c, items) for _, c, items in state.containers if type(c) is not tuple]
        self.memories = [memory for o in state.optimizers for memory in o.state]
        self.memories += [attributes for _, attributes, _ in state.attributes]
        self.sizes = [*map(len, self.memories)]

    def hold(self) -> bool:
        """Whether everything is as it was."""
        for places in self.alike:
            counts = [owner[key] for owner, key in places]
            if counts.count(counts[0]) < len(counts):
                return False
        if [*map(len, self.memories)] != self.sizes:
            return False
        if [type(p.owner[p.key]) for p in self.numbers] != self.kinds:
            return False
        if self._identical():
            return True
        ungraded = all(t.grad is None for t in self.ungraded)
        return ungraded and self.state.difference() is None

    def _identical(self) -> bool:
        """Whether it is all the same objects; equal numbers, and what has arrays, may be others."""
        for get, owners, keys, values in self.columns:
            try:
                if not all(map(is_, map(get, owners, keys), values)):
                    return False
            except (AttributeError, LookupError, ValueError):  # it is gone
                return False
        for container, items in self.containers:
            if len(container) != len(items) or not all(map(is_, container, items)):
                return False
        return not self.state.captured


def bare(leaf: Any) -> Any:
    """The array of a Tensor, or what is none."""
    return leaf._data if isinstance(leaf, Tensor) else leaf
