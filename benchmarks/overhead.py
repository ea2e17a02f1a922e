"""The cost of an op in eager mode: µs for one op of small arrays, forward and backward.

Each rival records the same chain of LENGTH ops and walks it back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.rivals import native

LENGTH = 100
SHAPE = (8, 8)
OPS = ("add", "multiply", "relu", "matmul", "linear", "batch_norm", "layer_norm")
RIVALS = ("eager", "torch", "autograd", "mygrad")


def make(rival: str, op: str) -> tuple[Callable[[], Any] | None, dict[str, Any]]:
    """A chain of one op, forward and backward, or None if the rival has no such op."""
    rng = np.random.default_rng(0)
    x, a = rng.standard_normal((2, *SHAPE)).astype(np.float32)
    a /= 4  # so that a chain of products stays small
    vector = rng.uniform(0.5, 1, SHAPE[1:]).astype(np.float32)
    operands = {
        "add": [a],
        "multiply": [np.ones_like(a)],
        "relu": [],
        "matmul": [a],
        "linear": [a, vector],
    }.get(op, [vector, vector])
    x, *operands = native(rival, x, *operands)
    function = _function(rival, op)
    if function is None:
        return None, {"missing": "no such op"}
    chain = {"eager": _eager, "torch": _torch, "autograd": _autograd, "mygrad": _mygrad}[rival]
    return chain(function, x, operands), {}


def _function(rival: str, op: str) -> Any:
    """The op by its name in each library."""
    if rival == "eager":
        import tinybn as tb

        return getattr(tb.ops, op)
    if rival == "torch":
        import torch
        from torch.nn import functional as f

        return {
            "linear": lambda x, w, b: f.linear(x, w, b),
            "batch_norm": lambda x, g, b: f.batch_norm(x, None, None, g, b, training=True),
            "layer_norm": lambda x, g, b: f.layer_norm(x, g.shape, g, b),
        }.get(op) or getattr(torch, op)
    if rival == "autograd":
        import autograd.numpy as anp

        return {
            "add": anp.add,
            "multiply": anp.multiply,
            "relu": lambda x: anp.maximum(x, 0),
            "matmul": anp.matmul,
        }.get(op)
    import mygrad as mg
    from mygrad.nnet.activations import relu
    from mygrad.nnet.layers import batchnorm

    return {
        "add": mg.add,
        "multiply": mg.multiply,
        "relu": relu,
        "matmul": mg.matmul,
        "batch_norm": lambda x, g, b: batchnorm(x, gamma=g, beta=b, eps=1e-5),
    }.get(op)


def _eager(function: Any, x: Any, operands: list[Any]) -> Callable[[], Any]:
    import tinybn as tb

    leaves = [tb.tensor(a, requires_grad=True) for a in (x, *operands)]
    ones = tb.tensor(np.ones_like(x))

    def work() -> Any:
        y, *others = leaves
        for leaf in leaves:
            leaf.grad = None
        for _ in range(LENGTH):
            y = function(y, *others)
        y.backward(ones)
        assert leaves[0].grad is not None
        return leaves[0].grad.data

    return work


def _torch(function: Any, x: Any, operands: list[Any]) -> Callable[[], Any]:
    import torch

    leaves = [a.requires_grad_() for a in (x, *operands)]
    ones = torch.ones_like(x)

    def work() -> Any:
        y, *others = leaves
        for leaf in leaves:
            leaf.grad = None
        for _ in range(LENGTH):
            y = function(y, *others)
        y.backward(ones)
        return x.grad

    return work


def _autograd(function: Any, x: Any, operands: list[Any]) -> Callable[[], Any]:
    from autograd import make_vjp

    def chain(inputs: Any) -> Any:
        y, *others = inputs
        for _ in range(LENGTH):
            y = function(y, *others)
        return y

    pull_back = make_vjp(chain)
    ones = np.ones_like(x)
    return lambda: pull_back([x, *operands])[0](ones)[0]


def _mygrad(function: Any, x: Any, operands: list[Any]) -> Callable[[], Any]:
    import mygrad as mg

    leaves = [mg.tensor(a) for a in (x, *operands)]
    ones = np.ones_like(x)

    def work() -> Any:
        y, *others = leaves
        for _ in range(LENGTH):
            y = function(y, *others)
        y.backward(ones)
        return leaves[0].grad

    return work
