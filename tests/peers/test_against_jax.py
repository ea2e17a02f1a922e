"""JAX as the oracle: gradients, Hessian-vector products, third derivatives."""

import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import ops

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)
jnp = jax.numpy


def standardized(x, axis, eps=1e-5):
    return (x - x.mean(axis, keepdims=True)) / jnp.sqrt(x.var(axis, keepdims=True) + eps)


def group_norm(x, g, b):
    return standardized(x.reshape(len(x), 2, -1), -1).reshape(x.shape) * g + b


def in_space(norm):
    """`norm` of x (5, 6) as (1, 6, 5): the samples as places of one sample with 6 channels."""
    return lambda x, g, b: norm(x.T.reshape((1, 6, 5)), g, b).reshape((6, 5)).T


MEAN, VAR = draw((6,), seed=3), draw((6,), "positive", seed=4)

NORMS = [
    (ops.batch_norm, lambda x, g, b: standardized(x, 0) * g + b),
    (ops.layer_norm, lambda x, g, b: standardized(x, -1) * g + b),
    (lambda x, g, b: ops.group_norm(x, 2, g, b), group_norm),
    (
        lambda x, g, b: ops.rms_norm(x, g) + b,
        lambda x, g, b: x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * g + b,
    ),
    (in_space(ops.batch_norm), lambda x, g, b: standardized(x, 0) * g + b),
    (in_space(ops.instance_norm), lambda x, g, b: standardized(x, 0) * g + b),
    (
        lambda x, g, b: ops.batch_norm(x, g, b, mean=MEAN, var=VAR),
        lambda x, g, b: (x - MEAN) / jnp.sqrt(VAR + 1e-5) * g + b,
    ),
]


@pytest.mark.parametrize(("mine", "theirs"), NORMS)
def test_norms_to_third_order(mine, theirs):
    v, ws = draw((5, 6), seed=9), [draw(s, seed=i + 20) for i, s in enumerate([(5, 6), (6,), (6,)])]
    arrays = [draw((5, 6)), draw((6,), seed=1), draw((6,), seed=2)]
    arrays[1][2] = 0  # a gamma of 0 is legal

    def slope(f):  # d/dx of Σ w · f, as a function of the same arrays
        def g(*xs):
            return sum((d * w).sum() for d, w in zip(jax.grad(f, (0, 1, 2))(*xs), ws, strict=True))

        return g

    xs = [tb.tensor(a, requires_grad=True) for a in arrays]
    f = lambda *a: (theirs(*a) * v).sum() ** 2  # noqa: E731
    y = (mine(*xs) * v).sum() ** 2
    for order in (1, 2, 3):
        gs = tb.grad(y, xs, create_graph=True)
        for g, e in zip(gs, jax.grad(f, (0, 1, 2))(*arrays), strict=True):
            np.testing.assert_allclose(g.numpy(), e, rtol=1e-8, atol=1e-8, err_msg=f"order {order}")
        y = sum((g * w).sum() for g, w in zip(gs, ws, strict=True))
        f = slope(f)


def test_a_network_with_cross_entropy_and_its_hessian_vector_product():
    x, labels = draw((7, 4)), np.arange(7) % 3
    shapes = [(4, 8), (8,), (8,), (8, 3), (3,)]
    arrays = [draw(s, seed=i) for i, s in enumerate(shapes)]
    vs = [draw(s, seed=i + 10) for i, s in enumerate(shapes)]

    def theirs(w1, gamma, beta, w2, b2):
        h = jnp.tanh(standardized(x @ w1, 0) * gamma + beta)
        return -jax.nn.log_softmax(h @ w2 + b2)[np.arange(7), labels].mean()

    def mine(w1, gamma, beta, w2, b2):
        h = ops.tanh(ops.batch_norm(ops.matmul(x, w1), gamma, beta))
        return ops.cross_entropy(ops.linear(h, w2, b2), labels)

    ps = [tb.tensor(a, requires_grad=True) for a in arrays]
    gs = tb.grad(mine(*ps), ps, create_graph=True)
    hvp = tb.grad(sum((g * v).sum() for g, v in zip(gs, vs, strict=True)), ps)
    gradient = jax.grad(theirs, tuple(range(5)))
    expected, expected_hvp = jax.jvp(gradient, tuple(arrays), tuple(vs))
    for a, b in zip((*gs, *hvp), (*expected, *expected_hvp), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-9, atol=1e-11)
