"""The walk back through what was recorded.

It visits the recorded nodes newest first. By the time it reaches a node, the gradient g of the
node's output is complete, because every op that read this output is newer. For each input that
needs a gradient, it calls the rule of that input with g, and adds the result, a contribution, to
those of other ops:

    dL/d(input) = Σ over the ops that read it of rule(dL/d(output))             (the chain rule)

The same rules run on arrays, at NumPy's speed, and under `create_graph=True` on Tensors, where
every op of the walk is recorded like any other and can be differentiated again.

Source: Griewank & Walther, Evaluating Derivatives (2nd ed.), chapter 3; Linnainmaa, BIT 16 (1976).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from tinybn import anomaly
from tinybn.arrays import as_array
from tinybn.fusion import FusedOp
from tinybn.modes import Block, Mode, current_mode, set_mode
from tinybn.op import Node, primitive
from tinybn.summation import add_up
from tinybn.tensor import Tensor, wrap


class Contribution(NamedTuple):
    """What one op adds to the gradient of one of its inputs.

    Attributes:
        node: the recorded op.
        input: the position of the input.
        source: the node that computed this input, or the leaf itself.
        upstream: the gradient of the op's output.
        value: `upstream` times the local derivative, in the shape of the input. Both are arrays
            (Tensors under create_graph) and must not be changed.
    """

    node: Node
    input: int
    source: Any
    upstream: Any
    value: Any


def walk(
    seeds: dict[Any, Tensor],
    nodes: list[Node],
    retain: bool,
    graph: bool,
    wanted: set[Any] | None = None,
) -> dict[Any, Tensor]:
    """The gradients of the leaves, or of what is `wanted`, by the chain rule.

    Args:
        seeds: the gradients to start from, by node or leaf.
        nodes: the nodes that the seeds were computed from, newest first.
        retain: keep what the nodes hold; otherwise each is freed once it has been visited.
        graph: record the walk itself; the gradients are then Tensors with a history.
        wanted: the nodes and leaves whose gradients to return; None means every leaf.
    """
    totals: dict[Any, Any] = dict(seeds) if graph else {key: g._data for key, g in seeds.items()}
    goal = None
    if wanted is not None:
        nodes, goal = _leading_to(wanted, nodes)
    before = current_mode()
    mode = before.within(Block(record=graph))
    try:  # faster than `with in_mode`; no interrupt fits between here and set_mode, which is C
        set_mode(mode)
        for node in nodes:
            g = totals[node] if wanted and node in wanted else totals.pop(node)
            for i, source, value in contributions(node, g, goal, mode):
                if mode.report:
                    mode.report(Contribution(node, i, source, g, value))
                # Never +=: something else may hold this array.
                totals[source] = totals[source] + value if source in totals else value
            if not retain:
                node.release()
        if wanted is not None:
            totals = {key: totals[key] for key in wanted & totals.keys()}
        return _owned(totals, seeds)
    finally:
        set_mode(before)


def newest_first(seeds: Iterable[Any], wanted: Collection[Any] = ()) -> list[Node]:
    """The nodes that the seeds were computed from, each before those that it reads.

    A node is older than whatever reads its output, so the clock of tensor.py gives a topological
    order. The only `wanted` node may have been freed: nothing behind it is needed.
    """
    alone = wanted if len(wanted) == 1 else ()
    found = {key for key in seeds if type(key) is Node}
    stack = list(found)
    while stack:
        node = stack.pop()
        if node.sources is None and node not in alone:
            raise RuntimeError(
                f"a second backward pass through {node.op.name!r}, whose arrays were freed by the "
                "first: pass retain_graph=True to the first"
            )
        for source in node.sources or ():
            if type(source) is Node and source not in found:
                found.add(source)
                stack.append(source)
    return sorted(found, key=attrgetter("time"), reverse=True)


def _leading_to(wanted: set[Any], nodes: list[Node]) -> tuple[list[Node], set[Any]]:
    """The nodes that lead from the seeds to something wanted, newest first.

    Also returns the goal: the set of these nodes and everything wanted.
    """
    way: list[Node] = []
    goal = set(wanted)
    for node in reversed(nodes):
        if any(source in goal for source in node.sources or ()):
            way.append(node)
            goal.add(node)
    return way[::-1], goal


def contributions(
    node: Node, g: Any, goal: set[Any] | None, mode: Mode
) -> Iterator[tuple[int, Node | Tensor, Any]]:
    """The contributions of a node whose output has the gradient g: (position, source, value) each.

    goal: the sources that need a contribution; None means all that require grad.
    """
    sources, arrays, needed = node.sources, node.arrays, node.needed
    assert sources is not None
    assert arrays is not None
    if goal is not None:
        needed = tuple(need and s in goal for need, s in zip(needed, sources, strict=True))
    if node.output is not None and _has_changed(node, node.time):
        raise _stale(f"the output of {node.op.name!r}")
    if mode.record:
        values = _recorded_gradients(node, g, needed)
    else:
        g = g._data if type(g) is Tensor else g  # a rule may have multiplied by a Tensor
        values = node.op.gradients(needed, g, node.output, arrays, node.static)
    for i, source in enumerate(sources):
        if source is None:
            continue
        if arrays[i] is not None and _has_changed(source, node.time):
            raise _stale(f"input {i} of {node.op.name!r}")
        if not needed[i]:
            continue
        value = values[i]
        if mode.anomaly:
            anomaly.check_gradient(node.op.name, i, value, g, node.line)
        like = source if type(source) is Node else source._data
        if getattr(value, "shape", None) != like.shape or value.dtype != like.dtype:
            value = _fit(value, like, node, i)
        yield i, source, value


def _has_changed(source: Node | Tensor, time: int) -> bool:
    return source._changed is not None and source._changed[0] > time


def _stale(what: str) -> RuntimeError:
    return RuntimeError(
        f"{what} was changed in place after the op read it (by an optimizer step, "
        "load_state_dict, …), but its backward pass needs the old values: run backward before the "
        "change, or forward again after it"
    )


def _recorded_gradients(node: Node, g: Tensor, needed: Sequence[bool]) -> Sequence[Any]:
    """One gradient per input, as a Tensor. A fused op uses the rules of its composition."""
    inputs = [
        wrap(array, source) if isinstance(source, Node) else array if source is None else source
        for source, array in zip(node.sources or (), node.arrays or (), strict=True)
    ]
    if not isinstance(node.op, FusedOp):
        return node.op.gradients(needed, g, wrap(node.output, node), inputs, node.static)
    # The same Tensor given twice is two inputs, each with its own gradient.
    inputs = [_same(x) if isinstance(x, Tensor) else x for x in inputs]
    wanted = {x._node for x, need in zip(inputs, needed, strict=True) if need}
    seeds = {node.op.compose(inputs, node.static)._node: g}
    totals = walk(seeds, newest_first(seeds), True, True, wanted)
    return [totals[x._node] if need else None for x, need in zip(inputs, needed, strict=True)]


@primitive(lambda g: g)
def _same(xp: Any, a: Any) -> Any:
    """a, under a node of its own."""
    return a


def _fit(value: Any, like: Any, node: Node, i: int) -> Any:
    """`value` in the dtype of input i, summed over the axes along which the input was broadcast."""
    try:
        if value.shape != like.shape:
            value = _unbroadcast(value, like.shape)
        if value.dtype != like.dtype:
            if like.dtype == node.dtype and not isinstance(node.op, FusedOp):
                raise ValueError(f"its dtype is {value.dtype}")
            value = value.astype(like.dtype)  # from the dtype that the op computed in
    except (AttributeError, ValueError) as error:
        raise TypeError(
            f"rule {i} of {node.op.name!r} gave no gradient for an input of {like.dtype} "
            f"{like.shape}: {error}"
        ) from None
    return value


def _unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    new = g.ndim - len(shape)
    if new < 0 or any(m not in (1, n) for n, m in zip(g.shape[new:], shape, strict=True)):
        raise ValueError(f"its shape is {g.shape}")
    axes = [*range(new), *(new + i for i, m in enumerate(shape) if m != g.shape[new + i])]
    return add_up(g, tuple(axes), True).reshape(shape)


def _owned(totals: dict[Any, Any], seeds: dict[Any, Tensor]) -> dict[Any, Tensor]:
    """The finished gradients, as Tensors that share no memory with the seeds or each other."""
    taken = {id(seed._data) for seed in seeds.values()}
    owned = {}
    for key, g in totals.items():
        array = as_array(g._data if type(g) is Tensor else g)
        if id(array) in taken or getattr(array, "base", None) is not None:
            g, array = (g * 1, None) if type(g) is Tensor else (None, array.copy())
        taken.add(id(array))
        owned[key] = g if type(g) is Tensor else wrap(array)
    return owned
