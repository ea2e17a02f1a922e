"""Norm ops alone, forward and backward with gradients of all inputs, float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.rivals import native

SHAPES = ((32, 64), (128, 256), (256, 1024), (1024, 1024), (4096, 1024))
"""Rows, features."""
OPS = ("batch", "layer", "rms")
RIVALS = ("compiled", "composition", "eager", "torch", "jax")
EPS = 1e-5


def inputs(op: str, shape: tuple[int, int], mean: float = 0.0) -> tuple[list[np.ndarray], Any]:
    """x, gamma, beta (not for RMS norm) and the gradient of the output."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    parameters = rng.uniform(0.5, 2, (1 if op == "rms" else 2, shape[1])).astype(np.float32)
    return [x + np.float32(mean), *parameters], dy


def make(rival: str, op: str, shape: tuple[int, int]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Forward and backward of a norm, and a few elements of its gradient of x."""
    given, dy = inputs(op, shape)
    arrays = native(rival, *given, dy)
    if rival == "torch":
        work = _torch(op, *arrays)
    elif rival == "jax":
        work = _jax(op, *arrays)
    else:
        import tinybn as tb

        function: Any = gradients_of(op)
        if rival != "eager":
            function = tb.compile(function)
        leaves = [tb.tensor(a, requires_grad=True) for a in given]
        upstream = tb.tensor(dy)

        def work() -> Any:
            return function(*leaves, upstream)[0].data

    return work, {"dx": np.asarray(work())[:2, :4].ravel().tolist()}


def check_gradients(found: dict[str, list[float]]) -> None:
    """Raise unless all rivals computed the same gradient."""
    for rival, dx in found.items():
        if not np.allclose(dx, found["eager"], rtol=1e-3, atol=1e-5):
            raise RuntimeError(f"{rival} does other work: dx {dx}, expected {found['eager']}")


def gradients_of(op: str) -> Callable[..., tuple[Any, ...]]:
    """tinybn's norm: a function of its inputs and dy that returns the gradients of the inputs."""
    import tinybn as tb

    norm: Any = {
        "batch": tb.ops.batch_norm,
        "layer": tb.ops.layer_norm,
        "rms": tb.ops.rms_norm,
    }[op]

    def gradients(*given: Any) -> tuple[Any, ...]:
        *leaves, dy = given
        return tb.grad(norm(*leaves, eps=EPS), leaves, dy)

    return gradients


def _torch(op: str, *arrays: Any) -> Callable[[], Any]:
    from torch.nn import functional

    *leaves, dy = arrays
    leaves = [leaf.requires_grad_() for leaf in leaves]
    x, *parameters = leaves
    width = parameters[0].shape

    def work() -> Any:
        for leaf in leaves:
            leaf.grad = None
        if op == "batch":
            y = functional.batch_norm(x, None, None, *parameters, training=True, eps=EPS)
        elif op == "layer":
            y = functional.layer_norm(x, width, *parameters, eps=EPS)
        else:
            y = functional.rms_norm(x, width, *parameters, eps=EPS)
        y.backward(dy)
        return x.grad

    return work


def _jax(op: str, *arrays: Any) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    *given, dy = arrays
    axis = 0 if op == "batch" else 1

    def norm(x: Any, gamma: Any, beta: Any = 0.0) -> Any:
        d = x if op == "rms" else x - x.mean(axis, keepdims=True)
        return d / jnp.sqrt((d * d).mean(axis, keepdims=True) + EPS) * gamma + beta

    def both(dy: Any, *given: Any) -> Any:
        y, pull_back = jax.vjp(norm, *given)
        return y, pull_back(dy)

    compiled = jax.jit(both)
    return lambda: compiled(dy, *given)[1][0]
