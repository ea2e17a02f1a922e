"""Reverse-mode automatic differentiation: the walk backwards through what was recorded.

A backward pass takes the recorded nodes newest first. For every input of a node that needs a
gradient it calls that input's rule with the node's own, complete gradient g, fits the result to the
input's shape and dtype, and adds it to what the input has received from other ops:

    dL/d(input) = Σ over the ops that read it of rule(dL/d(output))             (the chain rule)

The same rules run on arrays, at NumPy's speed and leaving no trace, and under `create_graph=True`
on Tensors, where they are recorded like any other op and can be differentiated again.

Source: Griewank & Walther, Evaluating Derivatives (2nd ed.), chapter 3; Linnainmaa, BIT 16 (1976).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import numpy as np

from tinybn import anomaly
from tinybn.backend import BackendMismatchError
from tinybn.fusion import FusedOp, fused, use_fused
from tinybn.recording import (
    Mode,
    Node,
    current_mode,
    in_mode,
    module_of,
    primitive,
    reset_mode,
    set_mode,
)
from tinybn.summation import add_up
from tinybn.tensor import Tensor, wrap

__all__ = [
    "backward",
    "detect_anomaly",
    "fused",
    "grad",
    "no_grad",
    "primitive",
    "use_fused",
    "watch",
]


def no_grad() -> AbstractContextManager[None]:
    """Ops of this block (or of a function that it decorates) record nothing, in this thread."""
    return in_mode(record=False)


def detect_anomaly() -> AbstractContextManager[None]:
    """Stop at the first NaN or inf, forward or backward, with the op and the line that called it.

    Raises FloatingPointError. It looks at every output and gradient, so it is slow: for debugging.
    """
    return in_mode(anomaly=True)


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


def backward(
    tensor: Tensor,
    gradient: Any = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> None:
    """Add the gradient of `tensor` to the `.grad` of every leaf that it was computed from.

    gradient: dL/d(tensor), of its shape; may be left out for a scalar, where it is 1.
    retain_graph: keep what was recorded for another pass; otherwise it is freed on the way.
    create_graph: record the gradient's own computation, for derivatives of higher order.
    """
    seeds = {_key(tensor, "backward: the Tensor"): _seed(tensor, gradient)}
    for leaf, g in _walk(seeds, None, retain_graph or create_graph, create_graph).items():
        if leaf.grad is None:
            leaf.grad = g
        else:
            with in_mode(record=create_graph):
                leaf.grad = leaf.grad + g


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """The gradients of Σ grad_outputs · outputs, one per input, as a tuple; no `.grad` is touched.

    outputs, inputs: a Tensor or several; an input may be a leaf or anything that the outputs were
        computed from. Only the rules between the two are run.
    grad_outputs: per output a gradient of its shape, or None where the output is a scalar.
    retain_graph: by default as `create_graph`, which see at `backward`.
    allow_unused: return None for an input that no output depends on, instead of raising.
    """
    if isinstance(outputs, Tensor):  # then grad_outputs is its gradient, or that in a list
        outputs = [outputs]
        listed = isinstance(grad_outputs, list | tuple) and len(grad_outputs) == 1
        if not (listed and (grad_outputs[0] is None or hasattr(grad_outputs[0], "shape"))):
            grad_outputs = [grad_outputs]
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if grad_outputs is None:
        grad_outputs = [None] * len(outputs)
    if not isinstance(grad_outputs, list | tuple):
        raise TypeError(f"grad: expected a list of grad_outputs, got {type(grad_outputs).__name__}")
    if len(grad_outputs) != len(outputs):
        raise ValueError(
            f"grad: expected {len(outputs)} grad_outputs, one per output, got {len(grad_outputs)}"
        )
    wanted = [_key(x, f"grad: input {i}") for i, x in enumerate(inputs)]
    seeds: dict[Any, Tensor] = {}
    for i, (y, gradient) in enumerate(zip(outputs, grad_outputs, strict=True)):
        key, seed = _key(y, f"grad: output {i}"), _seed(y, gradient)
        seeds[key] = seeds[key] + seed if key in seeds else seed
    retain = create_graph if retain_graph is None else retain_graph or create_graph
    between, reached = _between(seeds, wanted)
    for i, key in enumerate(wanted):
        if key not in reached and not allow_unused:
            raise ValueError(
                f"grad: no output depends on input {i} (shape {inputs[i].shape}): "
                "pass allow_unused=True to get None for it"
            )
    totals = _walk(seeds, set(wanted), retain, create_graph, between)
    return tuple(totals.get(key) for key in wanted)


def _walk(
    seeds: dict[Any, Tensor],
    wanted: set[Any] | None,
    retain: bool,
    graph: bool,
    between: set[Any] | None = None,
) -> dict[Any, Tensor]:
    """The chain rule from the seeds back to the leaves, or to `wanted` along `between`: gradients.

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
            sources, arrays, output, op = node.sources, node.arrays, node.output, node.op
            if sources is None or arrays is None:
                raise _freed(node)
            inputs, rules, shares = arrays, op.rules, None
            if isinstance(op, FusedOp):
                needed = [
                    source is not None
                    and source._tracked
                    and (between is None or source in between)
                    for source in sources
                ]
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
                if not (source._tracked and (between is None or source in between)):
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


