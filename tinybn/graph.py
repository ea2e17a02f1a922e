"""Pictures of how a Tensor was computed: a text tree, DOT and Mermaid.

    y = tb.ops.batch_norm(x, gamma)                      # with tb.use_fused(False): all its parts
    print(tb.graph.tree(y, names={"x": x, "gamma": gamma}))

Every op comes with the source lines of its gradient rules. With the spans that `layers` notes, what
happened inside a layer is drawn as one box:

    with tb.graph.layers(model) as spans:
        y = model(x)
    print(tb.graph.mermaid(y, spans=spans))
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinybn.nn.module import Module
from tinybn.op import Node, Op, Primitive
from tinybn.tensor import Tensor, tick

PACKAGE = Path(__file__).parent.parent


class Span(NamedTuple):
    """A call of a layer: from when to when (see tensor.py), and what it is called."""

    start: int
    end: int
    label: str
    own: frozenset[Tensor]
    """Its parameters."""


@contextlib.contextmanager
def layers(model: Module) -> Iterator[list[Span]]:
    """Note when each layer of `model` (each Module without children) runs, inside of this block."""
    spans: list[Span] = []
    inner = [module for module in model.modules() if not any(module.children())]

    def noting(layer: Module) -> Any:
        forward = layer.forward

        @functools.wraps(forward)
        def run(*args: Any) -> Tensor:
            start = tick()
            y = forward(*args)
            spans.append(Span(start, tick(), repr(layer), frozenset(layer.parameters())))
            return y

        return run

    for layer in inner:
        layer.forward = noting(layer)  # type: ignore[method-assign]
    try:
        yield spans
    finally:
        for layer in inner:
            del layer.forward


class Vertex(NamedTuple):
    """A box of a picture: an op, a layer, or a leaf; inputs are the numbers of other boxes."""

    title: str
    shape: tuple[int, ...]
    dtype: str
    rules: str
    inputs: list[int]


def vertices(
    tensor: Tensor, *, names: Mapping[str, Tensor] | None = None, spans: Sequence[Span] = ()
) -> list[Vertex]:
    """The history of `tensor` as boxes, each after those that it is made of; `tensor` is the last.

    names: of leaves, for example dict(model.named_parameters()). spans: see `layers`.
    """
    called = {t: name for name, t in (names or {}).items()}
    root = _box(tensor._node or tensor, spans)
    inside: dict[Any, list[Node]] = {}  # the nodes of each box
    reads: dict[Any, dict[Any, None]] = {}  # what each box is made of, in order
    stack: list[Any] = [tensor._node or tensor]
    seen = set(stack)
    while stack:
        source = stack.pop()
        box = _box(source, spans)
        parts = reads.setdefault(box, {})
        if isinstance(source, Tensor):
            continue
        inside.setdefault(box, []).append(source)
        if source.sources is None:
            raise RuntimeError(
                f"the graph behind {source.op.name!r} was freed by a backward pass: draw it "
                "before, or pass retain_graph=True"
            )
        for s in source.sources:
            if s is None or (isinstance(box, Span) and s in box.own):
                continue
            if _box(s, spans) is not box:
                parts[_box(s, spans)] = None
            if s not in seen:
                seen.add(s)
                stack.append(s)
    order = _sorted(root, reads)
    number = {box: i for i, box in enumerate(order)}
    return [
        _vertex(box, inside.get(box, []), [number[part] for part in reads[box]], called)
        for box in order
    ]


def _box(source: Any, spans: Sequence[Span]) -> Any:
    """What a node is drawn in: the span that it was recorded in, or itself."""
    if isinstance(source, Tensor):
        return source
    return next((s for s in spans if s.start < source.time < s.end), source)


def _sorted(root: Any, reads: dict[Any, dict[Any, None]]) -> list[Any]:
    """All boxes, each after those that it is made of."""
    order: dict[Any, None] = {}
    stack = [(root, False)]
    while stack:
        box, done = stack.pop()
        if done:
            order[box] = None
        elif box not in order:
            stack.append((box, True))
            stack += [(part, False) for part in reversed(reads[box]) if part not in order]
    return list(order)


def _vertex(box: Any, nodes: list[Node], inputs: list[int], called: dict[Tensor, str]) -> Vertex:
    if isinstance(box, Tensor):
        title = called.get(box, "leaf" if box.requires_grad else "constant")
        return Vertex(title, box.shape, str(box.dtype), "", inputs)
    last = max(nodes, key=lambda node: node.time)
    if isinstance(box, Span):
        count = f"{len(nodes)} op{'s' if len(nodes) > 1 else ''}"
        return Vertex(box.label, last.shape, str(last.dtype), count, inputs)
    return Vertex(last.op.name, last.shape, str(last.dtype), _where(last.op), inputs)


def _where(op: Op) -> str:
    """The file and lines of an op's gradient rules: "tinybn/ops/elementwise.py:45, 46"."""
    rules: Sequence[Any] = (
        op.rules if isinstance(op, Primitive) else [getattr(op, "closed_form", None)]
    )
    codes = [rule.__code__ for rule in rules if hasattr(rule, "__code__")]
    places: dict[str, list[str]] = {}
    for code in codes:
        path = Path(code.co_filename)
        shown = path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else Path(path.name)
        lines = places.setdefault(shown.as_posix(), [])
        if str(code.co_firstlineno) not in lines:
            lines.append(str(code.co_firstlineno))
    return "; ".join(f"{file}:{', '.join(lines)}" for file, lines in places.items())


