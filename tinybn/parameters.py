"""Match the arguments of a call to an op's parameters, and find what a gradient rule reads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any


class Parameters:
    """The parameters of an op: its inputs, and its static parameters (axis, eps, …).

    Attributes:
        inputs: the names of the inputs.
        variadic: whether the op takes `*arrays`.
        defaults: the static parameters by name, with their defaults.
        required: the static parameters without a default.
        leading: how many inputs come first and can be given by position; None if other parameters
            come before them, or if the op is variadic.
        after: the positional parameters that follow the inputs.
    """

    def __init__(self, op: str, signature: inspect.Signature, inputs: list[str]) -> None:
        parameters = signature.parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.op, self.signature, self.inputs = op, signature, inputs
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.defaults = {p.name: p.default for p in parameters if p.name not in inputs}
        self.required = {
            k for k, value in self.defaults.items() if value is inspect.Parameter.empty
        }
        self.leading = len(inputs) if positional[: len(inputs)] == inputs else None
        self.after = positional[len(inputs) :]

    def function(self, like: Callable[..., Any], run: Callable[..., Any]) -> Any:
        """A plain function with this signature, and the name and docstring of `like`.

        It calls `run` with the inputs, and with the static arguments in their declared order.
        """
        bind, defaults = self.bind, self.defaults
        leading = None if self.required else self.leading

        @functools.wraps(like)
        def call(*args: Any, **given: Any) -> Any:
            static = {**defaults, **given}
            if len(args) == leading and len(static) == len(defaults):
                return run(args, static)
            return run(*bind(args, given))

        function: Any = call
        function.__signature__ = self.signature
        return function

    def bind(
        self, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """The inputs and the static arguments of any call; TypeError if Python would reject it.

        Common calls take a fast path; `inspect` handles all others.
        """
        n, extra = self.leading, args[self.leading :]
        given = {**dict(zip(self.after, extra, strict=False)), **keywords}
        known = self.required <= given.keys() <= self.defaults.keys()
        if n is not None and len(args) >= n and known and len(given) == len(extra) + len(keywords):
            return args[:n], {**self.defaults, **given}
        try:
            bound = self.signature.bind(*args, **keywords)
        except TypeError as error:
            raise TypeError(f"{self.op}(): {error}") from None
        bound.apply_defaults()
        values = bound.arguments
        inputs = [values.pop(name) for name in self.inputs]
        return inputs[0] if self.variadic else inputs, values


def reads(rule: Callable[..., Any], names: list[str], what: str) -> list[int]:
    """The positions in `names` of what a rule reads.

    A parameter that is not in `names` must have a default, and keeps it.
    """
    found: list[int] = []
    for position, p in enumerate(inspect.signature(rule).parameters.values()):
        by_position = p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        if p.name in names and by_position and position == len(found):
            found.append(names.index(p.name))
        elif p.name in names or p.default is p.empty:
            raise TypeError(f"{what} reads {p}: expected, by position, some of {', '.join(names)}")
    return found


def picker(reads: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """A function that returns these items of a tuple, as a tuple."""
    if len(reads) > 1:
        return itemgetter(*reads)
    return itemgetter(slice(reads[0], reads[0] + 1) if reads else slice(0))
