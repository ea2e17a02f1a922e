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

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import numpy as np

from tinybn import anomaly
from tinybn.fusion import FusedOp
from tinybn.recording import Mode, Node, current_mode, in_mode, primitive, reset_mode, set_mode
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


def watch(report: Callable[[Contribution], None]) -> AbstractContextManager[None]:
    """Backward passes of this block, in this thread, tell `report` each `Contribution` they add."""
    return in_mode(watch=report)


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

    Nodes wait in a heap, newest first. Whatever read a node's output is newer than the node, so its
    gradient is complete when its turn comes: the clock of tensor.py is the topological order.
    """
    totals: dict[Any, Any] = dict(seeds) if graph else {key: g._data for key, g in seeds.items()}
    borrowed = set(seeds)  # whose gradient is another's, too
    queue: list[Any] = [(-key.time, key) for key in totals if isinstance(key, Node)]
    heapify(queue)
    _, closed_forms, anomalies, report = current_mode()
    token = set_mode(Mode(graph, closed_forms, anomalies, report))
    try:
        while queue:
            node = heappop(queue)[1]
            g = totals[node] if wanted and node in wanted else totals.pop(node)
            op, sources, arrays, output = node.op, node.sources, node.arrays, node.output
            if sources is None or arrays is None:
                raise _freed(node)
            needed = node.needed if along is None else _along(node, along)
            inputs, rules, shares = arrays, op.rules, None
            if isinstance(op, FusedOp):
                if graph:
                    shares = _recorded_gradients(op, node, g, needed)
                else:
                    if isinstance(g, Tensor):  # of a rule that multiplies with one
                        g = g._data
                    shares = op.gradients(needed, g, output, arrays, node.static)
            elif graph:
                output, inputs = wrap(output, node), node.inputs_as_tensors()
            for i, source in enumerate(sources):
                if source is None:
                    continue
                if source._changed > node.time and arrays[i] is not None:
                    raise _changed(node, i)
                if not needed[i]:
                    continue
                share = shares[i] if shares else rules[i](g, output, *inputs, **node.static)
                leaf = isinstance(source, Tensor)
                like = source._data if leaf else source
                if anomalies:
                    anomaly.check_gradient(op.name, i, share, g, node.line)
                if getattr(share, "shape", None) != like.shape or share.dtype != like.dtype:
                    share = _fit(share, source, node, i)
                if report:
                    report(Contribution(node, i, source, g, share))
                if source in totals:
                    totals[source] = totals[source] + share  # never +=: others may hold it
                    borrowed.discard(source)
                    continue
                totals[source] = share
                if not leaf:
                    heappush(queue, (-source.time, source))
                if share is g:
                    borrowed.add(source)
            if not retain:
                node.release()
        found = totals.keys() if wanted is None else wanted & totals.keys()
        return {key: _owned(totals[key], key in borrowed) for key in found}
    finally:
        reset_mode(token)


def _along(node: Node, along: set[Any]) -> list[bool]:
    """Which inputs need a gradient, if the walk goes nowhere else."""
    assert node.sources is not None
    return [n and source in along for n, source in zip(node.needed, node.sources, strict=True)]


def _recorded_gradients(op: FusedOp, node: Node, g: Tensor, needed: Sequence[bool]) -> list[Any]:
    """The gradients of a fused op's composition, recorded anew; None for those not needed."""
    # A Tensor that is given twice is two inputs, with a gradient each.
    inputs = [_same(x) if isinstance(x, Tensor) else x for x in node.inputs_as_tensors()]
    wanted = {x._node for x, need in zip(inputs, needed, strict=True) if need}
    seeds = {op.compose(inputs, node.static)._node: g}
    totals = walk(seeds, wanted, True, True, between(seeds, wanted)[0])
    return [totals[x._node] if need else None for x, need in zip(inputs, needed, strict=True)]


@primitive(lambda g, y, a: g)
def _same(xp: Any, a: Any) -> Any:
    return a


def _fit(share: Any, source: Node | Tensor, node: Node, i: int) -> Any:
    """`share` in the dtype of the input, summed over the axes along which that was broadcast."""
    try:
        if share.shape != source.shape:
            share = _unbroadcast(share, source.shape)
        if share.dtype != source.dtype:
            if source.dtype == node.dtype and not isinstance(node.op, FusedOp):
                raise ValueError(f"its dtype is {share.dtype}")
            # The op itself changed the dtype, or computed in a wider one: this leads back.
            share = share.astype(source.dtype)
    except (AttributeError, ValueError) as error:
        raise TypeError(
            f"rule {i} of {node.op.name!r} gave no gradient for an input of {source.dtype} "
            f"{source.shape}: {error}"
        ) from error
    return share


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


def _owned(total: Any, borrowed: bool) -> Tensor:
    """The finished gradient as a Tensor that shares its memory with nothing."""
    if isinstance(total, Tensor):
        return total * 1 if borrowed or total._data.base is not None else total
    if isinstance(total, np.generic):
        return wrap(np.asarray(total))
    return wrap(total.copy() if borrowed or total.base is not None else total)


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
