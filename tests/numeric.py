"""Random data, here and on the host, and gradients: what many tests need."""

import numpy as np

import tinybn as tb
from tinybn import backend
from tinybn.modes import current_mode


def here(array):
    """`array`, a NumPy array, on the backend that the tests run on: what an op can take beside Tensors."""
    return backend.move(array, current_mode().backend or "numpy")


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


def gradients(f, inputs, cotangent):
    """The Tensors made of `inputs`, and the gradients of Σ cotangent · f with respect to them."""
    xs = [tb.tensor(x, requires_grad=True) for x in inputs]
    y = f(*xs)
    gs = tb.grad(y, xs, tb.tensor(cotangent, dtype=y.dtype))
    return xs, gs
