"""Ops: array functions with gradient rules, and the node that a call leaves in the graph.

    @primitive(lambda g, b: g * b,
               lambda g, a: g * a)
    def multiply(xp, a, b):
        return a * b

Each rule computes the gradient of one input from g, the gradient of the output. A call with a
Tensor that requires grad leaves a `Node` in the graph (node.py). fusion.py declares fused ops.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeAlias

import numpy as np

from tinybn import anomaly
from tinybn.arrays import as_array, shares_memory
from tinybn.backend import MODULES, Array, common_module
from tinybn.modes import current_mode
from tinybn.node import Node, copied, record
from tinybn.parameters import Parameters, name_of, picker, reads, signature_of
from tinybn.tensor import Tensor, time_of_change, wrap

__all__ = ["Node", "Op", "Primitive", "module_of", "primitive"]

P = ParamSpec("P")
Rule: TypeAlias = Callable[..., Any]
"""The gradient of one input, as a function of whatever it names: see `primitive`."""


class Op:
    """A declared op. The function that users call holds it as its attribute `op`.

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
        self.name = name_of(forward).strip("_")
        self.forward, self.names = forward, inputs
        self.parameters = Parameters(self.name, signature, inputs)

    def function(self, like: Callable[..., Any], run: Callable[..., Any]) -> Any:
        """A plain function that calls `run`: the op's signature, and the docstring of `like`."""
        function = self.parameters.function(like, run)
        function.op = self
        return function

    def run(self, inputs: Sequence[Any], static: dict[str, Any]) -> tuple[Any, Any]:
        """The output, recorded if it may need a gradient; and what `compute` kept."""
        xp = None
        arrays: list[Any] = []
        sources: list[Any] = []
        needed: list[bool] = []
        tensors = scalars = False
        for a in inputs:
            if isinstance(a, Tensor):
                tensors = True
                sources.append(a._node or a)
                needed.append(a._tracked)
                a = a._data
            else:
                scalars = scalars or isinstance(a, np.generic)
                sources.append(None)
                needed.append(False)
            arrays.append(a)
            try:
                owner = None if a is None and self.optional else MODULES[type(a)]
            except TypeError as error:
                raise TypeError(f"{self.name}: {error}") from None
            if owner is not None and owner is not xp:
                xp = owner if xp is None else common_module(self.name, inputs)
        if tensors and scalars:  # a NumPy scalar counts as a Python number: no promotion
            arrays = [a.item() if isinstance(a, np.generic) else a for a in arrays]
        mode = current_mode()
        recorded = mode.record and self.differentiable and True in needed
        if recorded:  # nobody watches arrays that are no Tensors, so the graph gets copies
            static = {name: copied(value) for name, value in static.items()}
            for i, source in enumerate(sources):
                if source is None and i not in self.unread:
                    arrays[i] = copied(arrays[i])
        y, kept = self.compute(xp or np, arrays, static)
        if MODULES.get(type(y)) is None:
            anomaly.check_kind(self.name, y, tensors, static)
        if not tensors:
            return y, kept
        if mode.anomaly:
            anomaly.check_output(self.name, y, arrays)
        node = None
        if recorded and y.dtype.kind == "f":  # no gradient goes through integers
            node = record(self, arrays, sources, needed, static, y, kept, mode)
        output = wrap(y, node)
        for a in inputs:
            if isinstance(a, Tensor) and shares_memory(y, a._data):
                (node or output)._changed = time_of_change(a)
        return output, kept

    def output(self, inputs: Sequence[Any], static: dict[str, Any]) -> Any:
        """The output alone."""
        return self.run(inputs, static)[0]

    def compute(self, xp: Any, arrays: list[Any], static: dict[str, Any]) -> tuple[Any, Any]:
        """The output, and what the gradients read in its place."""
        raise NotImplementedError

    def gradients(
        self, needed: Sequence[bool], g: Any, y: Any, inputs: Sequence[Any], static: dict[str, Any]
    ) -> Sequence[Any]:
        """One gradient per input; ignored where not `needed`. `y` is what `compute` kept."""
        raise NotImplementedError


