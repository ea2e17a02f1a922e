"""Recording: an op that is called with a Tensor remembers what its backward pass will need.

    @primitive(lambda g, y, a, b: g * b,
               lambda g, y, a, b: g * a)
    def multiply(xp, a, b):
        return a * b

`primitive` turns an array function and one gradient rule per input into an op. The op, called with
a Tensor that needs gradients, leaves a `Node` behind: the op, where each input came from, and those
arrays, and only those, that the rules read. Nodes point back to what was there before and nothing
points forward, so there are no cycles: a graph goes away with the last Tensor that needs it.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeAlias

import numpy as np

from tinybn import anomaly
from tinybn.backend import MODULES, Array, BackendMismatchError
from tinybn.signatures import sorting
from tinybn.tensor import Tensor, tick, wrap

P = ParamSpec("P")
Rule: TypeAlias = Callable[..., Any]
"""`rule(g, y, *inputs, **static)`: the gradient of one input, from that of the output y, g."""


class Mode(NamedTuple):
    """What a thread is doing.

    record: ops record themselves. fused: fused ops run their closed forms, not their compositions.
    anomaly: ops look for NaN and inf. watch: what is told of every contribution to a gradient.
    """

    record: bool = True
    fused: bool = True
    anomaly: bool = False
    watch: Callable[..., None] | None = None


_mode: ContextVar[Mode] = ContextVar("tinybn_mode", default=Mode())  # noqa: B039, it is immutable
current_mode, set_mode, reset_mode = _mode.get, _mode.set, _mode.reset


class in_mode(contextlib.ContextDecorator):  # noqa: N801, it is used like a function
    """This block (or a function that it decorates), in this thread, in another `Mode`."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def _recreate_cm(self) -> in_mode:
        return in_mode(**self.changes)  # a decorated function may call itself

    def __enter__(self) -> None:
        self.token = _mode.set(_mode.get()._replace(**self.changes))

    def __exit__(self, *_: object) -> None:
        _mode.reset(self.token)


class Op:
    """An array function and its gradient rules, one per input (None: that one has no gradient)."""

    optional = False  # whether an input may be None

    def __init__(self, forward: Callable[..., Array], rules: tuple[Rule | None, ...]) -> None:
        parameters = list(inspect.signature(forward).parameters.values())[1:]
        variadic = bool(parameters) and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL
        self.name = forward.__name__.strip("_")
        self.names = [p.name for p in parameters[: len(rules)]]
        self.forward = forward
        self.rules: Any = _ForEach(rules[0]) if variadic and rules[0] else rules
        self.differentiable = any(rules)
        read = [_arguments_read(rule, 2 + len(rules)) for rule in rules if rule is not None]
        self.keeps_output = any(1 in arguments for arguments in read)
        self.unread = [i for i in range(len(rules)) if all(2 + i not in args for args in read)]
        self.constant = [i for i, rule in enumerate(rules) if rule is None]

    def run(self, inputs: list[Any], static: dict[str, Any]) -> Any:
        """The output; recorded, if a gradient may be wanted."""
        arrays, sources, needed, xp, state = unpack(self, inputs)
        try:
            y = self.forward(xp, *arrays, **static)
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise _explained(self, arrays, static, error) from error
        if not state:
            return y
        return remember(self, y, None, arrays, sources, needed, static, state)


class _ForEach:
    """The rules of an op with any number of inputs: one rule, told as `i` which input is meant."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def __getitem__(self, i: int) -> Rule:
        return functools.partial(self.rule, i=i)


def _arguments_read(rule: Rule, count: int) -> set[int]:
    """Which of its first `count` arguments a rule reads; all, if it is no plain Python function."""
    if not inspect.isfunction(rule):
        return set(range(count))
    code = rule.__code__
    names = code.co_varnames[: code.co_argcount]  # what comes after these goes to *args
    loaded: set[Any] = set()
    for instruction in dis.get_instructions(code):
        if "LOAD" in instruction.opname:  # argval is a tuple where newer Pythons load two at once
            argval = instruction.argval
            loaded.update(argval if isinstance(argval, tuple) else (argval,))
    return {i for i in range(count) if i >= len(names) or names[i] in loaded}


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


_new = object.__new__
NO_STATIC: dict[str, Any] = {}


def primitive(
    *rules: Rule | None,
) -> Callable[[Callable[Concatenate[Any, P], Array]], Callable[P, Tensor]]:
    """Make a differentiable op of an array function, given one gradient rule per input.

    The function takes the array library `xp`, the inputs, then what is static (axis, shape, eps, …)
    and returns an array. A rule takes `g, y, *inputs, **static` and returns the gradient of its
    input, in the shape of y or of the input: summing over broadcast axes is not its business. It
    uses operators and ops only, so that it runs on arrays and on Tensors. A function of `*arrays`
    has one rule, which is also told as `i` which input is meant.

    The op takes Tensors, arrays (constants) and numbers. Given a Tensor it returns a Tensor, and
    records itself if one of them requires grad; otherwise it returns an array.
    """

    def decorate(forward: Callable[Concatenate[Any, P], Array]) -> Callable[P, Tensor]:
        op = Op(forward, rules)
        call: Any = sorting(op.run, forward, op.names, skip=1)
        call.op = op
        return call

    return decorate


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
                raise _mismatch(op, args)
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
    if isinstance(y, np.generic):  # what NumPy's reductions give instead of 0-d arrays
        y = np.asarray(y)
    mode = current_mode()
    if mode.anomaly:
        anomaly.check_output(op.name, y, arrays)
    if state != TRACKED or not mode.record or not op.differentiable:
        return wrap(y)
    for i in op.unread:
        arrays[i] = None
    for i in op.constant:
        sources[i] = None
    node: Node = _new(Node)
    node.op = op
    node.sources, node.needed = tuple(sources), tuple(needed)  # lists would take more room
    node.arrays = arrays
    node.output = (y if saved is None else saved) if op.keeps_output else None
    node.static = static or NO_STATIC
    node.shape = y.shape
    node.dtype = y.dtype
    node.time = tick()
    node.line = anomaly.user_line() if mode.anomaly else None
    return wrap(y, node)


def _explained(op: Op, arrays: list[Any], static: dict[str, Any], error: Exception) -> Exception:
    """`error` again, with the name of the op and what it was given."""
    given = [_described(a) for a in arrays]
    given += [f"{name}={_described(value)}" for name, value in static.items()]
    kinds = (np.exceptions.AxisError, IndexError, ValueError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), TypeError)
    return kind(f"{op.name}({', '.join(given)}): {error}")


def _described(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if hasattr(value, "shape") else repr(value)


def _mismatch(op: Op, arrays: Iterable[Any]) -> BackendMismatchError:
    shapes = [f"{_described(a)} on {module_of(a).__name__}" for a in arrays if hasattr(a, "shape")]
    return BackendMismatchError(
        f"{op.name}: {' and '.join(shapes)}: move one of them with .to('numpy') or .to('cupy')"
    )


def module_of(array: Any) -> ModuleType:
    """The array library of a Tensor or an array (NumPy, for numbers)."""
    return MODULES[type(array._data if isinstance(array, Tensor) else array)] or np
