"""Reverse-mode automatic differentiation: `backward` and `grad`; walk.py has the chain rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinybn.backend import BackendMismatchError
from tinybn.modes import in_mode
from tinybn.op import Node, module_of
from tinybn.tensor import Tensor, wrap
from tinybn.walk import newest_first, walk


def backward(
    tensor: Tensor,
    gradient: Any = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> None:
    """Add the gradient of `tensor` to the `.grad` of every leaf that it was computed from.

    Args:
        tensor: what to differentiate, such as a loss.
        gradient: dL/d(tensor), in the shape of `tensor`; by default 1, if `tensor` is a scalar.
        retain_graph: keep the graph for another backward pass; otherwise this pass frees it.
        create_graph: record the backward pass, too, for derivatives of higher order.

    Raises:
        ValueError: `tensor` does not require grad, or `gradient` does not fit it.
        RuntimeError: the graph was freed, or an array that a rule reads has changed since the call.
        TypeError: a rule returned something that is not a gradient of its input.

    Example:
        >>> w = tb.tensor([1.0, 2.0], requires_grad=True)
        >>> (w * w).sum().backward()
        >>> w.grad
        tensor([2., 4.])
    """
    seeds = {_key(tensor, "backward: the output"): _seed(tensor, gradient)}
    retain = retain_graph or create_graph
    for leaf, g in walk(seeds, newest_first(seeds), retain, create_graph).items():
        if leaf.grad is None:
            leaf.grad = g
        else:
            with in_mode(record=create_graph):
                leaf.grad = leaf.grad + g


def grad(
    outputs: Tensor | Iterable[Tensor],
    inputs: Tensor | Iterable[Tensor],
    grad_outputs: Any = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """The gradients of Σ grad_outputs · outputs, one per input. No `.grad` changes.

    Args:
        outputs: a Tensor, or several.
        inputs: a Tensor, or several: leaves, or anything that the outputs were computed from. Only
            the rules between outputs and inputs are run.
        grad_outputs: per output, a gradient in its shape, or None for a scalar.
        create_graph: see `backward`.
        retain_graph: see `backward`; by default the value of `create_graph`.
        allow_unused: return None for an input that no output depends on.

    Returns:
        Per input, a Tensor with the shape and dtype of the input.

    Raises:
        ValueError: no output depends on an input, an input or output does not require grad, or a
            gradient does not fit its output. See `backward` for other errors.

    Example:
        >>> x = tb.tensor(3.0, requires_grad=True)
        >>> (dx,) = tb.grad(x**3, x, create_graph=True)
        >>> tb.grad(dx, x)  # the second derivative, 6 x
        (tensor(18.),)
    """
    single = isinstance(outputs, Tensor)
    outputs, inputs = _several("outputs", outputs), _several("inputs", inputs)
    if single:  # then grad_outputs is one gradient, alone or in a list
        listed = isinstance(grad_outputs, list | tuple) and len(grad_outputs) == 1
        if not (listed and (grad_outputs[0] is None or hasattr(grad_outputs[0], "shape"))):
            grad_outputs = [grad_outputs]
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
    nodes = newest_first(seeds, {*wanted})
    reached = {*seeds, *(source for node in nodes for source in node.sources or ())}
    for i, key in enumerate(wanted):
        if key not in reached and not allow_unused:
            raise ValueError(
                f"grad: no output depends on input {i} (shape {inputs[i].shape}): "
                "pass allow_unused=True to get None for it"
            )
    retain = create_graph if retain_graph is None else retain_graph or create_graph
    totals = walk(seeds, nodes, retain, create_graph, {*wanted})
    return tuple(totals.get(key) for key in wanted)


def _several(what: str, given: Any) -> list[Tensor]:
    """A Tensor, or several, as a list."""
    if isinstance(given, Tensor):
        return [given]
    if not isinstance(given, Iterable):
        raise TypeError(
            f"grad: expected {what} to be a Tensor or several, got {type(given).__name__}"
        )
    return list(given)


def _key(tensor: Tensor, what: str) -> Node | Tensor:
    """The key of `tensor` in a walk: the node that computed it, or the leaf itself."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{what} must be a Tensor, got {type(tensor).__name__}")
    if not tensor._tracked:
        raise ValueError(
            f"{what} (shape {tensor.shape}) does not require grad: make the Tensors it is computed "
            "from with requires_grad=True, outside no_grad(); for what a compiled step computes, "
            "call backward inside the step"
        )
    return tensor._node or tensor


def _seed(tensor: Tensor, gradient: Any) -> Tensor:
    """The gradient to start from: `gradient`, checked, or 1 for a scalar."""
    if gradient is None:
        if tensor.shape != ():
            raise ValueError(
                f"the gradient may be omitted only for a scalar: expected one of shape "
                f"{tensor.shape}, got none; pass it, or reduce the Tensor first, for example with "
                ".sum()"
            )
        return wrap(module_of(tensor).ones((), tensor.dtype))
    if not isinstance(gradient, Tensor):
        gradient = Tensor(gradient, backend=tensor.backend)
    if gradient.shape != tensor.shape:
        raise ValueError(
            f"expected a gradient of shape {tensor.shape}, like its Tensor, got {gradient.shape}"
        )
    if gradient.backend != tensor.backend:
        raise BackendMismatchError(
            f"the gradient is on {gradient.backend}, its Tensor on {tensor.backend}: "
            f"use .to({tensor.backend!r})"
        )
    return gradient if gradient.dtype == tensor.dtype else gradient.astype(tensor.dtype)
