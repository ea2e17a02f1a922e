"""SGD, Adam and AdamW on CuPy: one kernel for each parameter (the formulas: optim.py)."""

from __future__ import annotations

import functools
from typing import Any

from tinybn.backend import Array, when_cupy_is_used
from tinybn.on_cupy import kernel
from tinybn.op import module_of
from tinybn.optim import SGD, Adam, AdamW


def _elementwise(xp: Any, name: str, given: str, numbers: str, new: str, code: str) -> Any:
    inputs = [f"{a.upper()} {a}" for a in given.split()]  # each has a dtype of its own
    inputs += [f"float64 {n}" for n in numbers.split()]
    outputs = ", ".join(f"P {a}" for a in new.split())
    at_least_float32 = "typedef decltype(0.0f + P()) A;"
    return xp.ElementwiseKernel(", ".join(inputs), outputs, code, name, preamble=at_least_float32)


@kernel
def sgd(xp: Any) -> Any:
    """Without momentum, v is anything."""
    code = """A d = g + (A)decay * p, a = momentum == 0 ? d : (A)momentum * v + d;
        q = p - (A)lr * (nesterov ? d + (A)momentum * a : a), w = a;"""
    return _elementwise(xp, "sgd", "p g v", "lr decay momentum nesterov", "q w", code)


@kernel
def adam(xp: Any) -> Any:
    """Adam has its weight decay in g, AdamW apart."""
    code = """A d = g + (A)decay * p;
        A a = (A)beta1 * m + (A)(1 - beta1) * d, b = (A)beta2 * v + (A)(1 - beta2) * (d * d);
        A direction = (a / (A)correction1) / (sqrt(b / (A)correction2) + (A)eps);
        q = p - (A)lr * (direction + (A)apart * p), n = a, w = b;"""
    numbers = "lr correction1 correction2 decay apart beta1 beta2 eps"
    return _elementwise(xp, "adam", "p g m v", numbers, "q n w", code)


def sgd_update(self: Any, p: Array, g: Array, *v: Array, lr: Any) -> Any:
    """SGD.update."""
    numbers = lr, self.weight_decay, self.momentum if v else 0.0, self.nesterov
    return sgd(module_of(p))(p, g, *(v or [g]), *numbers)[: 1 + len(v)]


def adam_update(self: Any, *arrays: Array, decoupled: bool = False, **numbers: Any) -> Any:
    """Adam.update; decoupled: AdamW's."""
    decays = (0.0, self.weight_decay) if decoupled else (self.weight_decay, 0.0)
    settings = *numbers.values(), *decays, *self.betas, self.eps
    return adam(module_of(arrays[0]))(*arrays, *settings)


@when_cupy_is_used
def _(cupy: Any) -> None:
    optimizers: list[Any] = [SGD, Adam, AdamW]
    updates = sgd_update, adam_update, functools.partial(adam_update, decoupled=True)
    for optimizer, update in zip(optimizers, updates, strict=True):
        optimizer.update.on(cupy, update)
