"""The walk backwards through what was recorded.

It takes the recorded nodes newest first. For every input of a node that needs a gradient it calls
that input's rule with the node's own, complete gradient g, fits the result to the input's shape and
dtype, and adds it to what the input has received from other ops:

    dL/d(input) = Σ over the ops that read it of rule(dL/d(output))             (the chain rule)

The same rules run on arrays, at NumPy's speed and leaving no trace, and under `create_graph=True`
on Tensors, where they are recorded like any other op and can be differentiated again.

Source: Griewank & Walther, Evaluating Derivatives (2nd ed.), chapter 3; Linnainmaa, BIT 16 (1976).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from tinybn import anomaly
from tinybn.fusion import FusedOp
from tinybn.modes import Mode, current_mode, reset_mode, set_mode
from tinybn.op import Node, primitive
from tinybn.summation import add_up
from tinybn.tensor import Tensor, wrap


class Contribution(NamedTuple):
    """What one op added to the gradient of one of its inputs, during a backward pass.

    node: the recorded op. input: the number of its input. source: the node that computed that
    input, or the leaf that it is. upstream: the gradient of the op's output. value: that times the
    local derivative, in the shape of the input. Both are arrays (Tensors under create_graph) that
    must not be changed.
    """

    node: Node
    input: int
    source: Any
    upstream: Any
    value: Any


def walk(
    seeds: dict[Any, Tensor],
    wanted: set[Any] | None,
    retain: bool,
    graph: bool,
    along: set[Any] | None = None,
) -> dict[Any, Tensor]:
    """The gradients of the leaves, or of `wanted`, by the chain rule back from the seeds.

    seeds: the gradients to start from, by node (or leaf). retain: free nothing on the way. graph:
    record the walk, whose gradients are Tensors then. along: go nowhere else (see `between`).
    """
    totals: dict[Any, Any] = dict(seeds) if graph else {key: g._data for key, g in seeds.items()}
    mode = current_mode()
    token = set_mode(Mode(graph, *mode[1:]))
    try:
        for node in newest_first(seeds, along):
            g = totals[node] if wanted and node in wanted else totals.pop(node)
            for i, source, value in contributions(node, g, along, mode.anomaly):
                if mode.report:
                    mode.report(Contribution(node, i, source, g, value))
                # Never +=, for others may hold that array.
                totals[source] = totals[source] + value if source in totals else value
            if not retain:
                node.release()
        if wanted is not None:
            totals = {key: totals[key] for key in wanted & totals.keys()}
        return _owned(totals, seeds)
    finally:
        reset_mode(token)


def newest_first(seeds: Iterable[Any], along: set[Any] | None) -> list[Node]:
    """The nodes that the seeds were computed from, each after all those that read its output.

    Whatever read a node's output is newer than the node, so the clock of tensor.py is a topological
    order.
    """
    found = {key for key in seeds if type(key) is Node}
    stack = list(found)
    while stack:
        node = stack.pop()
        if node.sources is None:
            raise _freed(node)
        for source in node.sources:
            if type(source) is Node and source not in found and (along is None or source in along):
                found.add(source)
                stack.append(source)
    return sorted(found, key=attrgetter("time"), reverse=True)


def contributions(
    node: Node, g: Any, along: set[Any] | None, anomalies: bool
) -> Iterator[tuple[int, Node | Tensor, Any]]:
    """What a node with the gradient g adds to those of its inputs: number, source and value."""
    sources, arrays, needed, time = node.sources, node.arrays, node.needed, node.time
    assert sources is not None
    assert arrays is not None
    if along is not None:
        needed = tuple(n and s in along for n, s in zip(needed, sources, strict=True))
    if current_mode().record:
        values = _recorded_gradients(node, g, needed)
    else:
        g = g._data if type(g) is Tensor else g  # of a rule that multiplies with one
        values = node.op.gradients(needed, g, node.output, arrays, node.static)
    for i, source in enumerate(sources):
        if source is None:
            continue
        if source._changed > time and arrays[i] is not None:
            raise _changed(node, i)
        if not needed[i]:
            continue
        value = values[i]
        if anomalies:
            anomaly.check_gradient(node.op.name, i, value, g, node.line)
        like = source if type(source) is Node else source._data
        if getattr(value, "shape", None) != like.shape or value.dtype != like.dtype:
            value = _fit(value, like, node, i)
        yield i, source, value


def _recorded_gradients(node: Node, g: Tensor, needed: Sequence[bool]) -> Sequence[Any]:
    """One gradient per input, as a Tensor: by the op's rules, or those of its composition."""
    inputs = node.inputs_as_tensors()
    if not isinstance(node.op, FusedOp):
        return node.op.gradients(needed, g, wrap(node.output, node), inputs, node.static)
    # A Tensor that is given twice is two inputs, with a gradient each.
    inputs = [_same(x) if isinstance(x, Tensor) else x for x in inputs]
    wanted = {x._node for x, need in zip(inputs, needed, strict=True) if need}
    seeds = {node.op.compose(inputs, node.static)._node: g}
    totals = walk(seeds, wanted, True, True, between(seeds, wanted)[0])
    return [totals[x._node] if need else None for x, need in zip(inputs, needed, strict=True)]


