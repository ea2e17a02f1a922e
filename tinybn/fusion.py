"""Fused ops: closed forms that replace compositions of primitive ops, and must equal them.

    @fused(composition=norm.layer_norm)
    def layer_norm(xp, x, gamma, beta, *, axis, eps):
        ...
        return y, saved

    @layer_norm.backward
    def _(xp, needed, g, saved, x, gamma, beta, *, axis, eps):
        ...
        return dx, dgamma, dbeta

A fused op records one node and works on arrays only. The engine takes second and higher
derivatives from the composition, so a closed form can be wrong only at first order. Every fused op
is in `FUSED`, so no comparison with the compositions can leave one out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol

from tinybn.arrays import as_array
from tinybn.modes import current_mode, use_fused
from tinybn.op import Op, module_of
from tinybn.parameters import name_of, signature_of
from tinybn.tensor import Tensor

P = ParamSpec("P")

FUSED: dict[str, FusedOp] = {}
"""Every fused op by name."""


class Fused(Protocol[P]):
    """An op made by `fused`: a function with the signature of its composition.

    Attributes:
        op: the declared op.
        backward: a decorator that declares the gradients; see `fused`.
        with_saved: the same function, except that it also returns what the closed form saved for
            its gradients (None if the composition ran).
    """

    __name__: str
    op: FusedOp
    backward: Callable[[Callable[..., Any]], None]
    with_saved: Callable[P, tuple[Tensor, Any]]

    def __call__(self, *args: P.args, **static: P.kwargs) -> Tensor: ...


def fused(composition: Callable[P, Tensor]) -> Callable[[Callable[..., Any]], Fused[P]]:
    """Turn a closed form into an op that must equal `composition`.

    Args:
        composition: a function of primitive ops. The fused op has its signature and docstring.

    Returns:
        A decorator for the closed form: a function of the array library `xp` and the inputs, which
        are arrays or None, with static arguments as keywords. It returns the output, and anything
        that its gradients need (`saved`). `@op.backward` declares the gradients: a function of
        `xp`, `needed` (one bool per input), the gradient `g` of the output, `saved`, and the same
        arguments. It returns one gradient per input, in its shape; those not needed are ignored.

    Raises:
        TypeError: the two have different parameters.
        ValueError: another module has a fused op of this name.

    Example:
        >>> def silu(x):
        ...     return x * tb.ops.sigmoid(x)
        >>> @tb.fused(composition=silu)
        ... def fused_silu(xp, x):
        ...     s = 1 / (1 + xp.exp(-x))
        ...     return x * s, s
        >>> @fused_silu.backward
        ... def _(xp, needed, g, s, x):
        ...     return (g * s * (1 + x * (1 - s)),)
        >>> len(tb.check.compare(fused_silu, [[1.0, -2.0]]).misses)
        0
    """
    return lambda forward: FusedOp(forward, composition).call


class FusedOp(Op):
    """See `fused`."""

    optional = True

    closed_form: Callable[..., Any] | None = None

    def __init__(self, forward: Callable[..., Any], composition: Callable[..., Tensor]) -> None:
        own = [*signature_of(forward, "fused").parameters.values()][1:]
        inputs = [p.name for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
        signature = signature_of(composition, "the composition of a fused op")
        if {p.name for p in own} != signature.parameters.keys():
            raise TypeError(
                f"{name_of(forward)!r} and its composition {name_of(composition)!r} need the same "
                f"parameters: got {inspect.Signature(own)}, after xp, and {signature}"
            )
        super().__init__(forward, signature, inputs)
        other = FUSED.get(self.name)
        if other is not None and other.forward.__module__ != forward.__module__:
            raise ValueError(
                f"there is a fused op {self.name!r} already, of {other.forward.__module__}: give "
                "yours another name"
            )
        self.composition = composition
        self.call = self.function(forward, self.output)
        self.call.with_saved = self.function(forward, self.run)
        self.call.__doc__ = self.call.with_saved.__doc__ = composition.__doc__
        self.call.backward = self.backward
        FUSED[self.name] = self

    def backward(self, closed_form: Callable[..., Any]) -> None:
        """Declare the closed form of the gradients; a decorator."""
        self.closed_form = closed_form

    def run(self, inputs: Sequence[Any], static: dict[str, Any]) -> tuple[Any, Any]:
        if current_mode().fused:
            return super().run(inputs, static)
        return self.compose(inputs, static), None

    def compose(self, inputs: Sequence[Any], static: dict[str, Any]) -> Tensor:
        """The output, from primitive ops."""
        with use_fused(False):
            return self.composition(**dict(zip(self.names, inputs, strict=True)), **static)

    def compute(self, xp: Any, arrays: list[Any], static: dict[str, Any]) -> tuple[Any, Any]:
        found = self.forward(xp, *arrays, **static)
        if type(found) is not tuple or len(found) != 2:
            raise TypeError(
                f"{self.name}: expected its closed form to return a tuple of the output and what "
                f"its gradients need, which may be None, got {_counted(found)}"
            )
        return as_array(found[0]), found[1]

    def gradients(
        self, needed: Sequence[bool], g: Any, y: Any, inputs: Sequence[Any], static: dict[str, Any]
    ) -> Sequence[Any]:
        """By the closed form; `y` is what its forward saved."""
        if self.closed_form is None:
            raise TypeError(
                f"the fused op {self.name!r} has no gradients: declare them with "
                f"@{self.name}.backward, or run it under use_fused(False)"
            )
        found = self.closed_form(module_of(g), needed, g, y, *inputs, **static)
        if not isinstance(found, tuple | list) or len(found) != len(inputs):
            raise TypeError(
                f"the backward of {self.name!r} returned {_counted(found)}: expected a tuple of "
                f"{len(inputs)}, one gradient per input ({', '.join(self.names)})"
            )
        return found


def _counted(found: Any) -> str:
    size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
    return f"{type(found).__name__}{size}"
