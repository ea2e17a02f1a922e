"""The numbers in a picture: what the graph holds anyway, or what a block was watched computing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from tinybn.arrays import as_array
from tinybn.modes import watch
from tinybn.op import Node, Primitive
from tinybn.tensor import Tensor
from tinybn.walk import Contribution

FEW = 6
"""A picture shows the numbers of arrays that have no more than this."""


class Seen:
    """What `watching` saw, by node or leaf. Arrays with more than `FEW` numbers are not kept."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.gradients: dict[Any, Any] = {}
        self._sources: dict[Node, tuple[Any, ...]] = {}

    def sources(self, node: Node) -> tuple[Any, ...] | None:
        """Where the inputs of a node came from; None if its graph was freed, and nobody watched."""
        return self._sources.get(node, node.sources)

    def note_output(self, node: Node, array: Any) -> None:
        self._sources[node] = node.sources or ()
        if shown(array):
            self.values[node] = array

    def note_contribution(self, c: Contribution) -> None:
        if shown(c.value):
            old = self.gradients.get(c.source)
            value = _raw(c.value)
            self.gradients[c.source] = value if old is None else old + value
        if c.node not in self.gradients and shown(c.upstream):  # where the pass began
            self.gradients[c.node] = _raw(c.upstream)


Values: TypeAlias = Seen | bool


@contextlib.contextmanager
def watching() -> Iterator[Seen]:
    """Note what ops and backward passes compute in this block, to draw it.

        x = tb.tensor([[2.0], [10.0], [6.0]], requires_grad=True)
        with tb.graph.watching() as seen:
            y = tb.ops.batch_norm(x)
            y.backward([[1.0], [0.0], [0.0]])
        print(tb.graph.tree(y, values=seen))

    A graph that was watched can also be drawn after a backward pass has freed it. Gradients of
    several backward passes add up, as in `.grad`. Only one `watch` is active at a time.
    """
    seen = Seen()
    with watch(seen.note_contribution, seen.note_output):
        yield seen


def held(tensor: Tensor, nodes: Iterable[Node], seen: Seen) -> Seen:
    """What the graph of `tensor` holds anyway: its leaves, and what gradient rules will read."""
    found = Seen()

    def note(key: Any, value: Any, gradient: Any = None) -> None:
        if shown(value):
            found.values[key] = value
        if shown(gradient):
            found.gradients[key] = gradient

    for node in nodes:
        if isinstance(node.op, Primitive) and node.output is not None:
            note(node, node.output)
        sources = seen.sources(node) or ()
        for source, array in zip(sources, node.arrays or [None] * len(sources), strict=True):
            if isinstance(source, Tensor):
                note(source, source.data, source._grad)
            elif source is not None and array is not None:
                note(source, array)
    note(tensor._node or tensor, tensor.data, tensor._grad)
    return found


def shown(value: Any) -> bool:
    """Whether a picture shows the numbers: they are few, and no GPU has to be waited for."""
    return isinstance(_raw(value), np.ndarray) and value.size <= FEW


def text(value: Any) -> str:
    """The numbers in one line, or ""."""
    return _listed(as_array(_raw(value))) if shown(value) else ""


def _listed(array: Any) -> str:
    if array.ndim == 0:
        return f"{array.item() + 0:.4g}"  # + 0: no -0
    return f"[{', '.join(map(_listed, map(np.asarray, array)))}]"


def _raw(value: Any) -> Any:
    return value.data if isinstance(value, Tensor) else value
