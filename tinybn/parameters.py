"""Names: which argument of a call is which, and which values a gradient rule asks for by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any


class Parameters:
    """The parameters of an op: `inputs`, by position or by name, and `static` ones (axis, eps, …).

    op: its name. signature: how it is called. inputs: which parameters are inputs.
    """

    def __init__(self, op: str, signature: inspect.Signature, inputs: Sequence[str]) -> None:
        parameters = signature.parameters.values()
        self.op = op
        self.signature = signature
        self.inputs = tuple(inputs)
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.defaults = {p.name: p.default for p in parameters}
        self.required = {p.name for p in parameters if p.default is p.empty}
        self.static = {k: v for k, v in self.defaults.items() if k not in inputs}
        self.required_static = self.required & self.static.keys()
        inputs_lead = self.positional[: len(inputs)] == list(inputs)
        self.leading = len(inputs) if inputs_lead else None
        self.after = self.positional[len(inputs) :]

    def function(
        self, run: Callable[[Sequence[Any], dict[str, Any]], Any], like: Callable[..., Any]
    ) -> Any:
        """A function with these parameters, and otherwise `like` that one, which calls `run`.

        run: takes the inputs, and what is static in the order of its declaration.
        """
        sort, defaults = self.sort, self.static
        leading = None if self.required_static else self.leading

        @functools.wraps(like)
        def call(*args: Any, **keywords: Any) -> Any:
            if len(args) == leading:  # all inputs by position, and what is static by name
                static = {**defaults, **keywords}
                if len(static) == len(defaults):
                    return run(args, static)
            return run(*sort(args, keywords))

        function: Any = call
        function.__signature__ = self.signature
        return function

    def sort(
        self, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """The inputs of a call, and what is static; a TypeError as Python's if it can't be."""
        n = len(args) if self.variadic else self.leading
        if n is not None and len(args) >= n:
            given = {**dict(zip(self.after, args[n:], strict=False)), **keywords}
            static = {**self.static, **given}
            each_once = len(given) == len(args) - n + len(keywords)
            known = len(static) == len(self.static)
            if each_once and known and given.keys() >= self.required_static:
                return args[:n], static
        given = {**dict(zip(self.positional, args, strict=False)), **keywords}
        values = {**self.defaults, **given}
        each_once = len(given) == len(args) + len(keywords)
        if each_once and len(values) == len(self.defaults) and given.keys() >= self.required:
            return [values.pop(name) for name in self.inputs], values
        raise TypeError(f"{self.op}() {self._misuse(args, keywords)}")

    def _misuse(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> str:
        """What is wrong with the arguments of a call, in Python's words."""
        most = len(self.positional)
        if len(args) > most:
            least = most - sum(name not in self.required for name in self.positional)
            count = f"{most}" if least == most else f"from {least} to {most}"
            plural, were = "s" if most > 1 else "", "were" if len(args) > 1 else "was"
            return f"takes {count} positional argument{plural} but {len(args)} {were} given"
        for name in keywords:
            if name not in self.defaults:
                return f"got an unexpected keyword argument {name!r}"
            if name in self.positional[: len(args)]:
                return f"got multiple values for argument {name!r}"
        missing = [name for name in self.positional[len(args) :] if name in self.required]
        missing = [name for name in missing if name not in keywords]
        kind = "positional" if missing else "keyword-only"
        missing = missing or [name for name in self.required_static if name not in keywords]
        plural = "s" if len(missing) > 1 else ""
        names = " and ".join(map(repr, missing))
        return f"missing {len(missing)} required {kind} argument{plural}: {names}"


def reader(
    rule: Callable[..., Any], names: Sequence[str], what: str
) -> tuple[Callable[[Sequence[Any]], tuple[Any, ...]], set[str]]:
    """How to pick, out of the values of `names`, those that `rule` takes; and which ones these are.

    A parameter with a default and another name keeps its default. `what`: the rule, for messages.
    """
    slots: list[int] = []
    for position, p in enumerate(inspect.signature(rule).parameters.values()):
        by_position = p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        if p.name in names and by_position and position == len(slots):
            slots.append(names.index(p.name))
        elif p.name in names or p.default is p.empty:
            raise TypeError(f"{what} reads {p}: expected, by position, some of {', '.join(names)}")
    read = {names[k] for k in slots}
    if len(slots) > 1:
        return itemgetter(*slots), read
    first = slots[0] if slots else 0
    return itemgetter(slice(first, first + len(slots))), read  # a tuple here, too
