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
    """
    return lambda forward: FusedOp(forward, composition).call


class FusedOp(Op):
    """See `fused`."""

    optional = True

    def __init__(self, forward: Callable[..., Any], composition: Callable[..., Tensor]) -> None:
        parameters = inspect.signature(forward).parameters.values()
        inputs = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
        super().__init__(forward, inspect.signature(composition), inputs)
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
        y, saved = self.forward(xp, *arrays, **static)
        return as_array(y), saved

    def gradients(
        self, needed: Sequence[bool], g: Any, y: Any, inputs: Sequence[Any], static: dict[str, Any]
    ) -> Sequence[Any]:
        """By the closed form; `y` is what its forward saved."""
        return self.closed_form(module_of(g), needed, g, y, *inputs, **static)
