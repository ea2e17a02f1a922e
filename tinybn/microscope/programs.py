"""The program that autodiff wrote for a pass, and which of its lines belong to which step.

The same function is recorded twice: with numbers, by `tb.watch`, and as lines, by `tb.program`. The
lines of a gradient rule say which rule wrote them. Run line by line, they give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinybn.microscope.watching import Watcher
from tinybn.program import Line, Program, program, without_dead
from tinybn.program.line import evaluate
from tinybn.program.source import named
from tinybn.program.tree import bare


class Listing:
    """The printed program of a step.

    Attributes:
        text: the printed lines.
        forward: per recorded op, the numbers of its lines in `text`.
        names: per recorded op, the name of its result.
        backward: per contribution, the numbers of its lines.
    """

    def __init__(self, step: Callable[..., Any], args: Sequence[Any], watcher: Watcher) -> None:
        found = program(step, *args, passes=without_dead)
        self.text = str(found).rstrip().split("\n")
        statements = [i for i, text in enumerate(self.text) if " = " in text]
        self._row = dict(zip(found.lines, statements, strict=True))
        self._names = named(found)
        self.values = values(found, args)
        lines = found.lines
        split = next((i for i, x in enumerate(lines) if x.origin.section != "forward"), len(lines))
        self.forward: list[list[int]] = []
        self.names: list[str] = []
        self._match_ops(lines[:split], watcher)
        self.backward: list[list[int]] = [[] for _ in watcher.added]
        self._match_rules(lines[split:], watcher)

    def _match_ops(self, lines: list[Line], watcher: Watcher) -> None:
        """Each op ends with the next line that has its value, the last op with the last line."""
        start = 0
        for made in watcher.made:
            is_last = made is watcher.made[-1]
            for end in range(len(lines) - 1 if is_last else start, len(lines)):
                value = self.values[lines[end]]
                if value.shape == made.value.shape and same(value, made.value):
                    self.forward.append([self._row[line] for line in lines[start : end + 1]])
                    self.names.append(self._names[lines[end]])
                    start = end + 1
                    break
            else:
                self.forward.append([])
                self.names.append(made.node.op.name)

    def _match_rules(self, lines: list[Line], watcher: Watcher) -> None:
        """Each line says which op's rule wrote it; the ops come in the order of the walk."""
        keys = []
        for c in watcher.added:
            names = c.node.op.names
            keys.append((c.node.op.name, names[min(c.input, len(names) - 1)]))
        node = 0  # the first contribution of the op whose lines these are
        for line in lines:
            rule = line.origin.rule
            for e in range(node, len(keys)):
                if keys[e] == rule:
                    self.backward[e].append(self._row[line])
                    while watcher.added[node].node is not watcher.added[e].node:
                        node += 1
                    break


def values(found: Program, args: Sequence[Any]) -> dict[Line, Any]:
    """The result of every line."""
    known: dict[Line, Any] = {}
    given = [bare(a) for a in args if a is not None]
    known.update(zip(found.inputs, given, strict=True))

    def value(line: Line) -> Any:
        return line.static["value"] if line.op == "constant" else known[line]

    with np.errstate(all="ignore"):
        for line in found.lines:
            result = evaluate(line.op, [value(a) for a in line.inputs], line.static)
            known[line] = np.asarray(result)
    return known


def same(a: Any, b: Any) -> bool:
    """Whether two arrays have equal numbers, NaN included."""
    return np.array_equal(a, b, equal_nan=True)
