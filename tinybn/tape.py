"""The tape: what a call of an op leaves behind for its backward pass.

An op that is called with a Tensor that needs gradients leaves a `Node`: the op, where each input
came from, and the arrays that its rules name, no others. Nodes point back to what came before them
and nothing points forward, so there are no cycles: a graph goes away with the last Tensor that
needs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tinybn import anomaly
from tinybn.backend import MODULES, Array, BackendMismatchError
from tinybn.modes import current_mode
from tinybn.parameters import Parameters
from tinybn.tensor import Tensor, tick, wrap


class Op:
    """What was declared; the function that users call has it as `op`."""

    optional = False  # whether an input may be None
    differentiable = True
    keeps_output = True
    unread: Sequence[int] = ()  # inputs whose arrays the backward pass does not need
    constant: Sequence[int] = ()  # inputs without a gradient

    def __init__(
        self, forward: Callable[..., Any], signature: inspect.Signature, inputs: Sequence[str]
    ) -> None:
        self.name = forward.__name__.strip("_")
        self.names = list(inputs)
        self.forward = forward
        self.parameters = Parameters(self.name, signature, inputs)

    def gradients(
        self, needed: Sequence[bool], g: Any, y: Any, inputs: Sequence[Any], static: dict[str, Any]
    ) -> Sequence[Any]:
        """One gradient per input; anything may take the place of one that is not needed.

        y: the output, or in its place what a fused op saved.
        """
        raise NotImplementedError


class Node:
    """One recorded call of an op.

    sources: per input the Node that computed it, or the leaf that it is, or None (a constant).
    needed: whether that had requires_grad when the op was called.
    arrays, output: what the rules read, and None in the place of what they don't. (The output of a
        fused op is not kept: there, that is what its forward saved.)
    shape, dtype: of the output, and so of its gradient. time: when it was recorded (see tensor.py).
    line: where the user called it, under detect_anomaly.
    """

    __slots__ = (
        "arrays", "dtype", "line", "needed", "op", "output", "shape", "sources", "static", "time",
    )  # fmt: skip
    _changed = 0  # as a Tensor's: nothing can change it

    op: Op
    static: dict[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype
    time: int
    line: str | None
    output: Array
    sources: tuple[Any, ...] | None
    needed: tuple[bool, ...]
    arrays: list[Any] | None

    def release(self) -> None:
        """Free what only a backward pass needs; it can't be run again."""
        self.sources = self.arrays = self.output = None

    def inputs_as_tensors(self) -> list[Any]:
        """The inputs with their history, for rules under create_graph."""
        assert self.sources is not None
        assert self.arrays is not None
        return [
            wrap(array, source) if isinstance(source, Node) else array if source is None else source
            for source, array in zip(self.sources, self.arrays, strict=True)
        ]


CONSTANT, TRACKED = 1, 2  # what `unpack` found: Tensors, none of which or some require grad


def unpack(op: Op, args: Iterable[Any]) -> tuple[list[Any], list[Any], list[bool], Any, int]:
    """Of an op's inputs: the arrays, their sources, whether each needs a gradient, the library that
    owns them, and what they are: 0 if none is a Tensor, otherwise CONSTANT or TRACKED.
    """
    xp = kind = None
    state = 0
    scalars = False
    arrays: list[Any] = []
    sources: list[Any] = []
    needed: list[bool] = []
    for a in args:
        if isinstance(a, Tensor):
            if a._tracked:
                state = TRACKED
            elif not state:
                state = CONSTANT
            needed.append(a._tracked)
            sources.append(a._node or a)
            a = a._data
        else:
            scalars = scalars or isinstance(a, np.generic)
            needed.append(False)
            sources.append(None)
        arrays.append(a)
        if type(a) is not kind:
            if a is None and op.optional:
                continue
            kind = type(a)
            owner = MODULES[kind]
            if xp is None:
                xp = owner
            elif owner is not None and owner is not xp:
                if owner.__name__ != xp.__name__:
                    raise _mismatch(op, args)
                xp = owner if isinstance(xp, ModuleType) else xp  # a recording meets its constants
    if state and scalars:  # NumPy's scalars count as Python's: they promote no dtype
        arrays = [a.item() if isinstance(a, np.generic) else a for a in arrays]
    return arrays, sources, needed, xp or np, state


def remember(
    op: Op,
    y: Array,
    saved: Any,
    arrays: list[Any],
    sources: list[Any],
    needed: list[bool],
    static: dict[str, Any],
    state: int,
) -> Tensor:
    """The output y of an op as a Tensor, recorded if a gradient may be wanted.

    saved: what the backward pass gets in place of y.
    """
    if isinstance(y, np.generic):  # NumPy's reductions return these in place of 0-d arrays
        y = np.asarray(y)
    mode = current_mode()
    if mode.anomaly:
        anomaly.check_output(op.name, y, arrays)
    if state != TRACKED or not mode.record or not op.differentiable:
        return wrap(y)
    for i in op.unread:
        arrays[i] = None
    for i in op.constant:
        sources[i], needed[i] = None, False
    node: Node = _new(Node)
    node.op = op
    node.sources, node.needed = tuple(sources), tuple(needed)  # lists would take more room
    node.arrays = arrays
    node.output = (y if saved is None else saved) if op.keeps_output else None
    node.static = static
    node.shape = y.shape
    node.dtype = y.dtype
    node.time = tick()
    node.line = anomaly.user_line() if mode.anomaly else None
    if mode.outputs:
        mode.outputs(node, y)
    return wrap(y, node)


_new = object.__new__


def module_of(array: Any) -> Any:
    """The array library of a Tensor or an array (NumPy, for numbers)."""
    return MODULES[type(array._data if isinstance(array, Tensor) else array)] or np


def described(value: Any) -> str:
    """An argument, as error messages show it."""
    return f"{value.dtype} {value.shape}" if hasattr(value, "shape") else repr(value)


def _mismatch(op: Op, arrays: Iterable[Any]) -> BackendMismatchError:
    shapes = [f"{described(a)} on {module_of(a).__name__}" for a in arrays if hasattr(a, "shape")]
    return BackendMismatchError(
        f"{op.name}: {' and '.join(shapes)}: move one of them with .to('numpy') or .to('cupy')"
    )
