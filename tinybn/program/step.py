"""A recorded step: the program, where its inputs come from, and where its outputs go.

The user's function, the layers, the rules, the walk and the optimizers run as usual, but on
recorded arrays. They find these arrays in the models, and leave their results there. Whatever they
leave is an output of the program. Afterwards, everything is put back as it was.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from operator import is_
from typing import Any

import numpy as np

from tinybn.backend import MODULES
from tinybn.modes import watch
from tinybn.program.line import Line
from tinybn.program.place import Place
from tinybn.program.recorded import Recorded, refused
from tinybn.program.recording import Recording
from tinybn.program.source import Program
from tinybn.program.state import State
from tinybn.program.tree import bare, leaves_of, mapped, names_of
from tinybn.tensor import Tensor, wrap

STEP = "a recorded step"
"""The location named in errors that no single line of the user's code causes."""


@dataclass(frozen=True)
class Result:
    """Marks where an output, or an argument, is returned.

    number: that of the output; if negative, that of the argument, counted from the end.
    """

    number: int


class Step:
    """`function(*args, **keywords)`, recorded.

    program: what the step does. sources: for each input, a Place, the number of an argument, or a
    function that draws it. alike: for each of the state's numbers, the first that shares its input
    (equal counts share one). checks: inputs, and functions that raise if their values are wrong.
    assigned: outputs, and the places where they go. homes: outputs that fit into the memory of the
    input at their place, and that input. gradients: outputs, and the arguments whose gradients they
    are. cleared: places of gradients that are None afterwards. returned: what the function returns,
    with a Result for each output. tensors: the outputs that are returned as Tensors.
    """

    def __init__(
        self, function: Callable[..., Any], args: Any, keywords: Any, state: State, backend: str
    ) -> None:
        self.state = state
        self.recording = recording = Recording(state, backend)
        self.sources, self.checks = recording.sources, recording.checks
        self.assigned: list[tuple[int, Place]] = []
        self.homes: dict[int, int] = {}
        self.gradients: list[tuple[int, int]] = []
        self.cleared: list[Place] = []
        self.tensors: list[int] = []
        self._outputs: list[Line] = []
        first: dict[Any, int] = {}
        self.alike = [
            first.setdefault((p.key, p.get()) if type(p.get()) is int else p.id, n)
            for n, p in enumerate(state.numbers)
        ]
        libraries: dict[Any, Any] = {x.ndarray: x for x in recording.libraries.values()}
        MODULES.update(libraries)
        try:
            with state.restored() as changed:
                self._run(function, args, keywords, changed)
        finally:
            for kind in libraries:
                del MODULES[kind]
        recording.forget()
        self.program = Program(recording.inputs, recording.lines, self._outputs)

    def _run(
        self, function: Callable[..., Any], args: Any, keywords: Any, changed: Callable[[], Any]
    ) -> None:
        installed = [*self._install()]
        leaves = leaves_of((args, keywords))
        check_tensors(leaves, self.state)
        names = names_of(function, args, keywords, len(leaves))
        given = [*map(self._argument, range(len(leaves)), leaves, names)]
        rest = iter(given)
        args, keywords = mapped(lambda _: next(rest), (args, keywords))
        with watch(self.recording.contribution, outputs=self.recording.output):
            result = function(*args, **keywords)
        left = leaves_of((args, keywords))
        kept = len(left) == len(given) and all(map(is_, left, given))
        if what := changed() or (None if kept else "an argument"):
            raise refused(
                f"the step changes {what}, which a recorded program would not: do it outside, or "
                "name it in the `buffers` of its Module",
                STEP,
            )
        known = {place.id for place, _ in installed}
        new = [(place, None) for place in self.state.remembered() if place.id not in known]
        for place, line in (*installed, *new):
            self._left_at(place, line)
        for i, leaf in enumerate(given):
            if isinstance(leaf, Tensor) and leaf.grad is not None:
                self.gradients.append((self._output(leaf.grad._data), i))
        results: dict[int, Any] = {id(a): Result(i - len(given)) for i, a in enumerate(given)}
        self.returned = mapped(lambda leaf: self._returned(leaf, results), result)

    # --- before the step runs ---

    def _install(self) -> Iterator[tuple[Place, Line | None]]:
        """Replace the state by recorded arrays and numbers. A missing gradient has no line."""
        for place in self.state.arrays:
            value = place.get()
            if value is None:
                yield place, None
                continue
            name = f"old_{place.name}" if place.is_gradient else place.name
            array = self.recording.input(name, place, bare(value))
            place.set(wrap(array) if place.is_gradient else array)
            yield place, array.line
        numbers: list[Any] = []
        for n, (place, first) in enumerate(zip(self.state.numbers, self.alike, strict=True)):
            if first < n:
                number = numbers[first]
            else:
                name = place.key if self.alike.count(n) > 1 else place.name
                number = self.recording.input(name, place, place.get())
            numbers.append(number)
            place.set(number)
            yield place, number.line

    def _argument(self, i: int, leaf: Any, name: str) -> Any:
        """What the function gets in place of an argument."""
        if isinstance(leaf, Tensor):
            tensor = wrap(self.recording.input(name, i, leaf._data))
            tensor._tracked = leaf._tracked
            return tensor
        if leaf is None or isinstance(leaf, bool | str):
            return leaf
        array = hasattr(leaf, "shape") and not isinstance(leaf, np.generic)
        if array or type(leaf) is float or (type(leaf) is int and fits(leaf)):
            return self.recording.input(name, i, leaf)
        large = "an integer of more than 64 bits"
        what = large if type(leaf) is int else f"a {type(leaf).__name__}"
        raise refused(f"argument {i} is {what}: expected arrays, Tensors and numbers")

    # --- afterwards ---

    def _output(self, array: Any) -> int:
        self._outputs.append(self.recording.library.lift(array))
        return len(self._outputs) - 1

    def _left_at(self, place: Place, line: Line | None) -> None:
        """Make the value at a place an output, unless it is still `line`, which was installed."""
        now = place.get()
        value = bare(now)
        if isinstance(now, Tensor) != place.is_gradient and now is not None:
            raise refused(
                f"the step puts a {type(now).__name__} at {place.name}, where none was", STEP
            )
        if value is None:
            self.cleared += [place] if line else []
        elif line is not None and line.kind and not isinstance(value, Recorded):
            raise refused(
                f"the step sets {place.name} to {value}: do it outside, between two calls (a "
                "schedule's step(), for instance)",
                STEP,
            )
        elif self.recording.library.lift(value) is not line:
            k = self._output(value)
            self.assigned.append((k, place))
            new = self._outputs[k]
            if line and not new.kind and (new.shape, new.dtype) == (line.shape, line.dtype):
                self.homes[k] = self.recording.inputs.index(line)
            if not place.is_gradient and not new.origin.name.startswith("new_"):
                name = line.static["name"] if line else place.name
                new.origin = new.origin._replace(name=f"new_{name}")

    def _returned(self, leaf: Any, known: dict[int, Any]) -> Any:
        """The leaf, or a Result in its place. A leaf that occurs twice gets one Result."""
        new = id(leaf) not in known and id(leaf) not in self.state.tensors
        if new and isinstance(bare(leaf), Recorded | np.ndarray):
            k = self._output(bare(leaf))
            known[id(leaf)] = Result(k)
            self.tensors += [k] if isinstance(leaf, Tensor) else []
        return known.get(id(leaf), leaf)


