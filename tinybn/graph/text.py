"""Pictures in text: an indented tree, Mermaid, and Graphviz' DOT."""

from __future__ import annotations

from collections import Counter, deque

from tinybn.graph.history import Names, Spans, Vertex, vertices
from tinybn.graph.values import Values
from tinybn.tensor import Tensor

DEEPEST = 30
"""So many levels of a tree are indented; what lies deeper starts again at the left."""

MERMAID = str.maketrans({c: f"#{ord(c)};" for c in '#"<>&`\\'})
DOT = str.maketrans({c: f"\\{c}" for c in '"\\'})
"""How characters are written that would mean something there."""


def tree(tensor: Tensor, *, names: Names = None, spans: Spans = (), values: Values = True) -> str:
    """The history of a Tensor as indented text, from the output back to the leaves.

    What is read more than once gets a number, and is shown in full the first time. So does what
    lies too deep to be indented: it is shown below, at the left. Arguments: see
    `vertices`.
    """
    found = vertices(tensor, names=names, spans=spans, values=values)
    readers = Counter(i for vertex in found for i in vertex.inputs)
    lines: list[tuple[str, str, str]] = []
    numbers: dict[int, int] = {}
    shown: set[int] = set()
    below = deque([len(found) - 1])  # the boxes that start at the left
    while below:
        start = below.popleft()
        stack = [(start, "", "")] if start not in shown else []  # a box, what leads to it and on
        while stack:
            i, lead, indent = stack.pop()
            title, array, note, inputs, value, gradient = found[i]
            again = bool(inputs) and i in shown
            later = bool(inputs) and len(indent) >= 3 * DEEPEST
            if inputs and (readers[i] > 1 or later or i in numbers):
                title = f"#{numbers.setdefault(i, len(numbers) + 1)} {title}"
            if again or later:
                note = "(see above)" if again else "(see below)"
                below += [] if again else [i]
                inputs, value, gradient = [], "", ""
            else:
                shown.add(i)
            lines.append((f"{lead}{title} {array}", note, _numbers(value, gradient)))
            for k, j in reversed([*enumerate(inputs, 1)]):
                branch, rest = ("└─ ", "   ") if k == len(inputs) else ("├─ ", "│  ")
                stack.append((j, indent + branch, indent + rest))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in lines)
    return "\n".join(row.rstrip() for row in rows)


def mermaid(
    tensor: Tensor, *, names: Names = None, spans: Spans = (), values: Values = True
) -> str:
    """The history of a Tensor as a Mermaid flowchart. Arguments: see `vertices`."""
    lines = ["flowchart TD"]
    for i, vertex in enumerate(vertices(tensor, names=names, spans=spans, values=values)):
        text = "<br>".join(part.translate(MERMAID) for part in _parts(vertex))
        lines.append(f'  n{i}["{text}"]' if vertex.inputs else f'  n{i}(["{text}"])')
        lines += [f"  n{j} --> n{i}" for j in vertex.inputs]
    return "\n".join(lines)


def dot(tensor: Tensor, *, names: Names = None, spans: Spans = (), values: Values = True) -> str:
    """The history of a Tensor in Graphviz' DOT language. Arguments: see `vertices`."""
    lines = ["digraph {", '  node [shape=box, fontname="sans-serif", fontsize=10]']
    for i, vertex in enumerate(vertices(tensor, names=names, spans=spans, values=values)):
        text = "\\n".join(part.translate(DOT) for part in _parts(vertex))
        style = "" if vertex.inputs else ", style=rounded"
        lines.append(f'  n{i} [label="{text}"{style}]')
        lines += [f"  n{j} -> n{i}" for j in vertex.inputs]
    return "\n".join([*lines, "}"])


def _numbers(value: str, gradient: str) -> str:
    return "   ".join(filter(None, [value and f"= {value}", gradient and f"gradient {gradient}"]))


def _parts(vertex: Vertex) -> list[str]:
    """The lines in a box."""
    title, array, rules, _, value, gradient = vertex
    numbers = value and f"= {value}", gradient and f"gradient {gradient}"
    return [part for part in (title, array, rules, *numbers) if part]
