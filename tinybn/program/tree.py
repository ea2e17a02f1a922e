"""Arguments and results: nested tuples, lists and dicts of arrays, Tensors and numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any, TypeAlias

Rebuild: TypeAlias = Callable[[list[Any]], Any]


def flatten(tree: Any, leaves: list[Any]) -> Rebuild:
    """Append the leaves of `tree`; a function that makes the same tree of others."""
    if isinstance(tree, dict):
        named = {key: flatten(value, leaves) for key, value in tree.items()}
        if type(tree) is dict:
            return lambda given: {key: part(given) for key, part in named.items()}
        empty = copy(tree)  # of its class
        empty.clear()

        def rebuild(given: list[Any]) -> Any:
            made = copy(empty)
            for key, part in named.items():
                made[key] = part(given)
            return made

        return rebuild
    if isinstance(tree, list | tuple):
        parts = [flatten(value, leaves) for value in tree]
        make: Any = getattr(type(tree), "_make", type(tree))  # a NamedTuple has _make
        return lambda given: make([part(given) for part in parts])
    i = len(leaves)
    leaves.append(tree)
    return lambda given: given[i]


def names_of(function: Callable[..., Any], args: Any, keywords: Any, count: int) -> list[str]:
    """What the function calls its arguments, if each is one array."""
    try:
        names = list(inspect.signature(function).bind(*args, **keywords).arguments)
    except TypeError:
        names = []
    return names if len(names) == count else [f"arg{i}" for i in range(count)]
