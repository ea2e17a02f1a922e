"""Places: where the values are that a step reads and changes."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinybn.backend import MODULES
from tinybn.tensor import Tensor


class Place(NamedTuple):
    """Where a value is: an entry of a dict or list, or an attribute of anything else."""

    name: str
    owner: Any
    key: Any

    @property
    def of_tensor(self) -> str | None:
        """ "_data" or "grad", if that of a Tensor is meant."""
        return self.key if isinstance(self.owner, Tensor) else None

    @property
    def id(self) -> tuple[int, Any]:
        """Equal for the same place."""
        return id(self.owner), self.key

    def get(self) -> Any:
        in_container = isinstance(self.owner, dict | list | tuple)
        return self.owner[self.key] if in_container else getattr(self.owner, self.key)

    def set(self, value: Any) -> None:
        if isinstance(self.owner, dict | list):
            self.owner[self.key] = value
        else:
            setattr(self.owner, self.key, value)


def is_array(value: Any) -> bool:
    """Whether it is an array of numbers."""
    return MODULES.get(type(value)) is not None and value.dtype.kind in "fiub"


def contents(array: Any) -> Any:
    """What tells an array from one with other numbers."""
    return array.shape, array.dtype, array.tobytes()


def items_of(container: Any) -> tuple[Any, ...]:
    """What is in a list, but for arrays; of a dict, its keys."""
    return tuple(None if is_array(item) else item for item in container)


def same(a: Any, b: Any) -> bool:
    """Whether it is the same object, number or string: 2 and 2.0, or 0.0 and -0.0, are not."""
    plain = isinstance(a, bool | int | float | str | bytes)
    return a is b or (plain and type(a) is type(b) and repr(a) == repr(b))
