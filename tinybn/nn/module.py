"""Module: what holds parameters and other state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from tinybn import backend as backends
from tinybn.tensor import Tensor

M = TypeVar("M", bound="Module")


class Module:
    """A part of a model. Its attributes say what it is made of; there is nothing to register.

    A Tensor is a parameter, unless `buffers` names it: state that no gradient trains. A Module, or
    a list or tuple of Modules, is a child. `__call__` runs `forward`.
    """

    buffers: ClassVar[tuple[str, ...]] = ()
    training: bool = True

    def __call__(self, *args: Any) -> Tensor:
        return self.forward(*args)

    def forward(self, *args: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def children(self) -> Iterator[tuple[str, Module]]:
        """The Modules directly inside of this one, by name."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | tuple):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield f"{name}.{i}", item

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Module, str]]:
        """Every parameter and buffer: its full name, the module that has it, its name there."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) or (name in self.buffers and value is not None):
                yield prefix + name, self, name
        for name, child in self.children():
            yield from child._state(f"{prefix}{name}.")

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters with their full names, such as "0.weight"; a shared one comes once."""
        seen: set[Tensor] = set()
        for full, module, name in self._state():
            value = getattr(module, name)
            if name not in module.buffers and value not in seen:
                seen.add(value)
                yield full, value

    def parameters(self) -> list[Tensor]:
        """The parameters, as an optimizer wants them."""
        return [parameter for _, parameter in self.named_parameters()]

    def modules(self) -> Iterator[Module]:
        """This module and all that are in it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def train(self: M, mode: bool = True) -> M:
        """Training mode (or not): batch statistics in BatchNorm, noise in Dropout."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: M) -> M:
        """Evaluation mode: running statistics in BatchNorm, no noise."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients: each `.grad` becomes None."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self: M, where: str | DTypeLike) -> M:
        """Move to a backend ("numpy", "cupy"), or change to a floating dtype, in place."""
        convert = _conversion(where)
        tensors = {getattr(module, name) for _, module, name in self._state()}
        changes = [(t, convert(t.data), t.grad) for t in tensors if isinstance(t, Tensor)]
        for t, array, grad in changes:
            t.data = array
            t.grad = None if grad is None else Tensor(convert(grad.data))
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by name, as NumPy arrays, whatever the backend."""
        return {
            full: np.array(value.numpy() if isinstance(value, Tensor) else value)
            for full, value in (
                (full, getattr(module, name)) for full, module, name in self._state()
            )
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the values of a `state_dict`: all of them, or none if anything does not fit."""
        own = {full: (module, name) for full, module, name in self._state()}
        missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
        problems = [f"missing: {', '.join(sorted(missing))}"] if missing else []
        problems += [f"unexpected: {', '.join(sorted(unexpected))}"] if unexpected else []
        values = {}
        for full in own.keys() & state.keys():
            module, name = own[full]
            value = getattr(module, name)
            new = np.asarray(state[full])
            if new.shape != np.shape(value):
                problems.append(f"{full}: expected shape {np.shape(value)}, got {new.shape}")
            elif new.dtype.kind not in "fiu":
                problems.append(f"{full}: expected numbers, got dtype {new.dtype}")
            elif not isinstance(value, Tensor) and not (new >= 0 and float(new).is_integer()):
                problems.append(f"{full}: expected a count, got {new}")
            elif isinstance(value, Tensor):
                values[full] = backends.move(new.astype(value.dtype), value.backend)
            else:
                values[full] = int(new)
        if problems:
            raise ValueError("load_state_dict changed nothing: " + "; ".join(sorted(problems)))
        for full, new in values.items():
            module, name = own[full]
            value = getattr(module, name)
            if isinstance(value, Tensor):
                value.data = new
            else:
                setattr(module, name, new)

    def __repr__(self) -> str:
        inside = [f"{name}: {child}" for name, child in self.children()]
        return f"{type(self).__name__}({', '.join(inside)})"


def _conversion(where: str | DTypeLike) -> Callable[[Any], Any]:
    if isinstance(where, str) and where in backends.NAMES:
        backends.module(where)
        return lambda array: backends.move(array, where)
    try:
        dtype = np.dtype(where)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind != "f":
        raise ValueError(f"to: expected 'numpy', 'cupy' or a floating-point dtype, got {where!r}")
    return lambda array: array.astype(dtype)


def parameter(value: float, shape: tuple[int, ...]) -> Tensor:
    """A new parameter of one value."""
    return Tensor(np.full(shape, value, np.float32), requires_grad=True)


def at_least_1(what: str, n: int) -> int:
    """`n` as an int, or an error about `what` unless it is an integer of at least 1."""
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"expected {what} to be an integer of at least 1, got {n!r}")
    return int(n)