def primitive(
    *rules: Rule | None,
) -> Callable[[Callable[Concatenate[Any, P], Array]], Callable[P, Tensor]]:
    """Turn an array function into a differentiable op, given one gradient rule per input.

    The op takes Tensors, arrays (constants) and numbers. Given a Tensor, it returns a Tensor, and
    records itself if the output may need a gradient. Without any Tensor, it returns an array.

    Args:
        rules: a rule returns the gradient of its input, in the shape of the input or of the output;
            the engine sums over broadcast axes. Its parameters say what it reads: `g` (the gradient
            of the output), `y` (the output), and the parameters of the function. It uses only
            operators and ops, so that it runs on arrays and on Tensors. None in place of a rule
            means no gradient. A function of `*arrays` has one rule, which may read `i`, the
            position of its input.

    Returns:
        A decorator for the array function, which takes the array library `xp`, the inputs, and then
        static arguments (axis, shape, eps, …).

    Raises:
        TypeError: a rule reads anything else, or there are more rules than inputs.

    Example:
        >>> @tb.primitive(lambda g, a: 2 * g * a)
        ... def square(xp, a):
        ...     return a * a
        >>> x = tb.tensor(3.0, requires_grad=True)
        >>> tb.grad(square(x), x)
        (tensor(6.),)
    """

    if not rules or not all(rule is None or callable(rule) for rule in rules):
        raise TypeError(f"primitive: expected a rule (or None) per input, got {rules or 'none'}")

    def decorate(forward: Callable[Concatenate[Any, P], Array]) -> Callable[P, Tensor]:
        op = Primitive(forward, rules)
        function: Callable[P, Tensor] = op.function(forward, op.output)
        return function

    return decorate


class Primitive(Op):
    """See `primitive`."""

    def __init__(self, forward: Callable[..., Array], rules: tuple[Rule | None, ...]) -> None:
        parameters = list(signature_of(forward, "primitive").parameters.values())[1:]
        inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY][: len(rules)]
        super().__init__(forward, inspect.Signature(parameters), inputs)
        self.rules: tuple[Any, ...] = rules
        self.variadic = self.parameters.variadic
        static = self.parameters.defaults
        names = ["g", "y", *inputs, *static, *(["i"] if self.variadic else [])]
        if len(inputs) < len(rules):
            raise TypeError(f"{self.name!r} has {len(rules)} rules, but {len(inputs)} inputs")
        if len(set(names)) < len(names):
            raise TypeError(
                f"the parameters of {self.name!r} need other names: in rules, g is the gradient "
                "and y the output"
            )
        what = f"of {self.name!r}"
        slots = [
            reads(rule, names, f"rule {i} {what}") if rule else [] for i, rule in enumerate(rules)
        ]
        self.pick = [*map(picker, slots)]
        read = {names[k] for found in slots for k in found}
        self.differentiable = any(rules)
        self.keeps_output = "y" in read
        self.unread = [i for i, name in enumerate(inputs) if name not in read]
        self.constant = [i for i, rule in enumerate(rules) if rule is None]

    def output(self, inputs: Sequence[Any], static: dict[str, Any]) -> Any:
        """The output alone."""
        return self.run(inputs, static)[0]

    def compute(self, xp: Any, arrays: list[Any], static: dict[str, Any]) -> tuple[Any, Any]:
        try:
            y = self.forward(xp, *arrays, **static)
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise anomaly.explained(self.name, arrays, static, error) from None
        y = as_array(y)
        return y, y if self.keeps_output else None

    def gradients(
        self, needed: Sequence[bool], g: Any, y: Any, inputs: Sequence[Any], static: dict[str, Any]
    ) -> Sequence[Any]:
        """By the rules: the gradient of each input that needs one, and None for the others."""
        try:
            if self.variadic:
                (rule,), (pick,) = self.rules, self.pick
                shared = g, y, inputs, *static.values()
                return [rule(*pick((*shared, i))) if n else None for i, n in enumerate(needed)]
            values = (g, y, *inputs, *static.values())
            return [
                rule(*pick(values)) if need else None
                for need, rule, pick in zip(needed, self.rules, self.pick, strict=True)
            ]
        except Exception as error:
            error.add_note(
                f"in a gradient rule of {self.name!r}; a rule reads what its parameters name"
            )
            raise


def module_of(array: Any) -> Any:
    """The array library of a Tensor or an array; NumPy for a number."""
    return MODULES[type(array._data if isinstance(array, Tensor) else array)] or np
