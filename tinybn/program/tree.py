"""Arguments and results: nested tuples, lists and dicts whose leaves are arrays and numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any

from tinybn.tensor import Tensor


def mapped(f: Callable[[Any], Any], tree: Any) -> Any:
    """The same tree with f(leaf) in place of each leaf."""
    if isinstance(tree, dict):
        made = copy(tree)  # a copy keeps its class
        for key, value in tree.items():
            made[key] = mapped(f, value)
        return made
    if isinstance(tree, list | tuple):
        make: Any = getattr(type(tree), "_make", type(tree))  # a NamedTuple has _make
        return make([mapped(f, value) for value in tree])
    return f(tree)


def leaves_of(tree: Any) -> list[Any]:
    """The leaves of a tree, in order."""
    if isinstance(tree, dict | list | tuple):
        parts = tree.values() if isinstance(tree, dict) else tree
        return [leaf for part in parts for leaf in leaves_of(part)]
    return [tree]


def names_of(function: Callable[..., Any], args: Any, keywords: Any, count: int) -> list[str]:
    """The names of the function's arguments, if each is a single leaf; else arg0, arg1, …"""
    try:
        names = list(inspect.signature(function).bind(*args, **keywords).arguments)
    except (TypeError, ValueError):  # a built-in function may have no signature
        names = []
    return names if len(names) == count else [f"arg{i}" for i in range(count)]


def bare(leaf: Any) -> Any:
    """The array of a Tensor; anything else as it is."""
    return leaf._data if isinstance(leaf, Tensor) else leaf
