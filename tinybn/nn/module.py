"""Module: the base class of layers and models, which holds parameters and other state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from tinybn import backend as backends
from tinybn import checkpoint
from tinybn.backend import Array
from tinybn.tensor import Tensor, wrap

M = TypeVar("M", bound="Module")


class Module:
    """A layer or a model. Its attributes say what it is made of; there is nothing to register.

    An attribute that is a Tensor is a parameter, unless `buffers` names it. An attribute that is a
    Module, or a list or tuple of Modules, is a child. Subclasses define `forward`.

    Attributes:
        buffers: the names of state that gradients do not train: Tensors, or Python numbers.
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

    def children(self) -> Iterator[tuple[str, Module]]:
        """The Modules directly inside this one, by name."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | tuple):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield f"{name}.{i}", item

    def modules(self) -> Iterator[Module]:
        """This module and all modules inside it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Module, str, Any]]:
        """Every parameter and buffer: full name, module, name in this module, and value."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) or (name in self.buffers and value is not None):
                yield prefix + name, self, name, value
        for name, child in self.children():
            yield from child._state(f"{prefix}{name}.")

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
        tensors = {value for *_, value in self._state() if isinstance(value, Tensor)}
        for t, array in [(t, convert(t.data)) for t in tensors]:
            t.data = array
            t.grad = None if t.grad is None else wrap(convert(t.grad.data))
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by full name, as NumPy arrays on any backend."""
        return {
            full: value.numpy() if isinstance(value, Tensor) else np.array(value)
            for full, _, _, value in self._state()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set all parameters and buffers from a `state_dict`; they keep their dtype and backend.

        Raises:
            ValueError: a name is missing or unexpected, or a value does not fit. Nothing changed.
        """
        own = list(self._state())
        missing = [f"missing: {full}" for full, *_ in own if full not in state]
        values = checkpoint.fit(state, {full: value for full, _, _, value in own}, missing)
        for full, module, name, value in own:
            if isinstance(value, Tensor):
                value.data = values[full]
            else:
                setattr(module, name, values[full])

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
    return lambda array: array.astype(dtype)


def parameter(value: float, shape: tuple[int, ...]) -> Tensor:
    """A new parameter, filled with one value."""
    return Tensor(np.full(shape, value, np.float32), requires_grad=True)


def at_least_1(what: str, n: int) -> int:
    """`n` as an int; ValueError that names `what` unless it is an integer of at least 1."""
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"expected {what} to be an integer of at least 1, got {n!r}")
    return int(n)
