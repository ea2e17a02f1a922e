"""The history of a Tensor as boxes, to be drawn: ops, leaves, and layers as one box each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tinybn.graph.values import Seen, Values, held, text
from tinybn.nn.module import Module
from tinybn.op import Node, Op, Primitive
from tinybn.tensor import Tensor, tick

PACKAGE = Path(__file__).parents[2]


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
        value, gradient: the numbers in the output and in its gradient, or "" if they are many or
            nobody has kept them.
    """

    title: str
    array: str
    rules: str
    inputs: list[int]
    value: str = ""
    gradient: str = ""


def vertices(
    tensor: Tensor, *, names: Names = None, spans: Spans = (), values: Values = True
) -> list[Vertex]:
    """The history of a Tensor as boxes: leaves first, each op after its inputs, the Tensor last.

    Args:
        names: the names of leaves, such as `dict(model.named_parameters())`.
        spans: what `layers` noted.
        values: what `watching` saw; True for the numbers that the graph and its leaves hold anyway;
            False for none.

    Raises:
        RuntimeError: a backward pass has freed the graph.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected a Tensor with a history, got {type(tensor).__name__}")
    if not isinstance(values, Seen | bool):
        raise TypeError(
            f"expected values as True, False or what `watching` saw, got {type(values).__name__}"
        )
    end = tensor._node or tensor
    inside: dict[Any, list[Node]] = {}  # by box, oldest first
    inputs: dict[Any, dict[Any, None]] = {} if isinstance(end, Node) else {end: {}}
    seen = values if isinstance(values, Seen) else Seen()
    nodes = _history(end, seen)
    for node in nodes:
        box = _box(node, spans)
        inside.setdefault(box, []).append(node)
        own = box.own if isinstance(box, Span) else ()
        for source in seen.sources(node) or ():
            if source is None or source in own or (part := _box(source, spans)) is box:
                continue
            inputs.setdefault(part, {})  # a leaf, which has none
            inputs.setdefault(box, {})[part] = None
        inputs.setdefault(box, {})
    order = sorted(inputs, key=lambda box: not isinstance(box, Tensor))
    number = {box: i for i, box in enumerate(order)}
    called = {t: name for name, t in (names or {}).items()}
    known = [seen, held(tensor, nodes, seen)] if values is not False else []
    boxes = []
    for box in order:
        last = box if isinstance(box, Tensor) else inside[box][-1]
        title, rules = _title(box, inside.get(box, []), called)
        boxes.append(
            Vertex(
                _printable(title),
                f"{last.shape} {last.dtype}",
                _printable(rules),
                [number[part] for part in inputs[box]],
                text(next((k.values[last] for k in known if last in k.values), None)),
                text(next((k.gradients[last] for k in known if last in k.gradients), None)),
            )
        )
    return boxes


def _history(end: Node | Tensor, seen: Seen) -> list[Node]:
    """The nodes that `end` was computed from, oldest first, and `end` itself."""
    found = {end} if isinstance(end, Node) else set()
    stack = list(found)
    while stack:
        node = stack.pop()
        sources = seen.sources(node)
        if sources is None:
            raise RuntimeError(
                f"the graph behind {node.op.name!r} was freed by a backward pass: draw it before, "
                "pass retain_graph=True, or watch it (tb.graph.watching)"
            )
        new = {source for source in sources if isinstance(source, Node)} - found
        found |= new
        stack += new
    return sorted(found, key=attrgetter("time"))


def _box(source: Node | Tensor, spans: Spans) -> Any:
    """The box of a node: the span in which it was recorded, or the node itself."""
    if isinstance(source, Tensor):
        return source
    return next((s for s in spans if s.start < source.time < s.end), source)


def _title(box: Any, nodes: list[Node], called: dict[Tensor, str]) -> tuple[str, str]:
    if isinstance(box, Tensor):
        return called.get(box, "leaf" if box.requires_grad else "constant"), ""
    if isinstance(box, Span):
        return box.label, f"{len(nodes)} op{'s' if len(nodes) > 1 else ''}"
    return box.op.name, _where(box.op)


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
