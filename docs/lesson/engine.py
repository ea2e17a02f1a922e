"""A reverse-mode autodiff engine for arrays, small enough to read in one sitting.

Chapter 4 of the lesson builds this file piece by piece.
"""

import itertools

import numpy as np

clock = itertools.count()


class Tensor:
    """An array that remembers how it was computed."""

    __array_ufunc__ = None  # lets `array * tensor` call Tensor.__rmul__

    def __init__(self, data, edges=()):
        self.data = np.asarray(data, dtype=np.float64)
        self.edges = edges  # pairs: an input, and the rule for its gradient
        self.time = next(clock)
        self.grad = None


def as_tensor(value):
    return value if isinstance(value, Tensor) else Tensor(value)


def add(a, b):
    a, b = as_tensor(a), as_tensor(b)
    return Tensor(a.data + b.data, [(a, lambda g: g), (b, lambda g: g)])


def multiply(a, b):
    a, b = as_tensor(a), as_tensor(b)
    edges = [(a, lambda g: g * b.data), (b, lambda g: g * a.data)]
    return Tensor(a.data * b.data, edges)


def newest_first(output):
    """`output` and everything it was computed from, readers before what they read."""
    found, waiting = {output}, [output]
    while waiting:
        for source, _ in waiting.pop().edges:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return sorted(found, key=lambda tensor: tensor.time, reverse=True)


def unbroadcast(g, shape):
    """Sum g over the axes along which an input of this shape was repeated."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] > 1)
    return g.sum(axis=repeated, keepdims=True)


def backward(output, gradient=1.0):
    """Set `.grad` of everything behind `output`, whose own gradient is given."""
    order = newest_first(output)
    for tensor in order:
        tensor.grad = np.zeros(tensor.data.shape)
    output.grad = output.grad + gradient
    for tensor in order:
        for source, rule in tensor.edges:
            contribution = unbroadcast(rule(tensor.grad), source.data.shape)
            source.grad = source.grad + contribution


def power(a, n):
    a = as_tensor(a)
    return Tensor(a.data**n, [(a, lambda g: g * n * a.data ** (n - 1))])


def exp(a):
    a = as_tensor(a)
    y = np.exp(a.data)
    return Tensor(y, [(a, lambda g: g * y)])


def log(a):
    a = as_tensor(a)
    return Tensor(np.log(a.data), [(a, lambda g: g / a.data)])


def relu(a):
    a = as_tensor(a)
    return Tensor(np.maximum(a.data, 0), [(a, lambda g: g * (a.data > 0))])


def matmul(a, b):
    a, b = as_tensor(a), as_tensor(b)
    edges = [(a, lambda g: g @ b.data.T), (b, lambda g: a.data.T @ g)]
    return Tensor(a.data @ b.data, edges)


def total(a, axis):
    """The sum over an axis, which stays as an axis of length 1."""
    a = as_tensor(a)
    y = a.data.sum(axis=axis, keepdims=True)
    return Tensor(y, [(a, lambda g: np.broadcast_to(g, a.data.shape))])


Tensor.__add__ = Tensor.__radd__ = add
Tensor.__mul__ = Tensor.__rmul__ = multiply
Tensor.__neg__ = lambda a: multiply(a, -1.0)
Tensor.__sub__ = lambda a, b: a + -as_tensor(b)
Tensor.__rsub__ = lambda a, b: b + -a
Tensor.__pow__ = power
Tensor.__truediv__ = lambda a, b: a * power(b, -1.0)
Tensor.__rtruediv__ = lambda a, b: b * power(a, -1.0)
Tensor.__matmul__ = matmul


def mean(a, axis):
    return total(a, axis) / as_tensor(a).data.shape[axis]


def standardize(x, axis, eps=1e-5):
    """Batch norm's x̂ along axis 0, layer norm's along axis 1."""
    d = x - mean(x, axis)
    variance = mean(d * d, axis)
    return d / power(variance + eps, 0.5)


def cross_entropy(logits, one_hot):
    z = logits - logits.data.max(axis=1, keepdims=True)
    log_probabilities = z - log(total(exp(z), axis=1))
    return total(mean(log_probabilities * -one_hot, axis=0), axis=1)
