"""Random step functions: the same eager, compiled on NumPy (to the last bit), and by Numba.

A step is grown from a seed, an op at a time, out of what there is already; it returns some of the
results, and the gradients of a mixture of all of them.
"""

import importlib.util

import numpy as np
import pytest

import tinybn as tb
from tinybn import ops

pytestmark = pytest.mark.host("tests/on_cupy/test_program.py has what is compiled for CuPy")

SEEDS = range(200)
N = 3
SHAPES = [(N, N), (N, N), (N, N), (N,), (N, 1), (1, N), (), (2, N, N)]
UNARY = ["exp", "tanh", "sigmoid", "relu", "negative", "abs", "softmax", "log_softmax"]
BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "where", "power"]
REDUCTIONS = ["sum", "mean", "var", "max", "min", "logsumexp"]


def grown(seed, dtype):
    """A random step, and three lists of arguments for it."""
    rng = np.random.default_rng(seed)
    plan = [rng.integers(1 << 30) for _ in range(rng.integers(3, 14))]
    wanted = rng.integers(1 << 30)

    def step(inputs):
        xs = [tb.tensor(x, requires_grad=True) for x in inputs]
        values = [*xs]
        for choice in plan:
            values.append(tamed(one_more(values, np.random.default_rng(choice))))
        choose = np.random.default_rng(wanted)
        picked = [values[i] for i in choose.integers(len(values), size=3)]
        total = sum((v * (i + 1)).sum() for i, v in enumerate(values))
        second = bool(choose.integers(2))
        gs = tb.grad(total, xs, create_graph=second)
        if second:
            gs += tb.grad(sum((g * g).sum() for g in gs), xs, allow_unused=True)
        return picked, total, gs

    calls = [[rng.standard_normal(s).astype(dtype) for s in SHAPES] for _ in range(3)]
    return step, calls


def tamed(y):
    """Numbers that stay near 1 however many ops follow."""
    return ops.tanh(y) if y.size else y


def one_more(values, rng):
    """A random op of random values."""
    a, b = (values[i] for i in rng.integers(len(values), size=2))
    kind = rng.choice(["unary", "binary", "binary", "reduce", "shape", "matmul", "number", "norm"])
    if kind == "unary" and a.ndim:
        return getattr(ops, str(rng.choice(UNARY)))(a)
    if kind == "binary" and fit(a, b):
        name = str(rng.choice(BINARY))
        if name == "divide":
            return a / (b * b + 1)
        if name == "power":
            return (a * a + 1) ** b
        return ops.where(a > b, a, b * 2) if name == "where" else getattr(ops, name)(a, b)
    if kind == "reduce" and a.ndim:
        axis = [None, 0, -1][rng.integers(3)]
        op = getattr(ops, str(rng.choice(REDUCTIONS)))
        return op(a, axis, keepdims=bool(rng.integers(2)))
    if kind == "shape" and a.ndim:
        return reshaped(a, rng)
    if kind == "matmul":
        square = [v for v in values if v.shape == (N, N)]
        return square[rng.integers(len(square))] @ square[rng.integers(len(square))]
    if kind == "norm" and a.ndim == 2 and a.shape[0] > 1:
        return [ops.batch_norm, ops.layer_norm, ops.rms_norm][rng.integers(3)](a)
    return [a * 2, 1 - a, a / 3, a**2, a * 0.5 + 1][rng.integers(5)]


def fit(a, b):
    try:
        return np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return None


def reshaped(a, rng):
    how = rng.integers(6)
    if how == 0:
        return a.reshape(-1)
    if how == 1:
        return a.transpose()
    if how == 2:
        return ops.expand_dims(a, 0)
    if how == 3:
        return a[0]
    if how == 4:
        return ops.concatenate([a, a * 2], -1)
    return ops.broadcast_to(a, (2, *a.shape))


def compare(seed, backend, dtype, close):
    step, calls = grown(seed, dtype)
    run = tb.compile(step, backend=backend)
    for inputs in calls:
        expected, found = flat(step(inputs)), flat(run(inputs))
        for a, b in zip(found, expected, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            close(a, b)
    assert run.recordings == 1


def flat(result):
    picked, total, gs = result
    return [t.numpy() for t in (*picked, total, *gs) if t is not None]


@pytest.mark.parametrize("seed", SEEDS)
def test_on_numpy_to_the_last_bit(seed):
    compare(seed, "numpy", np.float32, np.testing.assert_array_equal)


@pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="Numba is not installed")
@pytest.mark.parametrize("seed", SEEDS[::20])  # the first time, each takes seconds to compile
def test_by_numba_to_rounding(seed):
    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * (np.abs(b).max(initial=0) + 1))

    compare(seed, "numba", np.float64, close)
