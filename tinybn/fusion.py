"""Fused ops: a closed form in place of a composition of primitive ops, which stays its oracle.

    @fused(composition=norm.layer_norm)
    def layer_norm(xp, x, gamma, beta, *, axis, eps):
        ...
        return y, saved

    @layer_norm.backward
    def _(xp, needed, g, saved, x, gamma, beta, *, axis, eps):
        ...
        return dx, dgamma, dbeta

A fused op leaves one node in the graph, and works on arrays alone. Derivatives of higher order are
those of the composition: a closed form can't be wrong where it says nothing. Every fused op is in
`FUSED`, so that whatever compares them with their compositions meets all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tinybn.modes import current_mode, use_fused
from tinybn.tape import Op, module_of, remember, unpack
from tinybn.tensor import Tensor

FUSED: dict[str, FusedOp] = {}
"""Every fused op by name."""


class Fused(Protocol):
    """An op made by `fused`: a function with the signature of its composition.

    with_saved: the same, but it returns the output and what the closed form saved for its backward
    (None of a composition). op: what was declared. backward, …: see `fused`.
    """

    __name__: str
    op: FusedOp
    backward: Callable[[Callable[..., Any]], None]
    with_saved: Callable[..., tuple[Any, Any]]

    def __call__(self, *args: Any, **static: Any) -> Any: ...


def fused(composition: Callable[..., Tensor]) -> Callable[[Callable[..., Any]], Fused]:
    """Make an op of a closed form that must equal `composition`, whose arguments it takes.

    The function takes the array library `xp` and the inputs, which are arrays or None; what is
    static follows as keywords. It returns the output, and whatever its backward wants to keep. That
    is declared by `@op.backward`: a function of `xp`, which of the inputs `needed` a gradient (one
    bool each), the gradient `g` of the output, what was saved, and the same arguments. It returns
    one gradient per input, in the shape of that; None, or anything, where none is needed.
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

        declared = self.parameters.function(
            lambda inputs, static: self.run(inputs, static)[0], forward
        )
        declared.with_saved = self.parameters.function(self.run, forward)
        declared.__doc__ = declared.with_saved.__doc__ = composition.__doc__
        declared.op = self
        declared.backward = self.backward
        self.call: Fused = declared
        FUSED[self.name] = self

    def backward(self, closed_form: Callable[..., Any]) -> None:
        """Declare the closed form of the gradients (a decorator)."""
        self.closed_form = closed_form

    def run(self, inputs: Sequence[Any], static: dict[str, Any]) -> tuple[Any, Any]:
        """The output, and what was saved."""
        if not current_mode().fused:
            return self.compose(inputs, static), None
        arrays, sources, needed, xp, state = unpack(self, inputs)
        y, saved = self.forward(xp, *arrays, **static)
        if state:
            y = remember(self, y, saved, arrays, sources, needed, static, state)
        return y, saved

    def compose(self, inputs: Sequence[Any], static: dict[str, Any]) -> Tensor:
        """The output again, from primitive ops."""
        with use_fused(False):
            return self.composition(**dict(zip(self.names, inputs, strict=True)), **static)

    def gradients(
        self, needed: Sequence[bool], g: Any, y: Any, inputs: Sequence[Any], static: dict[str, Any]
    ) -> Sequence[Any]:
        """By the closed form, from what the forward saved in place of y."""
        return self.closed_form(module_of(g), needed, g, y, *inputs, **static)
