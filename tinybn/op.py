"""Ops: array functions with gradient rules, and the node that a call leaves in the graph.

    @primitive(lambda g, b: g * b,
               lambda g, a: g * a)
    def multiply(xp, a, b):
        return a * b

Called with a Tensor that needs gradients, an op leaves a `Node`: where each input came from, and
the arrays that the rules read, no others. Nodes point backwards only. So there are no cycles, and a
graph is freed with the last Tensor that needs it. fusion.py declares fused ops.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeAlias

import numpy as np

from tinybn import anomaly
from tinybn.backend import MODULES, Array, common_module
from tinybn.modes import current_mode
from tinybn.tensor import Tensor, tick, wrap

P = ParamSpec("P")
Rule: TypeAlias = Callable[..., Any]
"""The gradient of one input, as a function of whatever it names: see `primitive`."""


@dataclass(slots=True, eq=False)
class Node:
    """One recorded call of an op.

    Attributes:
        sources: per input, the Node that computed it, the leaf that it is, or None (a constant).
        needed: per input, whether it required grad when the op was called.
        arrays: per input, its array, or None if no rule reads it.
        output: the output if a rule reads it, or None; of a fused op, what its forward saved.
        shape, dtype: of the output, and so of its gradient.
        time: when the op was called, by the clock of tensor.py.
        line: the user's line that called it, under `detect_anomaly`.
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
    _changed: ClassVar[int] = 0  # like a Tensor's; nothing can change a node

    def release(self) -> None:
        """Free what the backward pass reads; the node can't be passed again."""
        self.sources = self.arrays = self.output = None


