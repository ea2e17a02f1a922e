"""Losses: scalars to minimise, means over the batch."""

from __future__ import annotations

from typing import Any

from tinybn.op import module_of
from tinybn.ops import checks
from tinybn.ops.elementwise import narrow, where, wide
from tinybn.ops.reduction import log_softmax, mean, sum
from tinybn.tensor import Input, Tensor, shape_of

__all__ = ["mse_loss"]


def cross_entropy(logits: Input, labels: Any) -> Tensor:
    """The mean over i of -log softmax(logits[i])[labels[i]].

    Args:
        logits: (N, C).
        labels: (N,), integers from 0 to C - 1. They stay on the host even if the logits are on a
            GPU, because checking them on the GPU would mean waiting for it.

    Raises:
        ValueError: a shape does not fit, or a label is out of range.
        TypeError: the labels are not integers, or not on the host.
    """
    labels = checks.cross_entropy(logits, labels)
    xp = module_of(logits)
    hot = xp.asarray(labels)[:, None] == xp.arange(logits.shape[1])
    log_p = log_softmax(logits, axis=1)
    return -mean(sum(where(hot, log_p, 0), axis=1))


def mse_loss(prediction: Input, target: Input) -> Tensor:
    """mean((prediction - target)²) over all elements. ValueError unless the shapes are equal."""
    shapes = shape_of(prediction), shape_of(target)
    if shapes[0] != shapes[1]:
        raise ValueError(f"mse_loss: expected equal shapes, got {shapes[0]} and {shapes[1]}")
    difference = wide(prediction) - wide(target)
    return narrow(mean(difference * difference), prediction, target)
