"""Primitive ops: an array function and one gradient rule per input make a differentiable op.

    @primitive(lambda g, b: g * b,
               lambda g, a: g * a)
    def multiply(xp, a, b):
        return a * b

A rule names what it reads: `g` is the gradient of the output. What a call leaves behind for the
backward pass is tape.py's business; fused ops are declared in fusion.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeAlias

import numpy as np

from tinybn.backend import Array
from tinybn.parameters import reader
from tinybn.tape import Node, Op, described, module_of, remember, unpack
from tinybn.tensor import Tensor

__all__ = ["Node", "Op", "Primitive", "module_of", "primitive"]

P = ParamSpec("P")
Rule: TypeAlias = Callable[..., Any]
"""The gradient of one input, as a function of whatever it names: see `primitive`."""


def primitive(
    *rules: Rule | None,
) -> Callable[[Callable[Concatenate[Any, P], Array]], Callable[P, Tensor]]:
    """Make a differentiable op of an array function, given one gradient rule per input.

    The function takes the array library `xp`, the inputs, and then what is static (axis, shape,
    eps, …); it returns an array. A rule returns the gradient of its input, in the shape of the
    input or of the output: summing over broadcast axes is the engine's business. Its parameters say
    what it reads: `g`, the gradient of the output; `y`, the output; and the function's own
    parameters. It uses operators and ops only, so that it runs on arrays and on Tensors. A function
    of `*arrays` has one rule, which may also read `i`, the number of its input. The rule None
    means that the input has no gradient.

    The op takes Tensors, arrays (constants) and numbers. Given a Tensor it returns a Tensor, and
    records itself if one of them requires grad; otherwise it returns an array.
    """

    def decorate(forward: Callable[Concatenate[Any, P], Array]) -> Callable[P, Tensor]:
        op = Primitive(forward, rules)
        function = op.parameters.function(op.run, forward)
        function.op = op
        return function

    return decorate


class Primitive(Op):
    """See `primitive`."""

    def __init__(self, forward: Callable[..., Array], rules: tuple[Rule | None, ...]) -> None:
        parameters = list(inspect.signature(forward).parameters.values())[1:]
        inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY][: len(rules)]
        super().__init__(forward, inspect.Signature(parameters), inputs)
        self.rules: tuple[Any, ...] = rules
        self.variadic = self.parameters.variadic
        names = ["g", "y", *inputs, *self.parameters.static, *(["i"] if self.variadic else [])]
        if len(inputs) < len(rules):
            raise TypeError(f"{self.name!r} has {len(rules)} rules, but {len(inputs)} inputs")
        if len(set(names)) < len(names):
            raise TypeError(
                f"the parameters of {self.name!r} need other names: in rules, g is the gradient "
                "and y the output"
            )
        what = f"of {self.name!r}"
        readers = [rule and reader(rule, names, f"rule {i} {what}") for i, rule in enumerate(rules)]
        self.reads: list[Any] = [found and found[0] for found in readers]
        read = {name for found in readers if found for name in found[1]}
        self.differentiable = any(rules)
        self.keeps_output = "y" in read
        self.unread = [i for i, name in enumerate(inputs) if name not in read]
        self.constant = [i for i, rule in enumerate(rules) if rule is None]

    def run(self, inputs: Sequence[Any], static: dict[str, Any]) -> Any:
        """The output; recorded, if a gradient may be wanted."""
        arrays, sources, needed, xp, state = unpack(self, inputs)
        try:
            y = self.forward(xp, *arrays, **static)
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise _explained(self, arrays, static, error) from None
        return remember(self, y, None, arrays, sources, needed, static, state) if state else y

    def gradients(
        self, needed: Sequence[bool], g: Any, y: Any, inputs: Sequence[Any], static: dict[str, Any]
    ) -> Sequence[Any]:
        """By the rules: the gradient of each input that needs one, and None for the others."""
        if self.variadic:
            (rule,), (read,) = self.rules, self.reads
            shared = g, y, inputs, *static.values()
            return [rule(*read((*shared, i))) if need else None for i, need in enumerate(needed)]
        values = (g, y, *inputs, *static.values()) if static else (g, y, *inputs)
        return [
            rule(*read(values)) if need else None
            for need, rule, read in zip(needed, self.rules, self.reads)  # noqa: B905, it is slower
        ]


def _explained(op: Op, arrays: list[Any], static: dict[str, Any], error: Exception) -> Exception:
    """`error` again, from the same line, with the name of the op and what it was given."""
    given = [described(a) for a in arrays]
    given += [f"{name}={described(value)}" for name, value in static.items()]
    kinds = (np.exceptions.AxisError, IndexError, ValueError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), TypeError)
    explained = kind(f"{op.name}({', '.join(given)}): {error}")
    return explained.with_traceback(error.__traceback__)
