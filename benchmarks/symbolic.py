"""PyTensor, the nearest rival: a symbolic graph of the whole step, compiled by Numba.

Each network is one function. Its state is in shared variables, which it updates in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.floor import ADAM_EPS, BETA1, BETA2, EPS, LR, MOMENTUM


def pytensor(weights: Sequence[np.ndarray], optimizer: str) -> Callable[[Any, Any], Any]:
    """The step; the environment sets its mode (see worker.py)."""
    import pytensor
    import pytensor.tensor as pt

    updates: list[tuple[Any, Any]] = []

    def shared(value: Any) -> Any:
        return pytensor.shared(np.array(value, np.float32))

    def running(start: np.ndarray, new: Any) -> None:
        statistic = shared(start)
        updates.append((statistic, 0.9 * statistic + 0.1 * new))

    x, labels = pt.fmatrix("x"), pt.lvector("labels")
    n = x.shape[0].astype("float32")
    params, h = [], x
    for w in weights[:-1]:
        zeros, ones = np.zeros(w.shape[1]), np.ones(w.shape[1])
        weight, gamma, beta = layer = [shared(w), shared(ones), shared(zeros)]
        params += layer
        z = h @ weight
        d = z - z.mean(axis=0)
        var = (d * d).mean(axis=0)
        running(zeros, z.mean(axis=0))
        running(ones, var * (n / (n - 1)))
        h = pt.maximum(d / pt.sqrt(var + EPS) * gamma + beta, 0)
    weight, bias = layer = [shared(weights[-1]), shared(np.zeros(weights[-1].shape[1]))]
    params += layer
    log_p = pt.special.log_softmax(h @ weight + bias, axis=1)
    loss = -log_p[pt.arange(x.shape[0]), labels].mean()
    gradients = pytensor.grad(loss, params)
    updates += (_sgd if optimizer == "sgd" else _adam)(params, gradients, shared)
    return pytensor.function([x, labels], loss, updates=updates)


def _sgd(params: list[Any], gradients: list[Any], shared: Any) -> list[tuple[Any, Any]]:
    updates = []
    for p, g in zip(params, gradients, strict=True):
        v = shared(np.zeros_like(p.get_value()))
        new_v = MOMENTUM * v + g
        updates += [(v, new_v), (p, p - LR["sgd"] * new_v)]
    return updates


def _adam(params: list[Any], gradients: list[Any], shared: Any) -> list[tuple[Any, Any]]:
    import pytensor.tensor as pt

    t = shared(0)
    updates = [(t, t + 1)]
    rate = LR["adam"] / (1 - BETA1 ** (t + 1))
    correction = 1 / pt.sqrt(1 - BETA2 ** (t + 1))
    for p, g in zip(params, gradients, strict=True):
        m, v = (shared(np.zeros_like(p.get_value())) for _ in range(2))
        new_m = BETA1 * m + (1 - BETA1) * g
        new_v = BETA2 * v + (1 - BETA2) * g * g
        step = rate * new_m / (pt.sqrt(new_v) * correction + ADAM_EPS)
        updates += [(m, new_m), (v, new_v), (p, p - step)]
    return updates
