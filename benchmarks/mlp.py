"""Training steps of MLPs: Linear–BatchNorm–ReLU … Linear, cross-entropy, float32."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.rivals import STEPS, MissingError, native

NETS: dict[str, tuple[list[int], int]] = {
    "2-16-16-2 @32": ([2, 16, 16, 2], 32),
    "64-32-32-10 @32": ([64, 32, 32, 10], 32),
    "64-128-128-10 @64": ([64, 128, 128, 10], 64),
    "784-256-256-10 @128": ([784, 256, 256, 10], 128),
    "784-512×3-10 @256": ([784, 512, 512, 512, 10], 256),
    "64×20 hidden @64": ([64] * 21 + [10], 64),
    "784-1024-1024-10 @1024": ([784, 1024, 1024, 10], 1024),
}
"""Name, sizes, batch."""

RIVALS = (
    "compiled", "composition", "eager", "floor", "products",
    "torch", "torch.compile", "jax", "pytensor", "autograd", "mygrad",
)  # fmt: skip
BATCHES = 4
CHECKED_STEPS = 3
SAME = 1e-3
"""How far, as a fraction, losses may drift apart: rounding grows tenfold a step in the deep net."""


def weights_and_batches(sizes: list[int], batch: int) -> tuple[list[np.ndarray], list[Any]]:
    """He weights, and batches of x and labels, from one seed.

    The second half of a batch repeats the inputs of the first with other labels. The loss therefore
    stays near log 2 or above, however long the training, and no gradient fades into denormal
    numbers, which slow some rivals down.
    """
    rng = np.random.default_rng(0)
    weights = [
        (np.sqrt(2 / n) * rng.standard_normal((n, m))).astype(np.float32)
        for n, m in itertools.pairwise(sizes)
    ]
    batches = []
    for _ in range(BATCHES):
        x = rng.standard_normal((batch // 2, sizes[0])).astype(np.float32)
        labels = rng.integers(sizes[-1], size=batch // 2)
        other = (labels + rng.integers(1, sizes[-1], size=batch // 2)) % sizes[-1]
        batches.append((np.concatenate([x, x]), np.concatenate([labels, other])))
    return weights, batches


def make(
    rival: str, sizes: list[int], batch: int, optimizer: str
) -> tuple[Callable[[], Any] | None, dict[str, Any]]:
    """A training step to repeat, and its first losses, which must be the same for all rivals."""
    weights, batches = weights_and_batches(sizes, batch)
    try:
        step = STEPS[rival](weights, optimizer)
    except MissingError as reason:
        return None, {"missing": str(reason)}
    ring = itertools.cycle([native(rival, *b) for b in batches])
    losses = [float(step(*next(ring))) for _ in range(CHECKED_STEPS)]
    return lambda: step(*next(ring)), {"losses": losses}


def check_losses(found: dict[str, list[float]]) -> None:
    """Raise unless all rivals trained the same network on the same data in the same way."""
    expected = found["floor"]
    for rival, losses in found.items():
        if rival != "products" and not np.allclose(losses, expected, rtol=SAME, atol=0):
            raise RuntimeError(f"{rival} does other work: losses {losses}, floor's are {expected}")
