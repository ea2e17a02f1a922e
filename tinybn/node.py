"""The graph: what a call of an op leaves behind for its gradients.

A `Node` knows where each input came from, and holds the arrays that the rules read, no others.
Nodes point backwards only, so there are no cycles: a graph is freed with the last Tensor that
refers to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybn import anomaly
from tinybn.backend import MODULES, Array
from tinybn.modes import Mode
from tinybn.tensor import Tensor, tick, wrap

if TYPE_CHECKING:
    from tinybn.op import Op


@dataclass(slots=True, eq=False)
class Node:
    """One recorded call of an op.

    Attributes:
        op, static: the op, and its static arguments (axis, shape, eps, …).
        sources: per input, the Node that computed it, the leaf itself, or None for a constant.
        needed: per input, whether it required grad when the op was called.
        arrays: per input, its array, or None if no rule reads it.
        output: the output if a rule reads it, or None; for a fused op, what its forward saved.
        shape, dtype: those of the output, and so of its gradient.
        time: when the op was called, by the clock of tensor.py.
        line: the line of user code that called it, or None outside `detect_anomaly`.
    """

    op: Op
    static: dict[str, Any]
    sources: tuple[Any, ...] | None
    needed: tuple[bool, ...]
    arrays: list[Any] | None
    output: Any
    shape: tuple[int, ...]
    dtype: np.dtype
    time: int
    line: str | None
    _changed: list[int] | None = None  # as a Tensor's

    def release(self) -> None:
        """Free what the backward pass reads: no other pass can go through this node."""
        self.sources = self.arrays = self.output = None


def record(
    op: Op,
    arrays: list[Any],
    sources: list[Any],
    needed: list[bool],
    static: dict[str, Any],
    y: Array,
    kept: Any,
    mode: Mode,
) -> Node:
    """The node of a call, without what no gradient reads."""
    for i in op.unread:
        arrays[i] = None
    for i in op.constant:
        sources[i], needed[i] = None, False
    line = anomaly.user_line() if mode.anomaly else None
    origin = tuple(sources), tuple(needed)  # lists would take more memory
    node = Node(op, static, *origin, arrays, kept, y.shape, y.dtype, tick(), line)
    if mode.outputs:
        mode.outputs(node, y)
    return node


def copied(value: Any) -> Any:
    """A constant that stays as it is, whatever happens to the arrays in it."""
    if isinstance(value, tuple | list):
        return type(value)(map(copied, value))
    if isinstance(value, Tensor):  # one with a history is refused where a constant is needed
        return value if value.requires_grad else wrap(value.data.copy())
    return value.copy() if MODULES.get(type(value)) is not None else value
