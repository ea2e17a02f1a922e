"""Places: where a step's values are, which it reads and changes, and how to check all at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from keyword import iskeyword
from operator import attrgetter, is_, setitem
from typing import Any, NamedTuple

from tinybn.backend import MODULES
from tinybn.tensor import Tensor

NOTHING = object()
"""The value of a place that does not exist yet, or no longer exists."""

MISSING = AttributeError, LookupError, ValueError
"""What Python raises for such a place; ValueError is for a variable of a closure."""


def size(container: Any) -> int:
    """A COMPUTED key: how many items a container holds."""
    return len(container)


def items(container: Any) -> tuple[Any, ...]:
    """A COMPUTED key: the items of a set, or the keys of a dict."""
    return tuple(container)


def contents(array: Any) -> Any:
    """A COMPUTED key: the numbers in an array."""
    return array.shape, array.dtype.str, array.tobytes()


def referent(reference: Any) -> Any:
    """As a key: what a weak reference refers to."""
    return reference()


def current(variable: Any) -> Any:
    """As a key: the value of a context variable."""
    return variable.get(None)


COMPUTED = {
    type: "type({owner}) is {value}",
    bytes: "bytes({owner}) == {value}",
    referent: "{owner}() is {value}",
    current: "{owner}.get(None) is {value}",
    size: "len({owner}) == {value}",
    items: "len({owner}) == len({value}) and all(map(is_, {owner}, {value}))",
    contents: "contents({owner}) == {value}",
}
"""Keys that compute a value from the owner, and expressions that test this value."""


class Place(NamedTuple):
    """Where a value is: an entry of a container, an attribute of another object, or COMPUTED."""

    name: str
    owner: Any
    key: Any

    @property
    def id(self) -> tuple[int, Any]:
        """Equal for the same place."""
        return id(self.owner), self.key

    @property
    def is_gradient(self) -> bool:
        return isinstance(self.owner, Tensor) and self.key == "grad"

    @property
    def is_entry(self) -> bool:
        return isinstance(self.owner, dict | list | deque | tuple)

    def get(self) -> Any:
        """The value, or NOTHING."""
        try:
            if self.key in COMPUTED:
                return self.key(self.owner)
            return self.owner[self.key] if self.is_entry else attrgetter(self.key)(self.owner)
        except MISSING:
            return NOTHING

    @property
    def set(self) -> Callable[[Any], None]:
        """The function that puts a value there."""
        return partial(setitem if self.is_entry else setattr, self.owner, self.key)

    def test(self, owner: str, key: str, value: str) -> str:
        """A Python expression that tests the value, given the names of owner, key and value."""
        if self.key in COMPUTED:
            return COMPUTED[self.key].format(owner=owner, value=value)
        if isinstance(self.owner, dict) and self.get() is NOTHING:
            return f"{key} not in {owner}"
        if self.is_entry:
            return f"{owner}[{key}] is {value}"
        attribute = f"getattr({owner}, {key})" if iskeyword(self.key) else f"{owner}.{self.key}"
        return f"{attribute} is {value}"


def tester(places: Iterable[Place]) -> Callable[[list[Any]], bool]:
    """A function that tells whether these places hold given values. It may raise MISSING.

    Python checks a hundred values fastest in one expression made for them:
    o0[k0] is v[0] and o1.training is v[1] and …
    """
    space: dict[str, Any] = {"is_": is_, "contents": contents}
    tests = ["True"]
    for i, place in enumerate(places):
        space |= {f"o{i}": place.owner, f"k{i}": place.key}
        tests.append(place.test(f"o{i}", f"k{i}", f"v[{i}]"))
    exec(f"def test(v):\n    return {' and '.join(tests)}", space)  # noqa: S102, our own text
    return space["test"]


def is_array(value: Any) -> bool:
    """Whether it is an array of numbers."""
    return MODULES.get(type(value)) is not None and value.dtype.kind in "fiub"


def same(a: Any, b: Any) -> bool:
    """Whether both are the same object, equal numbers or strings, or tuples of such.

    2 and 2.0 are not the same, nor are 0.0 and -0.0.
    """
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return repr(a) == repr(b)
    return isinstance(a, int | str | bytes) and a == b
