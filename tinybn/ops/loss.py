"""Losses: scalars to minimise, means over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinybn.ops.reduction import log_softmax, mean
from tinybn.ops.shape import getitem
from tinybn.recording import module_of
from tinybn.tensor import Input, Tensor, shape_of


def cross_entropy(logits: Input, labels: Any) -> Tensor:
    """-mean over i of log softmax(logits[i])[labels[i]].

    logits: (N, C). labels: (N,) integers from 0 to C - 1, an array or Tensor on the host (also when
    the logits are on a GPU: there they could not be checked without waiting for it).
    """
    shape = check_logits(logits)
    labels = check_labels(labels, *shape)
    xp = module_of(logits)
    chosen = xp.arange(shape[0]), xp.asarray(labels)
    return -mean(getitem(log_softmax(logits, axis=1), chosen))


def check_labels(labels: Any, count: int, classes: int) -> np.ndarray:
    """The labels as an array on the host; the closed form asks the same of them."""
    labels = on_host(labels)
    check_label_array(labels, count, classes)
    check_range(labels, classes)
    return labels


def check_logits(logits: Any) -> tuple[int, int]:
    """(N, C)."""
    shape = shape_of(logits)
    if len(shape) != 2:
        raise ValueError(f"cross_entropy: expected logits of shape (N, C), got {shape}")
    return shape[0], shape[1]


def on_host(labels: Any) -> np.ndarray:
    """The labels as an array, if they are no array of a GPU's."""
    if isinstance(labels, Tensor):
        labels = labels.data
    if isinstance(labels, np.ndarray):
        return labels
    if not isinstance(labels, list | tuple):
        raise TypeError(
            f"cross_entropy: expected labels as a NumPy array, got {type(labels).__module__}."
            f"{type(labels).__name__}: labels stay on the host, where they are checked"
        )
    return np.asarray(labels)


def check_label_array(labels: np.ndarray, count: int, classes: int) -> None:
    """What dtype and shape must be."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: expected integer labels, got dtype {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(
            f"cross_entropy: expected labels of shape ({count},) for logits ({count}, {classes}), "
            f"got {labels.shape}"
        )
    if count == 0:
        raise ValueError("cross_entropy: the batch is empty")


def check_range(labels: np.ndarray, classes: int) -> None:
    """What the labels themselves must be."""
    largest = np.maximum.reduce(labels.astype(np.uint64, copy=False))  # of them, -1 is the largest
    if largest >= classes:
        raise ValueError(
            f"cross_entropy: expected labels from 0 to {classes - 1} for {classes} classes, "
            f"got {labels.min()} to {labels.max()}"
        )


def mse_loss(prediction: Input, target: Input) -> Tensor:
    """mean((prediction - target)²) over all elements of two equal shapes."""
    shapes = shape_of(prediction), shape_of(target)
    if shapes[0] != shapes[1]:
        raise ValueError(f"mse_loss: expected equal shapes, got {shapes[0]} and {shapes[1]}")
    difference = prediction - target
    return mean(difference * difference)