def _recorded_gradients(op: FusedOp, node: Node, g: Tensor, needed: list[bool]) -> list[Any]:
    """The gradients of a fused op's composition, recorded anew; None for those not needed."""
    # A Tensor that is given twice is two inputs, with a gradient each.
    inputs = [_same(x) if isinstance(x, Tensor) else x for x in node.inputs_as_tensors()]
    wanted = [x for x, need in zip(inputs, needed, strict=True) if need]
    recorded = iter(grad(op.compose(inputs, node.static), wanted, g, create_graph=True))
    return [next(recorded) if need else None for need in needed]


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


def _between(seeds: dict[Any, Any], wanted: list[Any]) -> tuple[set[Any], set[Any]]:
    """What lies between the seeds and something wanted, and all that a seed was computed from."""
    reached = set(seeds)
    stack = [key for key in seeds if isinstance(key, Node)]
    while stack:
        for source in stack.pop().sources or ():
            if source is not None and source not in reached:
                reached.add(source)
                if isinstance(source, Node):
                    stack.append(source)
    between = set(wanted)
    nodes = [key for key in reached if isinstance(key, Node)]
    for node in sorted(nodes, key=lambda node: node.time):
        # A node that was freed might lead there: keep it, so that the walk meets it and says so.
        if node.sources is None:
            between.add(node)
            reached.update(wanted)
        elif any(source is not None and source in between for source in node.sources):
            between.add(node)
    return between, reached


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


def _key(tensor: Tensor, what: str) -> Node | Tensor:
    """What stands for `tensor` in a walk: the node that made it, or the leaf itself."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{what} must be a Tensor, got {type(tensor).__name__}")
    if not tensor._tracked:
        raise ValueError(
            f"{what} (shape {tensor.shape}) does not require grad: make the Tensors that it is "
            "computed from with requires_grad=True, outside no_grad()"
        )
    return tensor._node or tensor


def _seed(tensor: Tensor, gradient: Any) -> Tensor:
    """The gradient to start from: `gradient`, checked, or 1 for a scalar."""
    if gradient is None:
        if tensor.shape != ():
            raise ValueError(
                f"only a scalar can do without a gradient: expected one of shape {tensor.shape}, "
                "got none; pass it, or reduce the Tensor first, for example with .sum()"
            )
        return wrap(module_of(tensor).ones((), dtype=tensor.dtype))
    if not isinstance(gradient, Tensor):
        gradient = Tensor(gradient, backend=tensor.backend)
    if gradient.shape != tensor.shape:
        raise ValueError(
            f"expected a gradient of shape {tensor.shape}, as its Tensor, got {gradient.shape}"
        )
    if gradient.backend != tensor.backend:
        raise BackendMismatchError(
            f"the gradient is on {gradient.backend}, its Tensor on {tensor.backend}: "
            f"use .to({tensor.backend!r})"
        )
    return gradient if gradient.dtype == tensor.dtype else gradient.astype(tensor.dtype)
