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

The arrays of one backend may have a forward and a backward of their own, such as CuPy's kernels:
`@layer_norm.forward_on("cupy")`, `@layer_norm.backward_on("cupy")`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tinybn.backend import Array
from tinybn.recording import Op, current_mode, in_mode, module_of, remember, unpack
from tinybn.signatures import sorting
from tinybn.tensor import Tensor

FUSED: dict[str, FusedOp] = {}
"""Every fused op by name."""


def use_fused(wanted: bool = True) -> AbstractContextManager[None]:
    """Fused ops of this block, in this thread, run their closed forms, or else compositions."""
    return in_mode(fused=wanted)


class Fused(Protocol):
    """An op made by `fused`: a function with the signature of its composition.

    with_saved: the same, but it returns the output and what the closed form saved for its backward
    (None of a composition). op: what was declared. backward, …: see `fused`.
    """

    __name__: str
    op: FusedOp
    backward: Callable[[Callable[..., Any]], None]
    forward_on: Callable[[str], Callable[[Callable[..., Any]], None]]
    backward_on: Callable[[str], Callable[[Callable[..., Any]], None]]
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
        super().__init__(forward, (None,) * len(inputs))
        self.differentiable = self.keeps_output = True
        self.unread = self.constant = []  # the composition reads everything
        self.composition = composition
        self.forwards: dict[str, Callable[..., Any]] = {}
        self.backwards: dict[str, Callable[..., Any]] = {}
        call: Any = sorting(self.run, composition, inputs, then="[0]")
        call.op = self
        call.with_saved = sorting(self.run, composition, inputs)
        call.backward = self.backward
        call.forward_on, call.backward_on = self.forward_on, self.backward_on
        self.call: Fused = call
        FUSED[self.name] = self

    def backward(self, closed_form: Callable[..., Any]) -> None:
        """Declare the closed form of the gradients (a decorator)."""
        self.closed_form = closed_form

    def forward_on(self, backend: str) -> Callable[[Callable[..., Any]], None]:
        """Declare another forward for the arrays of `backend` (a decorator)."""
        return functools.partial(self.forwards.__setitem__, backend)

    def backward_on(self, backend: str) -> Callable[[Callable[..., Any]], None]:
        """Declare another backward, which gets what that forward saved (a decorator)."""
        return functools.partial(self.backwards.__setitem__, backend)

    def run(self, inputs: list[Any], static: dict[str, Any]) -> tuple[Any, Any]:
        """The output, and what was saved."""
        if not current_mode().fused:
            return self.compose(inputs, static), None
        arrays, sources, needed, xp, state = unpack(self, inputs)
        forward = self.forwards.get(xp.__name__, self.forward)
        y, saved = forward(xp, *arrays, **static)
        if state:
            y = remember(self, y, saved, arrays, sources, needed, static, state)
        return y, saved

    def compose(self, inputs: list[Any], static: dict[str, Any]) -> Tensor:
        """The output again, from primitive ops."""
        with use_fused(False):
            return self.composition(**dict(zip(self.names, inputs, strict=True)), **static)

    def gradients(
        self,
        needed: Sequence[bool],
        g: Array,
        saved: Any,
        inputs: list[Any],
        static: dict[str, Any],
    ) -> Any:
        """By the closed form; anything may stand in the place of those that are not needed."""
        xp = module_of(g)
        backward = self.backwards.get(xp.__name__, self.closed_form)
        return backward(xp, needed, g, saved, *inputs, **static)
