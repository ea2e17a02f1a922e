"""Pictures of how a Tensor was computed: a text tree, DOT and Mermaid.

    y = tb.ops.batch_norm(x, gamma)                      # with tb.use_fused(False), all its parts
    print(tb.graph.tree(y, names={"x": x, "gamma": gamma}))

Every op is labelled with the file and lines of its gradient rules. Given the spans that `layers`
notes, all ops inside a layer are drawn as one box:

    with tb.graph.layers(model) as spans:
        y = model(x)
    print(tb.graph.mermaid(y, spans=spans))
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tinybn.nn.module import Module
from tinybn.op import Node, Op, Primitive
from tinybn.tensor import Tensor, tick

DEEPEST = 30
"""So many levels of a tree are indented; what lies deeper starts again at the left."""

PACKAGE = Path(__file__).parent.parent


class Span(NamedTuple):
    """A call of a layer.

    Attributes:
        start: the tick of the clock (see tensor.py) before the call.
        end: the tick after the call.
        label: the layer's repr.
        own: the layer's parameters, which are not drawn.
    """

    start: int
    end: int
    label: str
    own: frozenset[Tensor]


Names: TypeAlias = Mapping[str, Tensor] | None
Spans: TypeAlias = Sequence[Span]


MERMAID = str.maketrans({c: f"#{ord(c)};" for c in '#"<>&`\\'})
DOT = str.maketrans({c: f"\\{c}" for c in '"\\'})
"""How characters are written that would mean something there."""


@contextlib.contextmanager
def layers(model: Module) -> Iterator[list[Span]]:
    """Note when each layer of `model` (each Module without children) runs inside this block."""
    spans: list[Span] = []
    inner = {  # a layer that is used twice is one layer
        module: vars(module).get("forward")
        for module in model.modules()
        if not any(module.children())
    }

    def noting(layer: Module, forward: Callable[..., Tensor]) -> Any:
        def run(*args: Any, **keywords: Any) -> Tensor:
            start = tick()
            y = forward(*args, **keywords)
            spans.append(Span(start, tick(), repr(layer), frozenset(layer.parameters())))
            return y

        return run

    for layer in inner:
        layer.forward = noting(layer, layer.forward)  # type: ignore[method-assign]
    try:
        yield spans
    finally:
        for layer, own in inner.items():
            del layer.forward
            if own:
                layer.forward = own  # type: ignore[method-assign]


class Vertex(NamedTuple):
    """A box of a picture: an op, a layer or a leaf.

    Attributes:
        title: the name of the op or leaf, or the layer's repr.
        array: the shape and dtype of the output.
        rules: where the op's gradient rules are; for a layer, how many ops it has.
        inputs: the numbers of the boxes that this one reads.
    """

    title: str
    array: str
    rules: str
    inputs: list[int]


def vertices(tensor: Tensor, *, names: Names = None, spans: Spans = ()) -> list[Vertex]:
    """The history of a Tensor as boxes: leaves first, each op after its inputs, the Tensor last.

    Args:
        names: the names of leaves, such as `dict(model.named_parameters())`.
        spans: what `layers` noted.

    Raises:
        RuntimeError: a backward pass has freed the graph.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected a Tensor with a history, got {type(tensor).__name__}")
    end = tensor._node or tensor
    inside: dict[Any, list[Node]] = {}  # by box, oldest first
    inputs: dict[Any, dict[Any, None]] = {} if isinstance(end, Node) else {end: {}}
    for node in _history(end):
        box = _box(node, spans)
        inside.setdefault(box, []).append(node)
        own = box.own if isinstance(box, Span) else ()
        for source in node.sources or ():
            if source is None or source in own or (part := _box(source, spans)) is box:
                continue
            inputs.setdefault(part, {})  # a leaf, which has none
            inputs.setdefault(box, {})[part] = None
        inputs.setdefault(box, {})
    order = sorted(inputs, key=lambda box: not isinstance(box, Tensor))
    number = {box: i for i, box in enumerate(order)}
    called = {t: name for name, t in (names or {}).items()}
    return [
        _vertex(box, inside.get(box, []), [number[part] for part in inputs[box]], called)
        for box in order
    ]


def _history(end: Node | Tensor) -> list[Node]:
    """The nodes that `end` was computed from, oldest first, and `end` itself."""
    found = {end} if isinstance(end, Node) else set()
    stack = list(found)
    while stack:
        node = stack.pop()
        if node.sources is None:
            raise RuntimeError(
                f"the graph behind {node.op.name!r} was freed by a backward pass: draw it before, "
                "or pass retain_graph=True"
            )
        new = {source for source in node.sources if isinstance(source, Node)} - found
        found |= new
        stack += new
    return sorted(found, key=attrgetter("time"))


