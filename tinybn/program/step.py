"""A recorded step: run once on recorded arrays, it leaves a program and how that is connected.

The user's function, the layers, the rules, the walk and the optimizers run as they always do, on
arrays of a third kind: they find them in the models and leave them there. What was left is what the
program will have to leave. Then everything is put back as it was.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from tinybn.backend import MODULES
from tinybn.modes import watch
from tinybn.program.line import Line
from tinybn.program.place import Place
from tinybn.program.recorded import Recorded, refused
from tinybn.program.recording import Recording
from tinybn.program.restore import everything_restored, generators, places_of
from tinybn.program.source import Program
from tinybn.program.state import State
from tinybn.program.tree import flatten, names_of
from tinybn.tensor import Tensor, wrap


class Argument(NamedTuple):
    """An argument, by its number among all leaves; as a target, the gradient of it."""

    number: int


class Returned(NamedTuple):
    """A hole in what is returned, to be filled with a Tensor, or with an array or number as is."""

    number: int
    tensor: bool


class Step:
    """`function(*args, **keywords)`, recorded.

    program: what it does. sources: where each input is: a Place, an Argument, or a function that
    draws it. targets: where each output goes. cleared: places of gradients that are None at the
    end. alike: places of numbers that were equal, and are one input. returned, rebuild: what the
    function returns, with holes (or Arguments), and how it is put together. checks: functions of an
    input, by its number, that raise if its numbers are wrong.
    """

    def __init__(
        self, function: Callable[..., Any], args: Any, keywords: Any, state: State, backend: str
    ) -> None:
        self.state = state
        self.recording = recording = Recording(state, backend)
        self.sources, self.checks = recording.sources, recording.checks
        self.outputs: list[Line] = []
        self.targets: list[Place | Argument | Returned] = []
        self.cleared: list[Place] = []
        self.alike: list[list[Place]] = []
        self.returned: list[Any] = []
        libraries: dict[Any, Any] = {x.ndarray: x for x in recording.libraries.values()}
        MODULES.update(libraries)
        try:
            with everything_restored(state):
                self._run(function, args, keywords)
        finally:
            for kind in libraries:
                del MODULES[kind]
        recording.forget()
        self.program = Program(recording.inputs, recording.lines, self.outputs)

    def _run(self, function: Callable[..., Any], args: Any, keywords: Any) -> None:
        installed = [*self._install_arrays(), *self._install_numbers()]
        leaves: list[Any] = []
        again = flatten((args, keywords), leaves)
        names = names_of(function, args, keywords, len(leaves))
        check_tensors(leaves, self.state)
        given = [self._argument(i, *pair) for i, pair in enumerate(zip(leaves, names, strict=True))]
        args, keywords = again(given)
        held = [attributes.copy() for _, attributes, _ in self.state.attributes]
        with watch(self.recording.contribution, outputs=self.recording.output):
            result = function(*args, **keywords)
        left: list[Any] = []
        flatten((args, keywords), left)
        same = len(left) == len(given) and all(map(is_, left, given))
        if changed := (
            self.state.difference()
            or self.state.attribute_changed(held)
            or (None if same else "an argument")
        ):
            raise refused(
                f"the step changes {changed}, which a recorded program would not: do it outside, "
                "or name it in the `buffers` of its Module",
                "a recorded step",
            )
        for place, line in (*installed, *((place, None) for place in self._new_memory())):
            self._left_at(place, line)
        for i, leaf in enumerate(given):
            if isinstance(leaf, Tensor) and leaf.grad is not None:
                self._output(leaf.grad._data, Argument(i))
        self.rebuild = flatten(result, self.returned)
        numbers = {id(leaf): i for i, leaf in enumerate(given)}
        for i, leaf in enumerate(self.returned):
            array = leaf._data if isinstance(leaf, Tensor) else leaf
            if id(leaf) in numbers:
                self.returned[i] = Argument(numbers[id(leaf)])
            elif isinstance(array, Recorded | np.ndarray) and id(leaf) not in self.state.tensors:
                self._output(array, Returned(i, isinstance(leaf, Tensor)))
                self.returned[i] = None

    # before

    def _install_arrays(self) -> Iterator[tuple[Place, Line | None]]:
        """Recorded arrays in the place of arrays; None where there is no gradient yet."""
        for place in places_of(self.state):
            value, array = place.get(), None
            if isinstance(value, Tensor):  # a gradient
                array = self.recording.input(f"old_{place.name}", place, value._data)
                place.set(wrap(array))
            elif value is not None:
                array = self.recording.input(place.name, place, value)
                place.set(array)
            yield place, None if array is None else array.line

    def _install_numbers(self) -> Iterator[tuple[Place, Line]]:
        """Recorded numbers; equal counts are one, so what follows from them is computed once."""
        groups: dict[Any, list[Place]] = {}
        for place in self.state.numbers:
            value = place.get()
            group = (place.key, value) if type(value) is int else place.id
            groups.setdefault(group, []).append(place)
        self.alike = [*groups.values()]
        for places in self.alike:
            name = places[0].key if len(places) > 1 else places[0].name
            number = self.recording.input(name, places[0], places[0].get())
            for place in places:
                place.set(number)
                yield place, number.line

    def _argument(self, i: int, leaf: Any, name: str) -> Any:
        """What the function gets in place of an argument."""
        if isinstance(leaf, Tensor):
            tensor = wrap(self.recording.input(name, Argument(i), leaf._data))
            tensor._tracked = leaf._tracked
            return tensor
        array = hasattr(leaf, "shape") and not isinstance(leaf, np.generic)
        if array or type(leaf) in (float, int):
            return self.recording.input(name, Argument(i), leaf)
        if leaf is None or isinstance(leaf, bool | str):
            return leaf
        raise refused(
            f"argument {i} is a {type(leaf).__name__}: expected arrays, Tensors and numbers"
        )

    # afterwards

    def _output(self, array: Any, target: Any) -> None:
        self.outputs.append(self.recording.library.lift(array))
        self.targets.append(target)

    def _left_at(self, place: Place, line: Line | None) -> None:
        """What is at a place now, where `line` was installed, is an output if it changed."""
        now = place.get()
        value = now._data if isinstance(now, Tensor) else now
        if isinstance(now, Tensor) != (place.of_tensor == "grad") and now is not None:
            raise refused(
                f"the step puts a {type(now).__name__} at {place.name}, where none was",
                "a recorded step",
            )
        if value is None:
            self.cleared += [place] if line else []
        elif line is not None and line.kind and not isinstance(value, Recorded):
            raise refused(
                f"the step sets {place.name} to {value}: do it outside, between two calls (a "
                "schedule's step(), for instance)",
                "a recorded step",
            )
        elif self.recording.library.lift(value) is not line:
            self._output(value, place)
            new = self.outputs[-1]
            if place.of_tensor != "grad" and not new.origin.name.startswith("new_"):
                name = line.static["name"] if line else place.name
                new.origin = new.origin._replace(name=f"new_{name}")

    def _new_memory(self) -> Iterator[Place]:
        """What optimizers remember since this step for the first time."""
        known = {place.id for place in (*self.state.memory, *self.state.numbers)}
        for optimizer in self.state.optimizers:
            for p, memory in zip(optimizer.params, optimizer.state, strict=True):
                places = (Place(f"{self.state.name_of(p)}.{key}", memory, key) for key in memory)
                yield from (place for place in places if place.id not in known)


def record(
    function: Callable[..., Any], args: Any, keywords: Any, state: State, backend: str
) -> Step:
    """The step, recorded twice: what differs then is no constant, and would be baked in."""
    random = [(get, put, get()) for get, put in generators(state)]
    try:
        first, second = (Step(function, args, keywords, state, backend) for _ in range(2))
    finally:
        drawn = [pickle.dumps(get()) != pickle.dumps(value) for get, _, value in random]
        for _, put, value in random:
            put(value)
    for a, b in zip_longest(first.program.lines, second.program.lines):
        if a is None or b is None or a.op != b.op or _constants(a) != _constants(b):
            raise refused(
                "this computes something else when the step runs once more: a random number, or a "
                "count that is kept somewhere: pass it as an argument, or make it a buffer of a "
                "Module",
                (a or b).origin.user,
            )
    if any(drawn):
        raise refused(
            "the step draws random numbers: draw them outside, and pass them as arguments",
            "a recorded step",
        )
    return first


def check_tensors(leaves: Iterable[Any], state: State) -> None:
    """Arguments that are Tensors have to be leaves of their own, or RecordingError."""
    seen: set[int] = set()
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            what = (
                "was computed by recorded ops: detach() it; a compiled step starts from leaves"
                if leaf._node is not None
                else "has a gradient; a compiled step starts from leaves"
                if leaf.grad is not None
                else "is a Tensor that the step refers to, too"
                if id(leaf) in state.tensors
                else "is the same Tensor as another"
                if id(leaf) in seen
                else None
            )
            if what:
                raise refused(f"argument {i} {what}")
            seen.add(id(leaf))


def _constants(line: Line) -> list[Any]:
    return [a.key() for a in line.inputs if a.op == "constant"]
