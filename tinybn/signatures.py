"""Functions with a signature of their own that hand their arguments on, sorted into two kinds.

Python's own call sorts arguments ten times faster than `inspect.Signature.bind`, twice as fast as a
function of `*args`, and says best what is wrong with them. So such a function is made from text.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any


def sorting(
    run: Callable[[list[Any], dict[str, Any]], Any],
    like: Callable[..., Any],
    inputs: Sequence[str],
    *,
    skip: int = 0,
    then: str = "",
) -> Callable[..., Any]:
    """A function with the name and the parameters of `like` that calls `run`.

    run: gets a list of those arguments that are called `inputs`, and a dict of the rest. skip: that
    many parameters of `like` are left out. then: what is done with the result, such as "[0]".
    """
    signature = inspect.signature(like)
    parameters = list(signature.parameters.values())[skip:]
    bare = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None)
        for p in parameters
    ]
    listed = [
        f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name for p in bare if p.name in inputs
    ]
    named = [f"{p.name!r}: {p.name}" for p in bare if p.name not in inputs]
    head = str(inspect.Signature(bare))[1:-1]
    body = f"run([{', '.join(listed)}], {{{', '.join(named)}}}){then}"
    function: Any = eval(f"lambda {head}: {body}", {"run": run, "__name__": __name__})  # noqa: S307
    functools.update_wrapper(function, like)
    del function.__wrapped__
    function.__signature__ = signature.replace(parameters=parameters)
    function.__defaults__, function.__kwdefaults__ = like.__defaults__, like.__kwdefaults__
    return function
