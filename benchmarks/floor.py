"""The floor: the training step of an MLP with batch norm, written by hand in NumPy, no autodiff.

A good engineer would write this for one given network: batch norm in closed form, sums by BLAS,
in-place operations wherever an array is no longer needed, and all parameters and gradients in one
flat array each, so that the optimizer makes a handful of calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

EPS = 1e-5
LR = {"sgd": 0.01, "adam": 0.001}
MOMENTUM = 0.9
BETA1, BETA2, ADAM_EPS = 0.9, 0.999, 1e-8


class Floor:
    """Linear–BatchNorm–ReLU … Linear, cross-entropy. `step(x, labels)` trains and returns the loss.

    weights: one (in, out) array per Linear, to start from. Only the last Linear has a bias.
    """

    def __init__(self, weights: Sequence[np.ndarray], optimizer: str) -> None:
        shapes = [w.shape for w in weights]
        hidden = [(shape[1],) for shape in shapes[:-1]]
        shapes += [(weights[-1].shape[1],), *hidden, *hidden]
        self.flat, self.flat_gradient = np.zeros((2, sum(map(math.prod, shapes))), np.float32)
        depth = len(weights)
        for name, flat in (("", self.flat), ("d", self.flat_gradient)):
            ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
            views = [a.reshape(s) for a, s in zip(np.split(flat, ends), shapes, strict=True)]
            setattr(self, name + "w", views[:depth])
            setattr(self, name + "bias", views[depth])
            setattr(self, name + "gamma", views[depth + 1 : depth + 1 + len(hidden)])
            setattr(self, name + "beta", views[depth + 1 + len(hidden) :])
        for own, given in zip(self.w, weights, strict=True):
            own[...] = given
        for gamma in self.gamma:
            gamma[...] = 1
        self.running_mean = [np.zeros(shape, np.float32) for shape in hidden]
        self.running_var = [np.ones(shape, np.float32) for shape in hidden]
        self.update = optimizer_by_hand(optimizer, [self.flat])

    w: list[np.ndarray]
    dw: list[np.ndarray]
    bias: np.ndarray
    dbias: np.ndarray
    gamma: list[np.ndarray]
    dgamma: list[np.ndarray]
    beta: list[np.ndarray]
    dbeta: list[np.ndarray]

    def step(self, x: np.ndarray, labels: np.ndarray) -> np.floating[Any]:
        """One training step."""
        loss = self.gradients(x, labels)
        self.update([self.flat], [self.flat_gradient])
        return loss

    def gradients(self, x: np.ndarray, labels: np.ndarray) -> np.floating[Any]:
        """The loss; the gradients go to dw, dbias, dgamma, dbeta."""
        n = len(x)
        ones = np.ones(n, np.float32)
        inputs, x_hats, rs = [x], [], []
        for i in range(len(self.gamma)):
            d = inputs[-1] @ self.w[i]
            mean = ones @ d
            mean /= n
            d -= mean
            var = ones @ (d * d)
            var /= n
            r = 1 / np.sqrt(var + EPS)
            d *= r
            y = d * self.gamma[i]
            y += self.beta[i]
            inputs.append(np.maximum(y, 0, out=y))
            x_hats.append(d)
            rs.append(r)
            for running, new in ((self.running_mean[i], mean), (self.running_var[i], var)):
                running *= 0.9
                running += 0.1 * new
            self.running_var[i] += var * (0.1 / (n - 1))  # the unbiased one: var · n / (n - 1)

        p = inputs[-1] @ self.w[-1]
        p += self.bias
        p -= p.max(axis=1)[:, None]
        rows = np.arange(n)
        chosen = p[rows, labels]
        np.exp(p, out=p)
        total = p.sum(axis=1)
        loss = (np.log(total) - chosen).mean()

        p /= (n * total)[:, None]
        p[rows, labels] -= np.float32(1 / n)
        np.matmul(ones, p, out=self.dbias)
        np.matmul(inputs[-1].T, p, out=self.dw[-1])
        dy = p @ self.w[-1].T
        for i in reversed(range(len(self.gamma))):
            dy *= inputs[i + 1] > 0
            dgamma, dbeta, x_hat = self.dgamma[i], self.dbeta[i], x_hats[i]
            np.matmul(ones, dy, out=dbeta)
            np.matmul(ones, dy * x_hat, out=dgamma)
            x_hat *= dgamma / -n
            x_hat += dy
            x_hat -= dbeta / n
            x_hat *= self.gamma[i] * rs[i]
            np.matmul(inputs[i].T, x_hat, out=self.dw[i])
            if i:
                dy = np.matmul(x_hat, self.w[i].T, out=dy if dy.shape == inputs[i].shape else None)
        return loss


class MatrixProducts:
    """Only the matrix products of that step, a lower bound for any NumPy code."""

    def __init__(self, weights: Sequence[np.ndarray], optimizer: str) -> None:
        self.w = weights

    def step(self, x: np.ndarray, labels: np.ndarray) -> np.floating[Any]:
        """The forward products and both gradients of each, except the gradient of the data."""
        inputs = [x]
        for w in self.w:
            inputs.append(inputs[-1] @ w)
        dy = inputs[-1]
        for i in reversed(range(len(self.w))):
            inputs[i].T @ dy
            if i:
                dy = dy @ self.w[i].T
        return np.float32(0)


Update = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], None]


def optimizer_by_hand(name: str, params: Sequence[np.ndarray]) -> Update:
    """SGD with momentum or Adam: a function that updates arrays in place from their gradients."""
    first, second, scratch = ([np.zeros_like(p) for p in params] for _ in range(3))
    lr = LR[name]
    t = 0

    def sgd(params: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None:
        for p, g, v, s in zip(params, gradients, first, scratch, strict=True):
            v *= MOMENTUM
            v += g
            p -= np.multiply(v, lr, out=s)

    def adam(params: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None:
        nonlocal t
        t += 1
        rate, correction = lr / (1 - BETA1**t), 1 / math.sqrt(1 - BETA2**t)
        for p, g, m, v, s in zip(params, gradients, first, second, scratch, strict=True):
            m *= BETA1
            m += np.multiply(g, 1 - BETA1, out=s)
            v *= BETA2
            np.multiply(g, g, out=s)
            s *= 1 - BETA2
            v += s
            np.sqrt(v, out=s)
            s *= correction
            s += ADAM_EPS
            np.divide(m, s, out=s)
            s *= rate
            p -= s

    return {"sgd": sgd, "adam": adam}[name]
