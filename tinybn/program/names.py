"""The names that the code of a step mentions, and where Python would look for them."""

from __future__ import annotations

import contextvars
import dis
import functools
import sys
import types
import weakref
from collections import ChainMap, UserDict, UserList
from collections.abc import Iterator
from typing import Any

from tinybn.nn.module import Module
from tinybn.optim import Optimizer
from tinybn.program.place import Place, current, referent

QUIET = {"__init__", "__new__", "__post_init__", "__repr__", "__str__", "__del__"}
"""Methods that a step does not call by using an object."""


PARTS: dict[Any, tuple[Any, ...]] = {
    types.FunctionType: ("__code__", "__defaults__", "__kwdefaults__"),
    types.MethodType: ("__func__", "__self__"),
    functools.partial: ("func", "args", "keywords"),
    functools.cached_property: ("func",),
    property: ("fget", "fset"),
    UserDict: ("data",),
    UserList: ("data",),
    ChainMap: ("maps",),
    weakref.ref: (referent,),
    contextvars.ContextVar: (current,),
}
"""Attributes through which Python's own objects refer to others."""


def parts_of(name: str, value: Any) -> Iterator[Place]:
    """Where the PARTS of an object are."""
    for key in next((keys for kind, keys in PARTS.items() if isinstance(value, kind)), ()):
        yield Place("self" if key == "__self__" else name, value, key)


def by_user(what: Any) -> bool:
    """Whether a class or module is from neither the standard library, NumPy nor tinybn."""
    root = (getattr(what, "__module__", None) or what.__name__).partition(".")[0]
    return root not in ("tinybn", "numpy") and root not in sys.stdlib_module_names


def operators(kind: type) -> set[str]:
    """The methods that Python calls although no code names them, such as __call__."""
    return {
        name
        for base in filter(by_user, kind.__mro__)
        for name, value in vars(base).items()
        if name.startswith("__") and isinstance(value, types.FunctionType)
    } - QUIET


def names_in(code: types.CodeType) -> tuple[set[str], set[str]]:
    """All names that the code of a function mentions, and which of them may be global variables.

    Any string counts as a name, because getattr or globals() may use it.
    """
    words, variables = set(code.co_names), set()
    for instruction in dis.get_instructions(code):
        if "GLOBAL" in instruction.opname or instruction.opname == "LOAD_NAME":
            variables.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner_words, inner_variables = names_in(constant)
            words, variables = words | inner_words, variables | inner_variables
        elif isinstance(constant, str) and constant.isidentifier():
            words, variables = words | {constant}, variables | {constant}
    return words, variables


def attributes_of(name: str, thing: Any, words: set[str]) -> Iterator[Place]:
    """The places of the attributes with one of these names, in the thing and in its classes."""
    own = getattr(thing, "__dict__", {})
    if not isinstance(thing, Module | Optimizer | type):  # all of theirs are known already
        for word in sorted(words & own.keys()):
            yield Place(f"{name}.{word}", own, word)
    kind = thing if isinstance(thing, type) else type(thing)
    inherited = set()
    for base in filter(by_user, kind.__mro__):
        for word in sorted(words & vars(base).keys()):
            value = vars(base)[word]
            if isinstance(value, types.MemberDescriptorType):  # of __slots__
                yield Place(f"{name}.{word}", thing, word)
            elif isinstance(value, classmethod):  # reading it from the class makes a new method
                yield Place(f"{name}.{word}", value, "__func__")
            elif not isinstance(value, types.GetSetDescriptorType):
                yield Place(f"{name}.{word}", base, word)
                inherited.add(word)
    for word in sorted(inherited - vars(kind).keys()):  # the class itself may get one, too
        yield Place(f"{name}.{word}", kind, word)
