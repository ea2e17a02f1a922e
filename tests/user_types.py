"""What a user's type checker must accept, and what it must refuse: `make lint` runs mypy on this.

Every `type: ignore` marks an error that mypy has to find: an unused one is an error itself.
"""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np

import tinybn as tb
from tinybn import Tensor, nn, ops


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        self.norm = nn.BatchNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(self.norm(x)) + x


@tb.primitive(lambda g, k: g * k)
def scaled(xp: Any, a: Any, k: float = 2.0) -> Any:
    return a * k


def accepted(x: Tensor) -> None:
    y = ops.batch_norm(x, eps=1e-5)
    assert_type(y, Tensor)
    assert_type(x.sum(), Tensor)
    assert_type(x.sum(0, keepdims=True).exp().mean(axis=(0, 1)), Tensor)
    assert_type(1 + x * 2 - x / x, Tensor)
    assert_type(x @ x.T, Tensor)
    assert_type(x.reshape(2, -1).transpose(1, 0), Tensor)
    for row in x:
        assert_type(row, Tensor)
    assert_type(Block(4)(x), Tensor)
    for p in Block(4).parameters():
        assert_type(p, Tensor)
    assert_type(scaled(x, k=3.0), Tensor)
    assert_type(ops.layer_norm.with_saved(x)[0], Tensor)
    assert_type(x.grad, Tensor | None)
    y.sum().backward(retain_graph=True)
    with tb.no_grad(), tb.use_fused(False):
        ops.cross_entropy(x, np.zeros(3, int))


def refused(x: Tensor) -> None:
    ops.batch_norm(x, epsilon=1e-5)  # type: ignore[call-arg]
    ops.layer_norm(x, axis="last")  # type: ignore[arg-type]
    ops.sum(x, axs=0)  # type: ignore[call-arg]
    x.sum(axs=0)  # type: ignore[call-arg]
    x.softmaxx()  # type: ignore[attr-defined]
    scaled(x, factor=3.0)  # type: ignore[call-arg]
    nn.BatchNorm(8, epsilon=1e-5)  # type: ignore[call-arg]
    nn.Linear("8", 4)  # type: ignore[arg-type]
    tb.optim.SGD([x], lr="fast")  # type: ignore[arg-type]
