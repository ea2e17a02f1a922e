"""Rounding: the error of float32 gradients, eager and compiled, against float64.

Errors are in units of float32's ε times the largest element of the gradient ("ULP of scale"). The
worst over all elements and all gradients counts. The reference is the eager composition in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import mlp, norm

WAYS = ("eager", "compiled", "composition")
NORMS = tuple(
    (op, shape, mean)
    for op in norm.OPS
    for shape, mean in (((64, 32), 0.0), ((1024, 256), 0.0), ((1024, 256), 1000.0))
)


def make(rival: str, ways: Sequence[str], spec: dict[str, Any]) -> tuple[None, dict[str, float]]:
    """The error of each way."""
    import tinybn as tb

    case = _net if "sizes" in spec else _norm
    function, arrays = case(**spec, dtype=np.float32)
    reference, wide = case(**spec, dtype=np.float64)
    with tb.use_fused(False):
        exact = reference(*wide)
    found = {}
    for way in ways:
        with tb.use_fused(way != "composition"):
            run: Any = function if way == "eager" else tb.compile(function)
            for _ in range(3):  # eager, compiling, compiled
                gradients = run(*arrays)
        found[way] = max(map(_ulp, gradients, exact))
    return None, found


def _norm(
    op: str, shape: tuple[int, int], mean: float, dtype: Any
) -> tuple[Callable[..., Sequence[Any]], list[Any]]:
    import tinybn as tb

    given, dy = norm.inputs(op, shape, mean)
    leaves = [tb.tensor(a, dtype=dtype, requires_grad=True) for a in given]
    return norm.gradients_of(op), [*leaves, tb.tensor(dy, dtype=dtype)]


def _net(
    sizes: list[int], batch: int, dtype: Any
) -> tuple[Callable[..., Sequence[Any]], list[Any]]:
    import tinybn as tb

    _, [(x, labels), *_] = mlp.weights_and_batches(sizes, batch)
    model = tb.nn.MLP(sizes, "batch", rng=np.random.default_rng(0)).to(dtype)
    parameters = list(model.parameters())

    def gradients(x: Any, labels: Any) -> Sequence[Any]:
        return tb.grad(tb.ops.cross_entropy(model(x), labels), parameters)

    return gradients, [x.astype(dtype), labels]


def _ulp(gradient: Any, exact: Any) -> float:
    wanted = exact.numpy()
    unit = np.finfo(np.float32).eps * np.abs(wanted).max()
    return float(np.abs(gradient.numpy() - wanted).max() / unit)