class Op:
    """What was declared. The function that users call has it as `op`.

    Subclasses define `compute` and `gradients`.
    """

    optional = False  # whether an input may be None
    differentiable = True
    keeps_output = True
    unread: Sequence[int] = ()  # the inputs whose arrays no gradient reads
    constant: Sequence[int] = ()  # the inputs without a gradient

    def __init__(
        self, forward: Callable[..., Any], signature: inspect.Signature, inputs: list[str]
    ) -> None:
        parameters = signature.parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.name = forward.__name__.strip("_")
        self.forward, self.signature, self.names = forward, signature, inputs
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.defaults = {p.name: p.default for p in parameters if p.name not in inputs}
        self.required = {name for name, value in self.defaults.items() if value is inspect.Parameter.empty}
        self.leading = len(inputs) if positional[: len(inputs)] == inputs else None
        self.after = positional[len(inputs) :]

    def function(self, like: Callable[..., Any], saved: bool = False) -> Any:
        """A plain function with the op's signature, otherwise like `like`, that runs the op.

        saved: whether it returns what `compute` kept, too.
        """
        run, leading, defaults, required = self.run, self.leading, self.defaults, self.required

        @functools.wraps(like)
        def call(*args: Any, **static: Any) -> Any:
            if len(args) == leading and required <= static.keys() <= defaults.keys():
                y, kept = run(args, {**defaults, **static})
            else:
                y, kept = run(*self.bind(args, static))
            return (y, kept) if saved else y

        function: Any = call
        function.__signature__ = self.signature
        function.op = self
        return function

    def bind(
        self, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """The inputs and the static arguments of a call, in the order of their declaration."""
        n, extra = self.leading, args[self.leading :]
        given = {**dict(zip(self.after, extra, strict=False)), **keywords}
        once = len(given) == len(extra) + len(keywords)
        if n is not None and len(args) >= n and once:
            if self.required <= given.keys() <= self.defaults.keys():
                return args[:n], {**self.defaults, **given}
        try:
            bound = self.signature.bind(*args, **keywords)
        except TypeError as error:
            raise TypeError(f"{self.name}(): {error}") from None
        bound.apply_defaults()
        values = bound.arguments
        inputs = [values.pop(name) for name in self.names]
        return inputs[0] if self.variadic else inputs, values

    def run(self, inputs: Sequence[Any], static: dict[str, Any]) -> tuple[Any, Any]:
        """The output, recorded if a gradient may be wanted; and what `compute` kept."""
        arrays: list[Any] = []
        sources: list[Any] = []
        needed: list[bool] = []
        tensors = scalars = False
        for a in inputs:
            if isinstance(a, Tensor):
                tensors = True
                arrays.append(a._data)
                sources.append(a._node or a)
                needed.append(a._tracked)
            else:
                scalars = scalars or isinstance(a, np.generic)
                arrays.append(a)
                sources.append(None)
                needed.append(False)
        if tensors and scalars:  # NumPy's scalars count as Python's: they promote no dtype
            arrays = [a.item() if isinstance(a, np.generic) else a for a in arrays]
        y, kept = self.compute(common_module(self.name, arrays, self.optional), arrays, static)
        if not tensors:
            return y, kept
        if isinstance(y, np.generic):  # NumPy's reductions return these in place of 0-d arrays
            y = np.asarray(y)
        mode = current_mode()
        if mode.anomaly:
            anomaly.check_output(self.name, y, arrays)
        if not (mode.record and self.differentiable and True in needed):
            return wrap(y), kept
        for i in self.unread:
            arrays[i] = None
        for i in self.constant:
            sources[i], needed[i] = None, False
        line = anomaly.user_line() if mode.anomaly else None
        origin = tuple(sources), tuple(needed)  # lists would take more memory
        node = Node(self, static, *origin, arrays, kept, y.shape, y.dtype, tick(), line)
        if mode.outputs:
            mode.outputs(node, y)
        return wrap(y, node), kept

    def compute(self, xp: Any, arrays: list[Any], static: dict[str, Any]) -> tuple[Any, Any]:
        """The output, and what the gradients read of it."""
        raise NotImplementedError

    def gradients(
        self, needed: Sequence[bool], g: Any, y: Any, inputs: Sequence[Any], static: dict[str, Any]
    ) -> Sequence[Any]:
        """One gradient per input, anything where none is needed. y: what `compute` kept."""
        raise NotImplementedError


def primitive(
    *rules: Rule | None,
) -> Callable[[Callable[Concatenate[Any, P], Array]], Callable[P, Tensor]]:
    """Make a differentiable op of an array function, given one gradient rule per input.

    The op takes Tensors, arrays (constants) and numbers. Given a Tensor, it returns a Tensor and
    records itself if a gradient may be wanted. Given none, it returns an array.

    Args:
        rules: a rule returns the gradient of its input, in the shape of the input or of the output;
            the engine sums over broadcast axes. Its parameters say what it reads: `g` (the gradient
            of the output), `y` (the output), and the parameters of the function. It uses operators
            and ops only, so that it runs on arrays and on Tensors. None: no gradient. A function of
            `*arrays` has one rule, which may read `i`, the number of its input.

    Returns:
        A decorator for the array function, which takes the array library `xp`, the inputs, and then
        static arguments (axis, shape, eps, …).

    Raises:
        TypeError: a rule reads something else, or there are more rules than inputs.
    """

    def decorate(forward: Callable[Concatenate[Any, P], Array]) -> Callable[P, Tensor]:
        op = Primitive(forward, rules)
        function: Callable[P, Tensor] = op.function(forward)
        return function

    return decorate


class Primitive(Op):
    """See `primitive`."""

    def __init__(self, forward: Callable[..., Array], rules: tuple[Rule | None, ...]) -> None:
        parameters = list(inspect.signature(forward).parameters.values())[1:]
        inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY][: len(rules)]
        super().__init__(forward, inspect.Signature(parameters), inputs)
        self.rules: tuple[Any, ...] = rules
        names = ["g", "y", *inputs, *self.defaults, *(["i"] if self.variadic else [])]
        if len(inputs) < len(rules):
            raise TypeError(f"{self.name!r} has {len(rules)} rules, but {len(inputs)} inputs")
        if len(set(names)) < len(names):
            raise TypeError(
                f"the parameters of {self.name!r} need other names: in rules, g is the gradient "
                "and y the output"
            )
        reads = [
            _reads(rule, names, f"rule {i} of {self.name!r}") if rule else []
            for i, rule in enumerate(rules)
        ]
        self.pick = [*map(_picker, reads)]
        read = {names[k] for found in reads for k in found}
        self.differentiable = any(rules)
        self.keeps_output = "y" in read
        self.unread = [i for i, name in enumerate(inputs) if name not in read]
        self.constant = [i for i, rule in enumerate(rules) if rule is None]

    def compute(self, xp: Any, arrays: list[Any], static: dict[str, Any]) -> tuple[Any, Any]:
        try:
            y = self.forward(xp, *arrays, **static)
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise anomaly.explained(self.name, arrays, static, error) from None
        return y, y if self.keeps_output else None

    def gradients(
        self, needed: Sequence[bool], g: Any, y: Any, inputs: Sequence[Any], static: dict[str, Any]
    ) -> Sequence[Any]:
        """By the rules: the gradient of each input that needs one, and None for the others."""
        if self.variadic:
            (rule,), (pick,) = self.rules, self.pick
            shared = g, y, inputs, *static.values()
            return [rule(*pick((*shared, i))) if need else None for i, need in enumerate(needed)]
        values = (g, y, *inputs, *static.values())
        return [
            rule(*pick(values)) if need else None
            for need, rule, pick in zip(needed, self.rules, self.pick, strict=True)
        ]


def _reads(rule: Rule, names: list[str], what: str) -> list[int]:
    """Which of `names` a rule reads. A parameter with a default and another name keeps that."""
    reads: list[int] = []
    for position, p in enumerate(inspect.signature(rule).parameters.values()):
        by_position = p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        if p.name in names and by_position and position == len(reads):
            reads.append(names.index(p.name))
        elif p.name in names or p.default is p.empty:
            raise TypeError(f"{what} reads {p}: expected, by position, some of {', '.join(names)}")
    return reads


def _picker(reads: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """A function that picks these items out of a tuple, as a tuple."""
    if len(reads) > 1:
        return itemgetter(*reads)
    return itemgetter(slice(reads[0], reads[0] + 1) if reads else slice(0))


def module_of(array: Any) -> Any:
    """The array library of a Tensor or an array; NumPy for a number."""
    return MODULES[type(array._data if isinstance(array, Tensor) else array)] or np
