"""What the code of a step mentions, and where Python would find it."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from typing import Any

from tinybn.nn.module import Module
from tinybn.optim import Optimizer
from tinybn.program.place import Place


def by_user(what: Any) -> bool:
    """Whether a class or a module's name is not the standard library's, NumPy's or ours."""
    root = getattr(what, "__module__", what).partition(".")[0]
    return root not in ("tinybn", "numpy") and root not in sys.stdlib_module_names


def operators(kind: type) -> set[str]:
    """The methods that are called without their names, such as __call__."""
    quiet = {"__init__", "__new__", "__post_init__", "__repr__", "__str__", "__del__"}
    return {
        name
        for base in filter(by_user, kind.__mro__)
        for name, value in vars(base).items()
        if name.startswith("__") and isinstance(value, types.FunctionType)
    } - quiet


def attributes_of(name: str, thing: Any, word: str) -> Iterator[Place]:
    """Where an attribute is: in the thing itself, and in its classes; of a property, its code."""
    own = getattr(thing, "__dict__", {})
    if word in own and not isinstance(thing, Module | Optimizer | type):  # whose are all known
        yield Place(name, own, word)
    for base in (thing if isinstance(thing, type) else type(thing)).__mro__:
        if word not in vars(base) or not by_user(base):
            continue
        value = vars(base)[word]
        if isinstance(value, types.MemberDescriptorType):  # of __slots__
            if hasattr(thing, word):
                yield Place(name, thing, word)
        elif isinstance(value, property | functools.cached_property | classmethod | staticmethod):
            for part in ("fget", "fset", "func", "__func__"):
                if code := getattr(value, part, None):
                    yield Place(name, [code], 0)
        elif not isinstance(value, types.GetSetDescriptorType):
            yield Place(name, base, word)


def words_of(code: types.CodeType) -> Iterator[str]:
    """Every name that a function's code, or that of a function inside of it, mentions."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, str) and inner.isidentifier():  # as for getattr
            yield inner
        if isinstance(inner, types.CodeType):
            yield from words_of(inner)


def filled(cell: Any) -> bool:
    """Whether the variable of a closure has a value yet."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
