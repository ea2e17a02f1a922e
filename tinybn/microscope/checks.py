"""What the gradient of x in a recording is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinybn.check.derivatives import by_differences, leaves
from tinybn.microscope.recording import Check, Floats
from tinybn.modes import use_fused
from tinybn.program.tree import bare
from tinybn.tensor import Tensor


def check(
    step: Callable[..., Any],
    args: Sequence[Any],
    dx: Floats,
    x_hat: Floats,
    axis: int,
    paths: dict[str, Floats],
    fused: bool,
) -> Check:
    """Compare dx, the gradient that `step(*args)` found, with the other form and with differences.

    Args:
        x_hat: the normalized x.
        axis: the axis that is normalized.
        fused: whether dx is the closed form's.
    """
    with use_fused(not fused), np.errstate(all="ignore"):
        other = step(*args)[1].data
    differences = _differences(step, args)
    return Check(
        shape=list(dx.shape),
        same_shape=dx.shape == args[0].shape == other.shape,
        reference="composition" if fused else "closed form",
        other=other,
        off=distance(dx, other),
        differences=differences,
        differences_off=distance(dx, differences),
        sum=np.asarray(dx.sum(axis)),
        along=np.asarray((x_hat * dx).sum(axis)),
        paths_off=distance(dx, sum(paths.values())) if paths else None,
    )


def distance(a: Any, b: Any) -> float:
    """The largest absolute difference; NaN if one is NaN."""
    return float(np.abs(np.float64(a) - np.float64(b)).max())


def _differences(step: Callable[..., Any], args: Sequence[Any]) -> Floats:
    """The gradient of x in float64, by finite differences of the forward pass."""
    wide: list[Any] = [None if a is None else np.asarray(bare(a), np.float64) for a in args]
    x, gamma, beta, dy, mean, var = wide
    params = [None if p is None else Tensor(p) for p in (gamma, beta)]

    def forward(a: Tensor) -> Tensor:
        output: Tensor = step(a, *params, dy, mean, var, differentiate=False)
        return output

    weight = np.ones(()) if dy is None else dy
    estimate = by_differences(forward, leaves([x]), [[weight]], 0, 1)
    return np.asarray(estimate.value)
