"""Recording: the lines that are written while a step runs on recorded arrays."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tinybn.backend import name_of
from tinybn.op import Node
from tinybn.program.library import Library
from tinybn.program.line import Line, Origin, constant
from tinybn.program.origin import full_name, origin, within
from tinybn.program.recorded import Recorded, refused
from tinybn.program.state import State
from tinybn.tensor import Tensor
from tinybn.walk import Contribution


class Recording:
    """The lines of a step, and what is known about them while it runs.

    Attributes:
        inputs: the program's inputs.
        sources: for each input, where its value comes from (see `Step`).
        viewed: the lines that are views or have views.
        checks: pairs of an input's number and a function that raises if its values are wrong.
        made: weak references to all recorded arrays.
    """

    def __init__(self, state: State, backend: str) -> None:
        self.inputs: list[Line] = []
        self.sources: list[Any] = []
        self.lines: list[Line] = []
        self.viewed: set[Line] = set()
        self.checks: list[tuple[int, Callable[[Any], None]]] = []
        self.made: list[weakref.ref[Recorded]] = []
        self.libraries = {name: Library(self, name) for name in {"numpy", backend}}
        self.library = self.libraries[backend]
        self._paths = state.paths
        self._thread = threading.get_ident()
        self._caller = id(sys._getframe(1))
        self._outputs: dict[int, Line] = {}  # of recorded ops, by the time of their nodes
        arrays = [(place, place.get()) for place, _ in state.captured]
        self._captured = {
            id(a): self.input(place.name, place, a).line
            for place, a in arrays
            if name_of(a) in self.libraries
        }

    def here(self) -> Origin:
        """The origin of a line that is written now."""
        if threading.get_ident() != self._thread:
            raise refused("another thread uses a model while a step of it is being recorded")
        return origin(self._paths, self._caller)

    def input(self, name: str, source: Any, like: Any) -> Any:
        """A recorded array, an input of the program, to use in place of `like`."""
        kind = type(like) if type(like) in (float, int) else None
        shape, dtype = ((), kind) if kind else (like.shape, like.dtype)
        line = Line("input", (), {"name": name}, tuple(shape), dtype, kind)
        self.inputs.append(line)
        self.sources.append(source)
        library = self.library if kind else self.libraries[name_of(like)]
        return library.ndarray(line)

    def captured(self, array: Any) -> Recorded:
        """A recorded array for a real one: an input if `state` found it, otherwise a constant."""
        if line := self._captured.get(id(array)):
            return self.libraries[name_of(array)].ndarray(line)
        if not isinstance(array, np.generic | np.ndarray):
            raise refused("an array is made on the GPU in the step: make it outside")
        return self.library.ndarray(constant(np.array(array)[()]))

    def forget(self) -> None:
        """End the recording; RecordingError if something still holds one of its arrays."""
        for line in self.lines:
            _explain_sums(line)
        for array in (ref() for ref in self.made):
            if array is not None:
                raise refused(
                    "a value of the step is still held outside of it: return it instead",
                    array.line.origin.user or "a recorded step",
                )

    # --- the two callbacks of `watch` ---

    def output(self, node: Node, array: Any) -> None:
        """Name the result of a recorded op after the op, if its formula gives it no name."""
        if line := self._line(array):
            self._outputs[node.time] = line
            if not full_name(line):
                name = within(line.origin.layer, node.op.name)
                line.origin = line.origin._replace(name=name)

    def contribution(self, c: Contribution) -> None:
        """Note which rule wrote the lines behind a contribution, and name the contribution d_…"""
        value, upstream, source, output = map(self._line, (c.value, c.upstream, c.source, c.node))
        if not (value and upstream and output):  # no array was recorded
            return
        for line in filter(None, (upstream, source)):
            _explain_sums(line)
        layer, op = output.origin.layer, c.node.op
        rule = op.name, op.names[min(c.input, len(op.names) - 1)]
        of = full_name(source) if source else ""
        for line in _unexplained(value):
            name = f"d_{of}" if of and line is value else within(layer, line.origin.name)
            line.origin = line.origin._replace(layer=layer, name=name, rule=rule)

    def _line(self, of: Any) -> Line | None:
        """The line of a Tensor, of an array, or of a node's output; None for constants."""
        if isinstance(of, Node):
            return self._outputs.get(of.time)
        array = of._data if isinstance(of, Tensor) else of
        return array.line if isinstance(array, Recorded) else None


def _unexplained(line: Line) -> list[Line]:
    """This line and the ones it was computed from whose rule is not known yet, newest first."""
    found: dict[Line, None] = {}
    stack = [line]
    while stack:
        line = stack.pop()
        if line.origin.section == "backward" and not line.origin.rule and line not in found:
            found[line] = None
            stack += line.inputs
    return list(found)


def _explain_sums(line: Line) -> None:
    """Name sums of contributions, at or behind this line, after their last term."""
    for total in reversed(_unexplained(line)):
        explained = [a.origin for a in total.inputs if a.origin.rule]
        if explained:
            _, layer, name, rule, _ = explained[-1]
            total.origin = total.origin._replace(layer=layer, name=name, rule=rule)
