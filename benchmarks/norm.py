"""Norm ops alone, forward and backward with gradients of x, gamma and beta, float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.rivals import native

SHAPES = ((64, 32), (256, 128), (256, 1024), (1024, 512), (4096, 1024))
RIVALS = ("fused", "composed", "torch", "jax")


def make(
    rival: str, op: str, shape: tuple[int, int]
) -> tuple[Callable[[], Any], dict[str, list[float]]]:
    """Forward and backward of "batch" or "layer" norm, and a few numbers of its gradient of x."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    gamma, beta = rng.uniform(0.5, 2, (2, shape[1])).astype(np.float32)
    maker = {"torch": _torch, "jax": _jax}.get(rival, _tinybn)
    work = maker(op, rival == "fused", *native(rival, x, gamma, beta, dy))
    return work, {"dx": np.asarray(work())[:2, :4].ravel().tolist()}


def check_gradients(found: dict[str, list[float]]) -> None:
    """Whether all computed the same."""
    for rival, dx in found.items():
        if not np.allclose(dx, found["fused"], rtol=1e-3, atol=1e-5):
            raise RuntimeError(f"{rival} does other work: dx {dx}, expected {found['fused']}")


def _tinybn(op: str, fused: bool, x: Any, gamma: Any, beta: Any, dy: Any) -> Callable[[], Any]:
    import tinybn as tb

    function: Any = {"batch": tb.ops.batch_norm, "layer": tb.ops.layer_norm}[op]
    leaves = [tb.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    upstream = tb.tensor(dy)

    def work() -> Any:
        for leaf in leaves:
            leaf.grad = None
        with tb.use_fused(fused):
            function(*leaves).backward(upstream)
        assert leaves[0].grad is not None
        return leaves[0].grad.data

    return work


def _torch(op: str, _: bool, x: Any, gamma: Any, beta: Any, dy: Any) -> Callable[[], Any]:
    from torch.nn import functional

    leaves = [a.requires_grad_() for a in (x, gamma, beta)]

    def work() -> Any:
        for leaf in leaves:
            leaf.grad = None
        if op == "batch":
            y = functional.batch_norm(x, None, None, gamma, beta, training=True)
        else:
            y = functional.layer_norm(x, gamma.shape, gamma, beta)
        y.backward(dy)
        return x.grad

    return work


def _jax(op: str, _: bool, x: Any, gamma: Any, beta: Any, dy: Any) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    axis = 0 if op == "batch" else 1

    def norm(x: Any, gamma: Any, beta: Any) -> Any:
        d = x - x.mean(axis, keepdims=True)
        return d / jnp.sqrt(x.var(axis, keepdims=True) + 1e-5) * gamma + beta

    def both(x: Any, gamma: Any, beta: Any, dy: Any) -> Any:
        y, pull_back = jax.vjp(norm, x, gamma, beta)
        return y, pull_back(dy)

    compiled = jax.jit(both)
    return lambda: compiled(x, gamma, beta, dy)[1][0]
