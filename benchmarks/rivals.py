"""One training step of the same MLP in each framework, as its users write it.

Each function takes the initial weights and "sgd" or "adam", and returns a step: a function that
trains on a batch and returns the loss. All keep running statistics, as tinybn and the floor do,
except HIPS autograd and MyGrad, which have no such layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.floor import (
    ADAM_EPS,
    BETA1,
    BETA2,
    EPS,
    LR,
    MOMENTUM,
    Floor,
    MatrixProducts,
    optimizer_by_hand,
)
from benchmarks.symbolic import pytensor

Step = Callable[[Any, Any], Any]
Weights = Sequence[np.ndarray]


class MissingError(RuntimeError):
    """A rival cannot run here; the message says why."""


def tinybn(weights: Weights, optimizer: str) -> Step:
    """`nn.MLP`, `cross_entropy`, `backward` and an optimizer: public names only."""
    import tinybn as tb

    model = tb.nn.MLP([*(len(w) for w in weights), weights[-1].shape[1]], norm="batch")
    for own, given in zip((p for p in model.parameters() if p.ndim == 2), weights, strict=True):
        own.data = given.copy()
    update: tb.optim.Optimizer = (
        tb.optim.SGD(model.parameters(), LR["sgd"], momentum=MOMENTUM)
        if optimizer == "sgd"
        else tb.optim.Adam(model.parameters(), LR["adam"])
    )

    def step(x: Any, labels: Any) -> Any:
        update.zero_grad()
        loss = tb.ops.cross_entropy(model(x), labels)
        loss.backward()
        update.step()
        return loss

    return step


def compiled(weights: Weights, optimizer: str) -> Step:
    """The same step, compiled. (The composition runs it under `use_fused(False)`.)"""
    import tinybn as tb

    return tb.compile(tinybn(weights, optimizer))


def torch(weights: Weights, optimizer: str, device: str = "cpu") -> Step:
    """PyTorch eager: `nn.Sequential` and its optimizer with default settings.

    On a GPU, Adam keeps its count there, as CUDA graphs need it.
    """
    import torch
    from torch import nn

    layers: list[Any] = []
    for i, w in enumerate(weights):
        last = i == len(weights) - 1
        layer = nn.Linear(*w.shape, bias=last)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w.T))
            if last:
                layer.bias.zero_()
        layers += [layer] if last else [layer, nn.BatchNorm1d(w.shape[1]), nn.ReLU()]
    model = nn.Sequential(*layers).to(device)
    update: Any = (
        torch.optim.SGD(model.parameters(), LR["sgd"], momentum=MOMENTUM)
        if optimizer == "sgd"
        else torch.optim.Adam(model.parameters(), LR["adam"], capturable=device != "cpu")
    )

    def step(x: Any, labels: Any) -> Any:
        update.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        update.step()
        return loss.detach()

    return step


def torch_compile(weights: Weights, optimizer: str) -> Step:
    """`torch.compile` of the whole step: forward, backward and optimizer, by Inductor."""
    import torch as framework

    try:
        framework.compile(lambda x: x.sin() + 1)(framework.ones(64))
    except Exception as error:
        raise MissingError(f"no C++ compiler works: {str(error).splitlines()[0]}") from error
    return framework.compile(torch(weights, optimizer))


def jax(weights: Weights, optimizer: str) -> Step:
    """JAX: the whole step with its optimizer in one `jit`, with donated buffers."""
    import jax
    import jax.numpy as jnp

    params: Any = parameters(weights, jnp.asarray)
    zeros = jax.tree.map(jnp.zeros_like, params)
    statistics = [(jnp.zeros(w.shape[1]), jnp.ones(w.shape[1])) for w in weights[:-1]]
    state = (params, zeros, jax.tree.map(jnp.zeros_like, params), statistics, jnp.zeros(()))

    def loss_of(params: Any, x: Any, labels: Any) -> Any:
        moments = []
        for w, gamma, beta in params[:-1]:
            z = x @ w
            mean, var = z.mean(axis=0), z.var(axis=0)
            moments.append((mean, var))
            x = jax.nn.relu((z - mean) / jnp.sqrt(var + EPS) * gamma + beta)
        w, bias = params[-1]
        log_p = jax.nn.log_softmax(x @ w + bias)
        return -log_p[jnp.arange(len(x)), labels].mean(), moments

    def train(state: Any, x: Any, labels: Any) -> Any:
        params, m, v, statistics, t = state
        (loss, moments), g = jax.value_and_grad(loss_of, has_aux=True)(params, x, labels)
        n = len(x)
        statistics = [
            (0.9 * a + 0.1 * mean, 0.9 * b + 0.1 * var * n / (n - 1))
            for (a, b), (mean, var) in zip(statistics, moments, strict=True)
        ]
        t = t + 1
        lr = LR[optimizer]
        if optimizer == "sgd":
            m = jax.tree.map(lambda m, g: MOMENTUM * m + g, m, g)
            params = jax.tree.map(lambda p, m: p - lr * m, params, m)
        else:
            m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
            v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
            rate, correction = lr / (1 - BETA1**t), 1 / jnp.sqrt(1 - BETA2**t)
            params = jax.tree.map(
                lambda p, m, v: p - rate * m / (jnp.sqrt(v) * correction + ADAM_EPS), params, m, v
            )
        return (params, m, v, statistics, t), loss

    compiled = jax.jit(train, donate_argnums=0)

    def step(x: Any, labels: Any) -> Any:
        nonlocal state
        state, loss = compiled(state, x, labels)
        return loss

    return step


def autograd(weights: Weights, optimizer: str) -> Step:
    """HIPS autograd: a loss of nested lists of arrays, and an optimizer by hand."""
    import autograd.numpy as anp
    from autograd import value_and_grad

    def loss_of(params: Any, x: Any, labels: Any) -> Any:
        for w, gamma, beta in params[:-1]:
            z = anp.dot(x, w)
            d = z - anp.mean(z, axis=0)
            x = anp.maximum(d / anp.sqrt(anp.mean(d * d, axis=0) + EPS) * gamma + beta, 0)
        w, bias = params[-1]
        logits = anp.dot(x, w) + bias
        shifted = logits - anp.max(logits, axis=1, keepdims=True)
        log_p = shifted - anp.log(anp.sum(anp.exp(shifted), axis=1, keepdims=True))
        return -anp.mean(log_p[np.arange(len(labels)), labels])

    params = parameters(weights, np.copy)
    arrays = [a for layer in params for a in layer]
    update = optimizer_by_hand(optimizer, arrays)
    differentiate = value_and_grad(loss_of)

    def step(x: Any, labels: Any) -> Any:
        loss, gradients = differentiate(params, x, labels)
        update(arrays, [g for layer in gradients for g in layer])
        return loss

    return step


def mygrad(weights: Weights, optimizer: str) -> Step:
    """MyGrad: its own batch norm, ReLU and loss, and an optimizer by hand."""
    import mygrad as mg
    from mygrad.nnet.activations import relu
    from mygrad.nnet.layers import batchnorm
    from mygrad.nnet.losses import softmax_crossentropy

    params = [[mg.tensor(a) for a in layer] for layer in parameters(weights, np.copy)]
    tensors = [t for layer in params for t in layer]
    update = optimizer_by_hand(optimizer, [t.data for t in tensors])

    def step(x: Any, labels: Any) -> Any:
        for w, gamma, beta in params[:-1]:
            x = relu(batchnorm(mg.matmul(x, w), gamma=gamma, beta=beta, eps=EPS))
        w, bias = params[-1]
        loss = softmax_crossentropy(mg.matmul(x, w) + bias, labels)
        loss.backward()
        update([t.data for t in tensors], [t.grad for t in tensors])
        return loss.data

    return step


def parameters(weights: Weights, make: Callable[..., Any]) -> list[list[Any]]:
    """Weight, gamma and beta of each layer; weight and bias of the last."""
    params = [
        [w, np.ones(w.shape[1], np.float32), np.zeros(w.shape[1], np.float32)] for w in weights
    ]
    params[-1].pop(1)
    return [[make(a) for a in layer] for layer in params]


STEPS: dict[str, Callable[[Weights, str], Step]] = {
    "eager": tinybn,
    "compiled": compiled,
    "composition": compiled,
    "floor": lambda weights, optimizer: Floor(weights, optimizer).step,
    "products": lambda weights, optimizer: MatrixProducts(weights, optimizer).step,
    "torch": torch,
    "torch.compile": torch_compile,
    "jax": jax,
    "pytensor": pytensor,
    "autograd": autograd,
    "mygrad": mygrad,
}


def native(rival: str, *arrays: np.ndarray) -> list[Any]:
    """Arrays in the form that the rival takes."""
    if rival.startswith("torch"):
        import torch

        return [torch.from_numpy(a) for a in arrays]
    if rival == "jax":
        import jax.numpy as jnp

        return [jnp.asarray(a) for a in arrays]
    return list(arrays)