def _box(source: Node | Tensor, spans: Spans) -> Any:
    """The box of a node: the span in which it was recorded, or the node itself."""
    if isinstance(source, Tensor):
        return source
    return next((s for s in spans if s.start < source.time < s.end), source)


def _vertex(box: Any, nodes: list[Node], inputs: list[int], called: dict[Tensor, str]) -> Vertex:
    last = box if isinstance(box, Tensor) else nodes[-1]
    if isinstance(box, Tensor):
        title, rules = called.get(box, "leaf" if box.requires_grad else "constant"), ""
    elif isinstance(box, Span):
        title, rules = box.label, f"{len(nodes)} op{'s' if len(nodes) > 1 else ''}"
    else:
        title, rules = box.op.name, _where(box.op)
    return Vertex(_printable(title), f"{last.shape} {last.dtype}", _printable(rules), inputs)


def _printable(text: str) -> str:
    """A user's text in one line, without sequences that a terminal would obey."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


def _where(op: Op) -> str:
    """The file and lines of an op's gradient rules: "tinybn/ops/elementwise.py:45, 46"."""
    rules = op.rules if isinstance(op, Primitive) else [getattr(op, "closed_form", None)]
    places: dict[str, dict[str, None]] = {}
    for rule in rules:
        if code := getattr(rule, "__code__", None):
            path = Path(code.co_filename)
            shown = path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else Path(path.name)
            places.setdefault(shown.as_posix(), {})[str(code.co_firstlineno)] = None
    return "; ".join(f"{file}:{', '.join(lines)}" for file, lines in places.items())


def tree(tensor: Tensor, *, names: Names = None, spans: Spans = ()) -> str:
    """The history of a Tensor as indented text, from the output back to the leaves.

    What is read more than once gets a number, and is shown in full the first time. So does what
    lies too deep to be indented: it is shown below, at the left. Arguments: see
    `vertices`.
    """
    found = vertices(tensor, names=names, spans=spans)
    readers = Counter(i for vertex in found for i in vertex.inputs)
    lines: list[tuple[str, str]] = []
    numbers: dict[int, int] = {}
    shown: set[int] = set()
    below = deque([len(found) - 1])  # the boxes that start at the left
    while below:
        start = below.popleft()
        stack = [(start, "", "")] if start not in shown else []  # a box, what leads to it and on
        while stack:
            i, lead, indent = stack.pop()
            title, array, note, inputs = found[i]
            again = bool(inputs) and i in shown
            later = bool(inputs) and len(indent) >= 3 * DEEPEST
            if inputs and (readers[i] > 1 or later or i in numbers):
                title = f"#{numbers.setdefault(i, len(numbers) + 1)} {title}"
            if again or later:
                note = "(see above)" if again else "(see below)"
                below += [] if again else [i]
                inputs = []
            else:
                shown.add(i)
            lines.append((f"{lead}{title} {array}", note))
            for k, j in reversed([*enumerate(inputs, 1)]):
                branch, rest = ("└─ ", "   ") if k == len(inputs) else ("├─ ", "│  ")
                stack.append((j, indent + branch, indent + rest))
    width = max(len(left) for left, _ in lines)
    return "\n".join(f"{left:<{width}}   {right}".rstrip() for left, right in lines)


def mermaid(tensor: Tensor, *, names: Names = None, spans: Spans = ()) -> str:
    """The history of a Tensor as a Mermaid flowchart. Arguments: see `vertices`."""
    lines = ["flowchart TD"]
    for i, vertex in enumerate(vertices(tensor, names=names, spans=spans)):
        text = "<br>".join(part.translate(MERMAID) for part in vertex[:3] if part)
        lines.append(f'  n{i}["{text}"]' if vertex.inputs else f'  n{i}(["{text}"])')
        lines += [f"  n{j} --> n{i}" for j in vertex.inputs]
    return "\n".join(lines)


def dot(tensor: Tensor, *, names: Names = None, spans: Spans = ()) -> str:
    """The history of a Tensor in Graphviz' DOT language. Arguments: see `vertices`."""
    lines = ["digraph {", '  node [shape=box, fontname="sans-serif", fontsize=10]']
    for i, vertex in enumerate(vertices(tensor, names=names, spans=spans)):
        text = "\\n".join(part.translate(DOT) for part in vertex[:3] if part)
        style = "" if vertex.inputs else ", style=rounded"
        lines.append(f'  n{i} [label="{text}"{style}]')
        lines += [f"  n{j} -> n{i}" for j in vertex.inputs]
    return "\n".join([*lines, "}"])
