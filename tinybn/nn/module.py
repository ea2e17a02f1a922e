"""Module: the base class of layers and models, which holds parameters and other state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from tinybn import backend as backends
from tinybn.backend import MODULES, Array
from tinybn.loading import assign, fit
from tinybn.tensor import Tensor, wrap

M = TypeVar("M", bound="Module")

NUMBERS = int | float | np.generic
CONTAINERS = (dict, list, tuple, deque, set, frozenset)


class Module:
    """A layer or a model. Its attributes say what it is made of; there is nothing to register.

    An attribute that is a Tensor is a parameter, unless `buffers` names it. An attribute that is a
    Module is a child. Both are also found in lists, tuples, dicts and deques, and in such inside of
    each other. A parameter can be replaced by a Tensor or None only. Subclasses define `forward`.

    Attributes:
        buffers: the names of state that gradients do not train: Tensors, arrays, or Python numbers.
        training: whether the module is in training mode (see `train`).
    """

    buffers: ClassVar[tuple[str, ...]] = ()
    training: bool = True

    def __call__(self, *args: Any, **keywords: Any) -> Tensor:
        """Run `forward`."""
        return self.forward(*args, **keywords)

    def forward(self, *args: Any, **keywords: Any) -> Tensor:
        """Compute the output; each subclass has its own arguments."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __setattr__(self, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, Tensor):
            old = vars(self).get(name)
            if isinstance(old, Tensor) and old._node is None:
                raise TypeError(
                    f"{type(self).__name__}.{name} is a Tensor: a {type(value).__name__} in its "
                    f"place would be lost; set its array, {name}.data = ..., or another Tensor"
                )
        object.__setattr__(self, name, value)

    def children(self) -> Iterator[tuple[str, Module]]:
        """The Modules directly inside this one, by name."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, CONTAINERS):
                for full, found in held(name, value):
                    if isinstance(found, Module):
                        yield full, found

    def modules(self) -> Iterator[Module]:
        """This module and all modules inside it; a shared one comes once."""
        seen, waiting = set(), [self]
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                yield module
                waiting += [child for _, child in module.children()][::-1]

    def _state(
        self, prefix: str = "", around: tuple[Module, ...] = ()
    ) -> Iterator[tuple[str, Module, str, Any]]:
        """Every parameter and buffer: its full name, its module, the attribute, its value."""
        for name, value in vars(self).items():
            if name not in self.buffers:
                if isinstance(value, Tensor):
                    yield prefix + name, self, name, value
                elif isinstance(value, CONTAINERS):
                    for full, found in held(name, value):
                        if isinstance(found, Tensor):
                            yield prefix + full, self, name, found
            elif isinstance(value, Tensor | NUMBERS) or MODULES.get(type(value)) is not None:
                yield prefix + name, self, name, value
            elif value is not None:
                raise TypeError(
                    f"{type(self).__name__}: expected the buffer {name} to be a Tensor, an array "
                    f"or a number, got {type(value).__name__}"
                )
        for name, child in self.children():
            if child is not self and child not in around:  # a module may know its parent
                yield from child._state(f"{prefix}{name}.", (*around, self))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters with their full names, such as "0.weight"; a shared one comes once."""
        seen: set[Tensor] = set()
        for full, module, name, value in self._state():
            if name not in module.buffers and value not in seen:
                seen.add(value)
                yield full, value

    def parameters(self) -> list[Tensor]:
        """The parameters, as an optimizer takes them."""
        return [parameter for _, parameter in self.named_parameters()]

    def train(self: M, mode: bool = True) -> M:
        """Switch to training mode: BatchNorm uses the batch's statistics, Dropout drops values."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: M) -> M:
        """Switch to evaluation mode: BatchNorm uses running statistics, Dropout does nothing."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Set every parameter's `.grad` to None."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self: M, where: str | DTypeLike) -> M:
        """Move the module to a backend, or convert it to a floating-point dtype, in place.

        Args:
            where: "numpy", "cupy", or a dtype such as `np.float64`. Gradients follow; counts and
                other numbers stay.
        """
        convert = _conversion(where)
        changes: dict[Any, tuple[Any, str, Any]] = {}  # a shared Tensor is changed once
        for _, module, name, value in self._state():
            if isinstance(value, Tensor):
                changes[value] = value, "data", convert(value.data)
                if value.grad is not None:
                    changes[value, "grad"] = value, "grad", wrap(convert(value.grad.data))
            elif not isinstance(value, NUMBERS):
                changes[module, name] = module, name, convert(value)
        assign(changes.values())
        return self

    def _own(self) -> dict[str, tuple[Module, str, Any]]:
        own: dict[str, tuple[Module, str, Any]] = {}
        for full, *where in self._state():
            if full in own:
                raise ValueError(f"two parameters or buffers have the same name, {full}")
            own[full] = tuple(where)
        return own

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by full name, as NumPy arrays on any backend."""
        return {
            full: np.array(value if isinstance(value, NUMBERS) else _on_host(value))
            for full, (_, _, value) in self._own().items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set all parameters and buffers from a `state_dict`; they keep their dtype and backend.

        Raises:
            ValueError: a name is missing or unexpected, or a value does not fit. Nothing changed.
        """
        own = self._own()
        problems = [f"missing: {full}" for full in own if full not in state]
        values = fit(state, {full: value for full, (_, _, value) in own.items()}, problems)
        assign(
            (value, "data", values[full])
            if isinstance(value, Tensor)
            else (module, name, values[full])
            for full, (module, name, value) in own.items()
        )

    def __repr__(self) -> str:
        inside = [f"{name}: {child}" for name, child in self.children()]
        return f"{type(self).__name__}({', '.join(inside)})"


def _conversion(where: str | DTypeLike) -> Callable[[Array], Array]:
    if isinstance(where, str) and where in backends.NAMES:
        backends.module(where)
        return lambda array: backends.move(array, where)
    try:
        dtype = np.dtype(where)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind != "f":
        raise ValueError(f"to: expected 'numpy', 'cupy' or a floating-point dtype, got {where!r}")
    return lambda array: array.astype(dtype) if array.dtype.kind == "f" else array


def held(name: str, value: Any, around: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each Tensor and Module in an attribute, with a name such as "blocks.0.1" or "heads.digit"."""
    if isinstance(value, Tensor | Module):
        yield name, value
    elif isinstance(value, dict | list | tuple | deque):
        if any(value is container for container in around):
            return
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in entries:
            yield from held(f"{name}.{key}", item, (*around, value))
    elif isinstance(value, set | frozenset) and any(isinstance(i, Tensor | Module) for i in value):
        raise TypeError(f"{name}: a set of Tensors or Modules has no order: use a list or a dict")


def _on_host(value: Tensor | Array) -> np.ndarray:
    return value.numpy() if isinstance(value, Tensor) else backends.move(value, "numpy")


def parameter(value: float, shape: tuple[int, ...]) -> Tensor:
    """A new parameter, filled with one value."""
    return Tensor(np.full(shape, value, np.float32), requires_grad=True)


def at_least_1(what: str, n: int) -> int:
    """`n` as an int; ValueError that names `what` unless it is an integer of at least 1."""
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"expected {what} to be an integer of at least 1, got {n!r}")
    return int(n)
