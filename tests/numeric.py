"""Derivatives by central differences, and random data: what tests compare gradients with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import tinybn as tb
from tinybn import backend

STEP = 1e-5  # truncation error STEP² and rounding error 1e-16 / STEP are both about 1e-10


def here(array):
    """`array`, a NumPy array, on the backend that the tests run on: what an op can take beside Tensors."""
    return backend.move(array, backend.default() or "numpy")


def host(value):
    """A Tensor or an array as a NumPy array."""
    return backend.move(value.data if isinstance(value, tb.Tensor) else value, "numpy")


def draw(shape, domain="any", seed=0, dtype=np.float64):
    """Random numbers in the domain of an op, away from its kinks."""
    rng = np.random.default_rng([seed, *shape, len(domain)])
    if domain == "any":
        x = np.asarray(rng.standard_normal(shape))
    elif domain == "positive":
        x = rng.uniform(0.5, 2, shape)
    elif domain == "nonzero":
        x = rng.uniform(0.3, 2, shape) * rng.choice([-1, 1], shape)
    elif domain == "distinct":  # no two elements nearer than 0.1
        x = rng.permutation(int(np.prod(shape, dtype=int))).reshape(shape) / 10 - 0.5
    else:
        raise ValueError(domain)
    return np.asarray(x, dtype)


def differences(f: Callable[..., np.ndarray], inputs, i: int, cotangent) -> np.ndarray:
    """d Σ cotangent · f(*inputs) / d inputs[i], by central differences."""
    out = np.zeros_like(inputs[i])
    for index in np.ndindex(out.shape):
        values = []
        for sign in (1, -1):
            moved = [x.copy() for x in inputs]
            moved[i][index] += sign * STEP
            values.append(np.sum(cotangent * f(*moved)))
        out[index] = (values[0] - values[1]) / (2 * STEP)
    return out


def gradients(f, inputs, cotangent, create_graph=False):
    """The Tensors made of `inputs`, and the gradients of Σ cotangent · f with respect to them."""
    xs = [tb.tensor(x, requires_grad=True) for x in inputs]
    y = f(*xs)
    gs = tb.grad(y, xs, tb.tensor(cotangent, dtype=y.dtype), create_graph=create_graph)
    return xs, gs


def assert_gradients(f, inputs, *, order=1, rtol=1e-6, atol=1e-7):
    """The gradient of f, and that of its gradient, equal central differences (float64)."""
    rng = np.random.default_rng(7)
    v = rng.standard_normal(f(*map(tb.tensor, inputs)).shape)
    _, gs = gradients(f, inputs, v)
    for i, g in enumerate(gs):
        assert g.shape == inputs[i].shape
        expected = differences(lambda *a: f(*map(tb.tensor, a)).numpy(), inputs, i, v)
        np.testing.assert_allclose(g.numpy(), expected, rtol, atol, err_msg=f"input {i}")
    if order == 1:
        return
    ws = [rng.standard_normal(x.shape) for x in inputs]

    def slope(*arrays):  # Σ w · gradient: a function whose gradient is of second order
        xs, gs = gradients(f, arrays, v, create_graph=True)
        return xs, sum((g * here(w)).sum() for g, w in zip(gs, ws, strict=True))

    xs, h = slope(*inputs)
    if not h.requires_grad:  # f is linear: its gradient depends on no input
        for i in range(len(inputs)):
            expected = differences(lambda *a: slope(*a)[1].numpy(), inputs, i, 1.0)
            np.testing.assert_allclose(expected, 0, atol=atol)
        return
    for i, g in enumerate(tb.grad(h, xs, allow_unused=True)):
        expected = differences(lambda *a: slope(*a)[1].numpy(), inputs, i, 1.0)
        found = np.zeros_like(expected) if g is None else g.numpy()
        np.testing.assert_allclose(found, expected, rtol, atol, err_msg=f"order 2, input {i}")