def record(
    function: Callable[..., Any], args: Any, keywords: Any, state: State, backend: str
) -> Step:
    """Record the step twice: what differs is not constant, and must not be frozen into it."""
    random = [(get, put, get()) for get, put in state.generators()]
    try:
        first, second = (Step(function, args, keywords, state, backend) for _ in range(2))
    finally:
        drawn = [pickle.dumps(get()) != pickle.dumps(value) for get, _, value in random]
        for _, put, value in random:
            put(value)
    for a, b in zip_longest(first.program.lines, second.program.lines):
        if a is None or b is None or a.op != b.op or _constants(a) != _constants(b):
            raise refused(
                "this computes something else when the step runs again: a random number, or a "
                "count that is kept somewhere: pass it as an argument, or make it a buffer of a "
                "Module",
                (a or b).origin.user,
            )
    if any(drawn):
        raise refused(
            "the step draws random numbers: draw them outside, and pass them as arguments", STEP
        )
    return first


def _constants(line: Line) -> list[Any]:
    return [a.key() for a in line.inputs if a.op == "constant"]


def fits(number: int) -> bool:
    """Whether an integer has at most 64 bits, like those of a program."""
    return -(2**63) <= number < 2**63


def check_tensors(leaves: Iterable[Any], state: State) -> None:
    """RecordingError unless all arguments that are Tensors are separate leaves."""
    tensors = [(i, leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    ids = [id(leaf) for _, leaf in tensors]
    for i, leaf in tensors:
        for wrong, what in (
            (leaf._node is not None, "was computed by recorded ops: detach() it"),
            (leaf.grad is not None, "has a gradient: a compiled step starts from leaves"),
            (id(leaf) in state.tensors, "is a Tensor that the step refers to, too"),
            (ids.count(id(leaf)) > 1, "is the same Tensor as another"),
        ):
            if wrong:
                raise refused(f"argument {i} {what}")
