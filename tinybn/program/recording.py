"""Recording: the lines that are written down while a step runs on recorded arrays."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tinybn.backend import name_of
from tinybn.program.library import Library
from tinybn.program.line import Line, Origin, constant
from tinybn.program.origin import label, origin
from tinybn.program.place import Place
from tinybn.program.recorded import Recorded, refused
from tinybn.program.state import State
from tinybn.tensor import Tensor
from tinybn.walk import Contribution


class Recording:
    """The lines that are written down while a step runs, and what they need to know."""

    def __init__(self, state: State, backend: str) -> None:
        self.state = state
        self.inputs: list[Line] = []
        self.sources: list[Any] = []
        self.lines: list[Line] = []
        self.viewed: set[Line] = set()
        self.names: dict[int, str] = {}
        self.checks: list[tuple[int, Callable[[Any], None]]] = []
        self.made: list[weakref.ref[Recorded]] = []
        self.thread = threading.get_ident()
        self.libraries = {name: Library(self, name) for name in {"numpy", backend}}
        self.library = self.libraries[backend]
        self._constants = {id(place.get()): place for place, _ in state.captured}
        self._nodes: dict[Any, Line] = {}
        self._seen = 0
        self._unknown: set[Line] = set()  # lines of a backward pass whose rule is not known yet
        self._totals: dict[Any, Line] = {}  # the gradients so far, by what they are the gradient of
        self._sums: dict[Any, Any] = {}  # lines that are to come: two of these added up

    def here(self) -> Origin:
        """Where the line that is being written down comes from."""
        if threading.get_ident() != self.thread:
            raise refused("another thread uses a model while a step of it is being recorded")
        return origin(self.state.paths, self.names)

    def input(self, name: str, source: Any, like: Any) -> Any:
        """A recorded array, as an input of the program, in place of `like`."""
        kind = type(like) if type(like) in (float, int) else None
        shape, dtype = ((), kind) if kind else (like.shape, like.dtype)
        line = Line("input", (), {"name": name}, tuple(shape), dtype, kind)
        self.inputs.append(line)
        self.sources.append(source)
        self.names[id(line)] = name
        library = self.library if kind else self.libraries[name_of(like)]
        return library.ndarray(line)

    def captured(self, array: Any) -> Line:
        """The line of an array that is not recorded: an input, if it was there before the step."""
        place = self._constants.get(id(array))
        if place is None and not isinstance(array, np.generic | np.ndarray):
            raise refused("an array is made on the GPU in the step: make it outside")
        if place is None:
            return constant(array.copy() if array.ndim else array[()], self.here())
        if isinstance(place, Place):
            place = self._constants[id(array)] = self.input(place.name, place, array).line
        return place

    def forget(self) -> None:
        """Let go of the step; RecordingError if somebody else does not."""
        self._look()
        self._nodes.clear()
        self._totals.clear()
        self._sums.clear()
        for array in (ref() for ref in self.made):
            if array is not None:
                raise refused(
                    "a value of the step is still held outside of it: return it instead",
                    array.line.origin.user or "a recorded step",
                )

    # what the engine tells (see `watch`)

    def output(self, node: Any, array: Any) -> None:
        self._nodes[node] = line = array.line
        if not line.origin.name and line.op != "input":
            line.origin = line.origin._replace(name=node.op.name)

    def contribution(self, c: Contribution) -> None:
        """Note which rule made the lines that led to a gradient, and what that belongs to."""
        self._look()
        source = c.source._data.line if isinstance(c.source, Tensor) else self._nodes[c.source]
        value = (c.value._data if isinstance(c.value, Tensor) else c.value).line
        of = source.static["name"] if source.op == "input" else label(source)
        name = f"d_{of}" if of else ""
        names = c.node.op.names
        rule = c.node.op.name, names[min(c.input, len(names) - 1)]
        title = {"layer": self._nodes[c.node].origin.layer, "rule": rule}
        stack = [value]
        while stack:
            line = stack.pop()
            if line in self._unknown:
                self._unknown.remove(line)
                named = name if line is value and name else line.origin.name
                line.origin = line.origin._replace(**title, name=named)
                stack += line.inputs
        if c.source in self._totals:
            self._sums[self._totals[c.source], value] = c.source, {**title, "name": name}
        else:
            self._totals[c.source] = value

    def _look(self) -> None:
        """At the lines since the last time: some add a contribution to what there is already."""
        for line in self.lines[self._seen :]:
            if line.inputs in self._sums:
                key, title = self._sums.pop(line.inputs)
                line.origin = line.origin._replace(**title)
                self._totals[key] = line
            elif line.origin.section == "backward":
                self._unknown.add(line)
        self._seen = len(self.lines)
