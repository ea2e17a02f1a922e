"""What the checker compares with: numbers that tinybn recorded while it ran.

Each case is one batch that went through a norm, forward and backward, without closed forms. The
means, variances and gradients are those of the nodes of the recorded graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from tinybn import nn, ops
from tinybn.autodiff import grad
from tinybn.check import explain_batch_norm
from tinybn.modes import use_fused, watch
from tinybn.op import Node
from tinybn.tensor import Tensor, wrap

Case: TypeAlias = SimpleNamespace
"""A batch: its `title`, `n` (how many elements share a mean), and arrays by the names of the file.
"""


def recorded(norm: Any, data: Sequence[Any], eps: float) -> dict[str, Any]:
    """What one call of a norm, and its backward pass, left at each node.

    data: x, gamma, beta, and dy, the gradient of the output.
    """
    x, gamma, beta, dy = data
    leaves = [Tensor(a, requires_grad=True, backend="numpy") for a in (x, gamma, beta)]
    found: dict[str, list[Tensor]] = {}

    def note(node: Node, array: Any) -> None:
        found.setdefault(node.op.name, []).append(wrap(array, node))

    with use_fused(False), watch(None, note):
        y = norm(*leaves, eps=eps)
    (mean, var), (x_hat,) = found["mean"], found["divide"]
    nodes = {"x_hat": x_hat, "var": var, "mean": mean, "x": leaves[0]}
    gradients = grad(y, nodes.values(), Tensor(dy, backend="numpy"))
    arrays = {name: node.numpy() for name, node in nodes.items()}
    arrays |= {f"d_{name}": g.numpy() for name, g in zip(nodes, gradients, strict=True)}
    return {**arrays, "y": y.numpy(), "gamma": gamma, "beta": beta, "dy": dy, "eps": eps}


def with_dy(case: Case, dy: Any) -> Any:
    """The gradient of x in the same batch, for another gradient of y."""
    return recorded(ops.batch_norm, [case.x, case.gamma, case.beta, dy], case.eps)["d_x"]


def _batch_norm(title: str, data: Sequence[Any], eps: float) -> Case:
    arrays = recorded(ops.batch_norm, data, eps)
    x, gamma, _, dy = data
    per_column = ("mean", "var", "d_mean", "d_var")
    arrays |= {name: arrays[name].reshape(-1) for name in per_column}
    paths = explain_batch_norm(x, dy, gamma, eps=eps)
    arrays |= {"direct": paths.direct, "through_mean": paths.through_mean}
    return Case(title=title, n=len(x), through_var=paths.through_variance, **arrays)


def _drawn(shape: tuple[int, int], seed: int) -> list[Any]:
    """x, gamma, beta and dy. No column of x has mean 0, and one number in gamma is 0."""
    rng = np.random.default_rng([seed, *shape])
    x = rng.uniform(1, 3, shape[1]) + rng.uniform(0.5, 2, shape[1]) * rng.standard_normal(shape)
    gamma = rng.uniform(0.5, 2, shape[1]) * rng.choice([-1, 1], shape[1])
    gamma[shape[1] // 2] = 0.0
    return [x, gamma, rng.standard_normal(shape[1]), rng.standard_normal(shape)]


def columns() -> list[Case]:
    """Batches for batch norm: the cookie first, then random ones."""
    cookie = [np.array([[2.0], [10.0], [6.0]]), np.ones(1), np.zeros(1), np.eye(3)[:, :1]]
    level = _drawn((6, 4), 3)
    level[0][:, 1] = 2.0
    return [
        _batch_norm("x = [2, 10, 6], one column", cookie, 0.0),
        _batch_norm("a random batch (5 rows, 3 columns)", _drawn((5, 3), 1), 1e-5),
        _batch_norm("a random batch (4 rows, 4 columns) with a large eps", _drawn((4, 4), 2), 0.5),
        _batch_norm("a random batch (6 rows, 4 columns) whose column 1 is constant", level, 1e-3),
    ]


def rows() -> list[Case]:
    """Batches for layer norm. mean and var have shape (n, 1)."""
    level = _drawn((6, 4), 3)
    level[0][1, :] = 2.0
    drawn: list[tuple[str, list[Any], float]] = [
        ("a random batch (5 rows, 3 columns)", _drawn((5, 3), 1), 1e-5),
        ("a random batch (4 rows, 4 columns) with a large eps", _drawn((4, 4), 2), 0.5),
        ("a random batch (6 rows, 4 columns) whose row 1 is constant", level, 1e-3),
    ]
    return [
        Case(title=title, n=data[0].shape[1], **recorded(ops.layer_norm, data, eps))
        for title, data, eps in drawn
    ]


def running() -> list[Case]:
    """Batches for running statistics, before and after `nn.BatchNorm` has seen them."""
    cases = []
    for title, shape, momentum in (
        ("a random batch of 5 rows", (5, 3), 0.1),
        ("a random batch of 4 rows", (4, 2), 0.3),
        ("a random batch of 8 rows, momentum 0.9", (8, 8), 0.9),
    ):
        x, mean, _, var = _drawn(shape, 4)
        before = {"running_mean": mean, "running_var": var[0] ** 2 + 0.5}
        layer = nn.BatchNorm(shape[1], momentum=momentum).to("numpy").to(np.float64)
        layer.load_state_dict({**layer.state_dict(), **before})
        with use_fused(False):
            layer(Tensor(x, backend="numpy"))
        after = layer.state_dict()
        new = {"new_mean": after["running_mean"], "new_var": after["running_var"]}
        cases.append(Case(title=title, n=len(x), x=x, momentum=momentum, **before, **new))
    return cases


def roots() -> list[Case]:
    """Arrays for 1/√a."""
    cases = []
    for title, shape in (("a random array", (2, 3)), ("a column", (4, 1))):
        rng = np.random.default_rng(shape)
        a, g = Tensor(rng.uniform(0.3, 3, shape), requires_grad=True), rng.standard_normal(shape)
        y = 1 / ops.sqrt(a)
        d_a = grad(y, a, g, retain_graph=True)[0].numpy()
        cases.append(Case(title=title, n=a.size, a=a.numpy(), g=g, y=y.numpy(), d_a=d_a))
    return cases


def rms_rows() -> list[Case]:
    """Batches for RMS norm."""
    cases = []
    for title, shape, eps in (
        ("a random batch (2 rows, 3 columns)", (2, 3), 1e-5),
        ("a random batch (4 rows, 4 columns) with a large eps", (4, 4), 0.5),
    ):
        x, _, _, g = _drawn(shape, 5)
        t = Tensor(x, requires_grad=True, backend="numpy")
        with use_fused(False):
            x_hat = ops.rms_norm(t, eps=eps)
        d_x = grad(x_hat, t, Tensor(g, backend="numpy"), retain_graph=True)[0].numpy()
        case = Case(title=title, n=shape[1], x=x, eps=eps, g=g, x_hat=x_hat.numpy(), d_x=d_x)
        cases.append(case)
    return cases
