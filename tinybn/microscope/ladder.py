"""The gradient ladder: how large gradients are, layer by layer, in a deep network before training.

A random gradient arrives at the last hidden layer of a newly initialised MLP on handwritten
digits. Layer by layer, the backward pass takes it down to the first: does it shrink, grow, or keep
its size?
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from tinybn import data, nn
from tinybn.autodiff import grad
from tinybn.microscope import page
from tinybn.microscope.formatting import shown
from tinybn.microscope.packing import Packer
from tinybn.microscope.questions import Option, Question
from tinybn.microscope.recorder import provenance
from tinybn.microscope.recording import Floats
from tinybn.tensor import Tensor

DEPTH, WIDTH = 20, 128
NORMS = ("none", "layer", "batch")

QUESTIONS = [
    Question(
        "activation",
        "activation",
        [
            Option("relu", "ReLU", "Half of all slopes are 0, the others 1."),
            Option("tanh", "tanh", "Slopes below 1: far from 0, almost 0."),
            Option(
                "sigmoid", "sigmoid", "Slopes of at most 1/4: without a norm, gradients vanish."
            ),
        ],
    ),
    Question(
        "batch",
        "batch",
        [
            Option("128", "128", "128 digits: the statistics of batch norm are accurate."),
            Option("16", "16", "16 digits."),
            Option("4", "4", "Only 4 digits: in batch norm, the gradient grows faster."),
        ],
    ),
    Question(
        "init",
        "weights",
        [
            Option("he", "He", "He's initialisation: variance 2 / width, made for ReLU."),
            Option(
                "default",
                "default",
                "PyTorch's default, variance 1 / (3 width): too small for deep networks without "
                "a norm.",
            ),
        ],
    ),
]


@dataclass(frozen=True, eq=False)
class Arm:
    """One network.

    Attributes:
        norm: "none", "layer" or "batch".
        norms: per hidden layer, the Euclidean norm of the gradient of its output, for all examples
            together; divided by that of the last hidden layer.
        factors: per hidden layer but the last, its norm divided by that of the layer above.
        growth: the geometric mean of the factors.
    """

    norm: str
    norms: Floats
    factors: Floats
    growth: float


@dataclass(frozen=True, eq=False)
class Ladder:
    """Networks that differ in the norm alone.

    Attributes:
        depth, width: the hidden layers and their units.
        theory: the growth per layer with batch norm and ReLU in infinitely wide networks
            (Yang et al., ICLR 2019, 1902.08129); None for other activations, and below 4 examples.
        arms: the networks.
    """

    activation: str
    batch: int
    init: str
    depth: int
    width: int
    theory: float | None
    arms: list[Arm]
    provenance: dict[str, str]


def record_ladder(
    activation: str, batch: int, init: str, *, command: str = "", seed: int = 0
) -> Ladder:
    """Record the ladders of three networks: without norm, with layer norm, with batch norm.

    Args:
        activation: "relu", "tanh" or "sigmoid".
        batch: the number of digits.
        init: "he" or "default"; see `nn.Linear`.
        command: what to say about where the numbers come from.
        seed: of the weights and the gradient.
    """
    arms = [_arm(norm, activation, batch, init, seed) for norm in NORMS]
    theory = _theory(batch) if activation == "relu" and batch > 3 else None
    about = provenance(command, seed, np.dtype(np.float32))
    return Ladder(activation, batch, init, DEPTH, WIDTH, theory, arms, about)


@functools.cache
def _digits() -> Floats:
    return data.load("digits", seed=0).train.x


def _arm(norm: str, activation: str, batch: int, init: str, seed: int) -> Arm:
    rng = np.random.default_rng(seed)
    model = nn.MLP([64, *[WIDTH] * DEPTH, 10], norm, activation, init=init, rng=rng)
    h = Tensor(_digits()[:batch], backend="numpy")
    outputs = []
    for layer in model.layers[:-1]:
        h = layer(h)
        if isinstance(layer, nn.ReLU | nn.Tanh | nn.Sigmoid):
            outputs.append(h)
    upstream = rng.standard_normal(h.shape).astype(np.float32)
    found = grad(h, outputs, upstream)
    sizes = np.array([np.linalg.norm(g.numpy().astype(np.float64)) for g in found])
    norms = sizes / sizes[-1]
    factors = norms[:-1] / norms[1:]
    return Arm(norm, norms, factors, float(norms[0] ** (1 / (DEPTH - 1))))


def _theory(b: int) -> float:
    """√((b - 2 + J + J') / ((b - 3) (1 - J))), J = √(1 - c²) / π + c J', J' = 1 - arccos(c) / π.

    Here c = -1 / (b - 1). For large b, it is √(π / (π - 1)) = 1.2112.
    """
    c = -1 / (b - 1)
    slope = 1 - math.acos(c) / math.pi
    j = math.sqrt(1 - c * c) / math.pi + c * slope
    return math.sqrt((b - 2 + j + slope) / ((b - 3) * (1 - j)))


def ladders(command: str, seed: int) -> dict[tuple[str, ...], Ladder]:
    """A ladder for each combination of what can be switched."""
    keys = itertools.product(*([o.value for o in q.options] for q in QUESTIONS))
    return {
        key: record_ladder(key[0], int(key[1]), key[2], command=command, seed=seed) for key in keys
    }


def ladder_page(command: str, seed: int) -> str:
    """The page of the ladders."""
    found = ladders(command, seed)
    packer = Packer()
    packed = {"/".join(key): packer.pack(ladder) for key, ladder in found.items()}
    return page.assembled(
        "ladder.html", ["ladder.js"], page.switchable(QUESTIONS, next(iter(found)), packer, packed)
    )


def ladder_text(ladder: Ladder) -> str:
    """The ladder as a table: from the last hidden layer down to the first."""
    names = {"none": "no norm", "layer": "layer norm", "batch": "batch norm"}
    lines = [
        f"{ladder.depth} hidden layers of {ladder.width} units, {ladder.activation}, weights: "
        f"{ladder.init}, {ladder.batch} digits, before training",
        ", ".join(f"{key} {value}" for key, value in ladder.provenance.items()),
        "",
        "The norm of the gradient of a hidden layer's output, the last layer's = 1; and how many "
        "times that of the layer above it is",
        "",
        "layer" + "".join(f"{names[arm.norm]:>26}" for arm in ladder.arms),
    ]
    for k in reversed(range(ladder.depth)):
        cells = []
        for arm in ladder.arms:
            factor = f"× {arm.factors[k]:.3f}" if k < ladder.depth - 1 else ""
            cells.append(f"{shown(arm.norms[k]):>16}{factor:>10}")
        lines.append(f"{k + 1:>5}" + "".join(cells))
    mean = "".join(f"{f'× {arm.growth:.3f} per layer':>26}" for arm in ladder.arms)
    lines += ["", f" mean{mean}"]
    if ladder.theory:
        lines.append(
            f"In infinitely wide networks, batch norm and ReLU make it × {ladder.theory:.4f}."
        )
    return "\n".join(lines) + "\n"