def tree(
    tensor: Tensor, *, names: Mapping[str, Tensor] | None = None, spans: Sequence[Span] = ()
) -> str:
    """The history of `tensor` as indented text, from the output back to the leaves.

    What is read more than once is numbered, and shown whole the first time. Arguments: see
    `vertices`.
    """
    found = vertices(tensor, names=names, spans=spans)
    readers = [0] * len(found)
    for vertex in found:
        for i in vertex.inputs:
            readers[i] += 1
    lines: list[tuple[str, str]] = []
    shown: dict[int, int] = {}
    stack = [(len(found) - 1, "", "")]
    while stack:
        i, lead, below = stack.pop()
        title, shape, dtype, rules, inputs = found[i]
        again = i in shown
        if readers[i] > 1 and inputs:
            title = f"#{shown.setdefault(i, len(shown) + 1)} {title}"
        lines.append((f"{lead}{title} {shape} {dtype}", "(see above)" if again else rules))
        if again:
            continue
        for k, j in reversed(list(enumerate(inputs))):
            last = k == len(inputs) - 1
            stack.append(
                (j, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))
            )
    width = max(len(left) for left, _ in lines)
    return "\n".join(f"{left:<{width}}   {right}".rstrip() for left, right in lines)


def mermaid(
    tensor: Tensor, *, names: Mapping[str, Tensor] | None = None, spans: Sequence[Span] = ()
) -> str:
    """The history of `tensor` as a Mermaid flowchart. Arguments: see `vertices`."""
    lines = ["flowchart TD"]
    for i, vertex in enumerate(vertices(tensor, names=names, spans=spans)):
        text = "<br>".join(_text(vertex)).replace('"', "#quot;")
        lines.append(f'  n{i}["{text}"]' if vertex.inputs else f'  n{i}(["{text}"])')
        lines += [f"  n{j} --> n{i}" for j in vertex.inputs]
    return "\n".join(lines)


def dot(
    tensor: Tensor, *, names: Mapping[str, Tensor] | None = None, spans: Sequence[Span] = ()
) -> str:
    """The history of `tensor` in Graphviz' language. Arguments: see `vertices`."""
    lines = ["digraph {", '  node [shape=box, fontname="sans-serif", fontsize=10]']
    for i, vertex in enumerate(vertices(tensor, names=names, spans=spans)):
        text = "\\n".join(_text(vertex)).replace('"', '\\"')
        style = "" if vertex.inputs else ", style=rounded"
        lines.append(f'  n{i} [label="{text}"{style}]')
        lines += [f"  n{j} -> n{i}" for j in vertex.inputs]
    return "\n".join([*lines, "}"])


def _text(vertex: Vertex) -> list[str]:
    return [
        vertex.title,
        f"{vertex.shape} {vertex.dtype}",
        *([vertex.rules] if vertex.rules else []),
    ]