@primitive(lambda g: g)
def _same(xp: Any, a: Any) -> Any:
    return a


def _fit(value: Any, source: Any, node: Node, i: int) -> Any:
    """`value` in the dtype of the input, summed over the axes along which that was broadcast."""
    try:
        if value.shape != source.shape:
            value = _unbroadcast(value, source.shape)
        if value.dtype != source.dtype:
            if source.dtype == node.dtype and not isinstance(node.op, FusedOp):
                raise ValueError(f"its dtype is {value.dtype}")
            # The op itself changed the dtype, or computed in a wider one: this leads back.
            value = value.astype(source.dtype)
    except (AttributeError, ValueError) as error:
        raise TypeError(
            f"rule {i} of {node.op.name!r} gave no gradient for an input of {source.dtype} "
            f"{source.shape}: {error}"
        ) from None
    return value


def _unbroadcast(g: Any, shape: tuple[int, ...]) -> Any:
    new = g.ndim - len(shape)
    if new < 0 or any(m not in (1, n) for n, m in zip(g.shape[new:], shape, strict=True)):
        raise ValueError(f"its shape is {g.shape}")
    axes = [*range(new), *(new + i for i, m in enumerate(shape) if m != g.shape[new + i])]
    return add_up(g, tuple(axes), True).reshape(shape)


def between(seeds: dict[Any, Any], wanted: Iterable[Any]) -> tuple[set[Any], set[Any]]:
    """What lies between the seeds and something wanted, and all that a seed was computed from."""
    reached = set(seeds)
    stack = [key for key in seeds if isinstance(key, Node)]
    while stack:
        for source in stack.pop().sources or ():
            if source is not None and source not in reached:
                reached.add(source)
                if isinstance(source, Node):
                    stack.append(source)
    found = set(wanted)
    nodes = [key for key in reached if isinstance(key, Node)]
    for node in sorted(nodes, key=lambda node: node.time):
        # A node that was freed might lead there: keep it, so that the walk meets it and says so.
        if node.sources is None:
            found.add(node)
            reached.update(wanted)
        elif any(source is not None and source in found for source in node.sources):
            found.add(node)
    return found, reached


def _owned(totals: dict[Any, Any], seeds: dict[Any, Tensor]) -> dict[Any, Tensor]:
    """The finished gradients as Tensors; what is a seed, a view, or there twice, is copied."""
    taken = {id(seed._data) for seed in seeds.values()}
    owned = {}
    for key, g in totals.items():
        array = g._data if type(g) is Tensor else g
        if isinstance(array, np.generic):  # NumPy's operators return these in place of 0-d arrays
            array = np.asarray(array)
        elif id(array) in taken or getattr(array, "base", None) is not None:
            g, array = (g * 1, None) if type(g) is Tensor else (None, array.copy())
        taken.add(id(array))
        owned[key] = g if type(g) is Tensor else wrap(array)
    return owned


def _freed(node: Node) -> RuntimeError:
    return RuntimeError(
        f"a second backward pass through {node.op.name!r}, whose arrays were freed by the first: "
        "pass retain_graph=True to the first"
    )


def _changed(node: Node, i: int) -> RuntimeError:
    return RuntimeError(
        f"input {i} of {node.op.name!r} was changed in place after the op read it (by an "
        "optimizer step, load_state_dict, …), but its backward pass needs the old values: run "
        "backward before the change, or forward again after it"
    )
