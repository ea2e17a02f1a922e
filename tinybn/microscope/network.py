"""A hidden layer of a network that has learnt to read digits for a little while."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from tinybn import data, nn, ops, optim
from tinybn.autodiff import grad
from tinybn.tensor import Tensor

WIDTH = 16
"""Its units."""

STEPS = 30
"""So many steps of SGD, with learning rate 0.1, come before the recorded one."""


class Slice:
    """What one group of a norm sees in a network that has learnt for a little while.

    x, dy: its input, and the gradient of its output. gamma, beta: its parameters (beta is None for
    RMS norm). labels: what the values are. subject: what x is.
    """

    def __init__(self, norm: str, unit: int, batch: int, example: int, seed: int) -> None:
        digits = data.load("digits", seed=seed).train
        rng = np.random.default_rng(seed)
        layers: dict[str, Any] = {"batch": nn.BatchNorm, "layer": nn.LayerNorm, "rms": nn.RMSNorm}
        normalize = layers[norm](WIDTH)
        first, last = nn.Linear(64, WIDTH, rng=rng), nn.Linear(WIDTH, 10, rng=rng)
        model = nn.Sequential(first, normalize, nn.ReLU(), last)
        sgd = optim.SGD(model.parameters(), lr=0.1)
        batches = iter(data.Batches(digits.x, digits.y, 32, rng=rng))
        for x, y in itertools.islice(batches, STEPS):
            sgd.zero_grad()
            ops.cross_entropy(model(x), y).backward()
            sgd.step()
        labels = digits.y[:batch]
        hidden = first(Tensor(digits.x[:batch], backend="numpy"))
        out = normalize(hidden)
        (dy,) = grad(ops.cross_entropy(last(ops.relu(out)), labels), out)
        shift = getattr(normalize, "beta", None)
        gamma: Any = normalize.gamma.numpy()
        beta: Any = None if shift is None else shift.numpy()
        if norm == "batch":
            rows, columns = slice(None), slice(unit, unit + 1)
            gamma, beta = gamma[columns], beta[columns]
            self.labels = [f"example {i}, a {label}" for i, label in enumerate(labels)]
            self.subject = f"unit {unit} of a hidden layer, for a batch of {batch} digits"
        else:
            rows, columns = slice(example, example + 1), slice(None)
            self.labels = [f"unit {i}" for i in range(WIDTH)]
            self.subject = (
                f"example {example} of {batch} digits, a {labels[example]}, in a hidden layer"
            )
        self.x, self.dy = hidden.numpy()[rows, columns], dy.numpy()[rows, columns]
        self.gamma, self.beta = gamma, beta
