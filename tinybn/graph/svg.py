"""A picture as SVG, without Graphviz: boxes in layers, from the leaves down to the output.

Sugiyama's method, shortened: each box gets a layer, and each arrow a bend in the layers it crosses.
A few sweeps move boxes towards what they are joined to: first their order, then their places.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from tinybn.graph.history import Names, Spans, Vertex, vertices
from tinybn.graph.values import Values
from tinybn.tensor import Tensor

MOST = 40
"""The largest number of boxes in a picture, unless told otherwise."""

CHARACTER, LINE, PAD, GAP, FALL = 6.7, 15, 8, 22, 34
"""In pixels: a character, a line, inside of a box, between boxes, and between layers."""

WIDEST = 46
"""Longer lines are cut after so many characters."""

SWEEPS = 8


class _Item:
    """A box, or the bend of an arrow: its layer, its size, and the x of its middle."""

    def __init__(self, vertex: Vertex | None, layer: int, lines: Sequence[str] = ()) -> None:
        self.vertex, self.layer, self.lines = vertex, layer, lines
        self.width = PAD * 2 + CHARACTER * max(map(len, lines)) if lines else 4.0
        self.height = PAD * 2 + LINE * len(lines) if lines else 0.0
        self.x = self.y = 0.0
        self.above: list[_Item] = []
        self.below: list[_Item] = []


def svg(
    tensor: Tensor,
    *,
    names: Names = None,
    spans: Spans = (),
    values: Values = True,
    most: int = MOST,
) -> str:
    """The history of a Tensor as an SVG picture. Other arguments: see `vertices`.

    Args:
        most: the largest number of boxes. Of a larger graph, those nearest to the output are drawn.

    Raises:
        ValueError: `most` is no number of boxes. See `vertices` for other errors.
    """
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"svg: expected most as a number of boxes, at least 1, got {most!r}")
    return drawn(vertices(tensor, names=names, spans=spans, values=values), most)


def drawn(boxes: list[Vertex], most: int) -> str:
    """Boxes as an SVG picture."""
    found = _cut(boxes, most)
    layers = _layers(found)
    _order(layers)
    _place(layers)
    return _written(layers, found[-1].title, len(found))


def _cut(found: list[Vertex], most: int) -> list[Vertex]:
    """The boxes nearest to the last one, and a box that counts the others."""
    near = {len(found) - 1: None}
    queue = deque(near)
    while queue and len(near) < most:
        for i in found[queue.popleft()].inputs:
            if i not in near and len(near) < most:
                near[i] = None
                queue.append(i)
    if len(near) == len(found):
        return found
    kept = sorted(near)
    rest = Vertex(f"… {len(found) - len(kept)} more", "not drawn", "", [])
    number = {old: new for new, old in enumerate(kept, 1)}
    inputs = ([number.get(i, 0) for i in found[old].inputs] for old in kept)
    return [rest] + [
        found[old]._replace(inputs=[*dict.fromkeys(new)])
        for old, new in zip(kept, inputs, strict=True)
    ]


def _layers(found: Sequence[Vertex]) -> list[list[_Item]]:
    """The boxes in layers, joined by arrows that lead from each layer to the next."""
    level = [0] * len(found)
    for i, vertex in enumerate(found):
        level[i] = max((level[j] + 1 for j in vertex.inputs), default=0)
    for i in reversed(range(len(found))):  # a leaf stands right above what reads it first
        readers = [level[k] for k, vertex in enumerate(found) if i in vertex.inputs]
        if not found[i].inputs and readers:
            level[i] = min(readers) - 1
    items = [_Item(v, n, _lines(v)) for v, n in zip(found, level, strict=True)]
    layers: list[list[_Item]] = [[] for _ in range(max(level) + 1)]
    for item in items:
        layers[item.layer].append(item)
    for item, vertex in zip(items, found, strict=True):
        for j in vertex.inputs:
            last = items[j]
            for n in range(last.layer + 1, item.layer):
                bend = _Item(None, n)
                layers[n].append(bend)
                _join(last, bend)
                last = bend
            _join(last, item)
    return layers


def _join(a: _Item, b: _Item) -> None:
    a.below.append(b)
    b.above.append(a)


def _lines(vertex: Vertex) -> list[str]:
    value, gradient = vertex.value, vertex.gradient
    lines = [
        vertex.title,
        vertex.array,
        value and f"= {value}",
        gradient and f"gradient {gradient}",
    ]
    return [s if len(s) <= WIDEST else s[: WIDEST - 1] + "…" for s in lines if s]


def _order(layers: list[list[_Item]]) -> None:
    """Order the items of each layer by the mean place of what they are joined to."""
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer, other in pairwise(layers if down else layers[::-1]):
            place = {item: i for i, item in enumerate(layer)}
            own = {item: i for i, item in enumerate(other)}
            mean = {}
            for item in other:
                joined = [place[a] for a in (item.above if down else item.below)]
                mean[item] = sum(joined) / len(joined) if joined else own[item] * 1.0
            other.sort(key=mean.__getitem__)


def _place(layers: list[list[_Item]]) -> None:
    """Give every item its x and y."""
    top = 0.0
    for layer in layers:
        height = max(item.height for item in layer)
        for item in layer:
            item.y, item.height = top, item.height or height
        top += height + FALL
        _spread(layer)
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            for item in layer:
                joined = item.above + item.below
                item.x = sum(a.x for a in joined) / len(joined) if joined else item.x
            _spread(layer)
    left = min(item.x - item.width / 2 for layer in layers for item in layer)
    for layer in layers:
        for item in layer:
            item.x -= left


def _spread(layer: list[_Item]) -> None:
    """Move the items of a layer apart, as little as needed, in their order."""
    wanted = [item.x for item in layer]
    for a, b in pairwise(layer):
        b.x = max(b.x, a.x + (a.width + b.width) / 2 + GAP)
    back = sum(item.x - x for item, x in zip(layer, wanted, strict=True)) / len(layer)
    for item in layer:
        item.x -= back


def _written(layers: list[list[_Item]], title: str, boxes: int) -> str:
    items = [item for layer in layers for item in layer]
    width = max(item.x + item.width / 2 for item in items)
    height = max(item.y + item.height for item in items)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {width + 4:.0f} {height + 4:.0f}" '
        f'width="{width + 4:.0f}" height="{height + 4:.0f}" role="img" '
        f'style="max-width: 100%; height: auto" font-family="monospace" font-size="11" '
        f'fill="currentColor" aria-label="The graph of {escape(title)}, {boxes} boxes">'
    ]
    for item in items:
        parts += [_arrow(item, reader) for reader in item.below]
        if item.vertex:
            parts.append(_box(item, item.vertex))
    return "\n".join([*parts, "</svg>"])


def _arrow(a: _Item, b: _Item) -> str:
    top, end = a.y + a.height, b.y
    middle = (top + end) / 2
    curve = (
        f"M{a.x:.1f} {top:.1f}C{a.x:.1f} {middle:.1f} {b.x:.1f} {middle:.1f} {b.x:.1f} {end:.1f}"
    )
    head = f"M{b.x - 3:.1f} {end - 6:.1f}L{b.x:.1f} {end:.1f}L{b.x + 3:.1f} {end - 6:.1f}"
    through = f"V{b.y + b.height:.1f}"
    return (
        f'<path d="{curve}{head if b.vertex else through}" fill="none" stroke="currentColor" '
        'stroke-opacity="0.55"/>'
    )


def _box(item: _Item, vertex: Vertex) -> str:
    """A box with its lines; where its rules are is shown when the mouse is on it."""
    left, corner = item.x - item.width / 2, 3 if vertex.inputs else 12
    parts = [
        f"<g><title>{escape(' '.join([vertex.title, vertex.array, vertex.rules]).strip())}</title>",
        f'<rect x="{left:.1f}" y="{item.y:.1f}" width="{item.width:.1f}" height="{item.height}" '
        f'rx="{corner}" fill-opacity="{0.04 if vertex.inputs else 0.12}" stroke="currentColor"/>',
    ]
    for i, line in enumerate(item.lines):
        bold = ' font-weight="bold"' if i == 0 else ""
        y = item.y + PAD + LINE * (i + 0.75)
        parts.append(
            f'<text x="{item.x:.1f}" y="{y:.1f}" text-anchor="middle"{bold}>{escape(line)}</text>'
        )
    return "".join([*parts, "</g>"])
