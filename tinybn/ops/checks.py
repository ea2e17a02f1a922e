"""What ops require of their arguments. A closed form and its composition use the same checks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinybn.backend import MODULES, Array, checked
from tinybn.parameters import number
from tinybn.tensor import Tensor, shape_of


def batch_norm(x: Any, gamma: Any, beta: Any, mean: Any, var: Any, eps: float) -> Any:
    """The axes to normalize over: all but the channel axis."""
    axis = channels("batch_norm", x, gamma, beta, mean, var, eps=eps)
    if (mean is None) != (var is None):
        raise ValueError(
            "batch_norm: expected both mean and var (evaluation), or neither (training)"
        )
    if mean is None:
        _more_than_one("batch_norm", x, x.shape[1])
    return axis


def last_axes(name: str, x: Any, axis: Any, *params: Any, eps: float) -> tuple[int, ...]:
    """The axes to normalize over, which must be the last of x; gamma and beta have their shape."""
    shape = array_shape(name, x)
    axes = axis if isinstance(axis, tuple) else (axis,)
    if not all(isinstance(a, int | np.integer) for a in axes):
        raise TypeError(f"{name}: expected axis as an int or a tuple of ints, got {axis!r}")
    last = tuple(range(len(shape) - len(axes), len(shape)))
    if not axes or last[0] < 0 or tuple(sorted(a + len(shape) * (a < 0) for a in axes)) != last:
        raise ValueError(f"{name}: expected the last axes of x {shape}, got axis={axis}")
    _check(name, shape, shape[last[0] :], params, eps)
    return last


def group_norm(x: Any, groups: int, gamma: Any, beta: Any, eps: float) -> None:
    """The groups must divide the channels."""
    channels("group_norm", x, gamma, beta, eps=eps)
    if not isinstance(groups, int | np.integer):
        raise TypeError(f"group_norm: expected groups to be an integer, got {groups!r}")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"group_norm: {groups} groups do not divide {x.shape[1]} channels evenly")


def instance_norm(x: Any, gamma: Any, beta: Any, eps: float) -> None:
    """There must be space to normalize over."""
    channels("instance_norm", x, gamma, beta, eps=eps)
    if x.ndim == 2:
        raise ValueError(f"instance_norm: expected x of shape (N, C, L, …), got {x.shape}")
    _more_than_one("instance_norm", x, x.shape[0] * x.shape[1])


def channels(name: str, x: Any, *per_channel: Any, eps: float) -> tuple[int, ...]:
    """All axes but that of the channels; x is (N, C, …), and `per_channel` are (C,) or None."""
    shape = array_shape(name, x)
    if len(shape) < 2:
        raise ValueError(f"{name}: expected x of shape (N, C) or (N, C, …), got {shape}")
    _check(name, shape, shape[1:2], per_channel, eps)
    return (0, *range(2, len(shape)))


def _check(name: str, shape: Any, expected: Any, params: tuple[Any, ...], eps: float) -> None:
    for i, param in enumerate(params):
        if param is not None and shape_of(param) != expected:
            what = ("gamma", "beta", "mean", "var")[i]
            raise ValueError(
                f"{name}: expected {what} of shape {expected} for x {shape}, got {shape_of(param)}"
            )
    if not number(eps) >= 0:
        raise ValueError(f"{name}: expected a number eps >= 0, got {eps!r}")
    if 0 in shape:
        raise ValueError(f"{name}: x of shape {shape} has no elements (an empty batch?)")


def _more_than_one(name: str, x: Any, parts: int) -> None:
    if x.size == parts:
        raise ValueError(
            f"{name}: x {x.shape} has one value per channel, and one value has no variance: "
            "train on larger batches (drop_last=True drops a last batch of 1), or call eval()"
        )


def linear(x: Any, weight: Any, bias: Any) -> None:
    """x (…, in), weight (in, out), bias (out,) or None."""
    x_shape, w_shape = array_shape("linear", x), array_shape("linear", weight)
    if len(w_shape) != 2 or not x_shape or x_shape[-1] != w_shape[0]:
        raise ValueError(
            f"linear: x {x_shape} does not fit weight {w_shape}: expected (…, in) and (in, out)"
        )
    if bias is not None and shape_of(bias) != w_shape[1:]:
        raise ValueError(
            f"linear: expected a bias of shape {w_shape[1:]} for weight {w_shape}, "
            f"got {shape_of(bias)}"
        )


def cross_entropy(logits: Any, labels: Any) -> Array:
    """The labels as an array on the host, checked against logits (N, C)."""
    shape = array_shape("cross_entropy", logits)
    if len(shape) != 2:
        raise ValueError(f"cross_entropy: expected logits of shape (N, C), got {shape}")
    labels = constant(labels)
    if isinstance(labels, list | tuple):
        labels = np.asarray(labels)
    _check_kind(labels, *shape)
    return checked(labels, lambda given: _check_range(given, shape[1]))


def _check_kind(labels: Any, count: int, classes: int) -> None:
    library = MODULES.get(type(labels))
    on_host = isinstance(labels, np.ndarray) or (library and library.__name__ == "numpy")
    if not on_host or not hasattr(labels, "dtype"):
        raise TypeError(
            f"cross_entropy: expected labels as a NumPy array, got {type(labels).__module__}."
            f"{type(labels).__name__}: labels stay on the host, where they are checked"
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: expected integer labels, got dtype {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(
            f"cross_entropy: expected labels of shape ({count},) for logits ({count}, {classes}), "
            f"got {labels.shape}"
        )
    if count == 0:
        raise ValueError("cross_entropy: the batch is empty")


def _check_range(labels: np.ndarray, classes: int) -> None:
    largest = np.maximum.reduce(labels.astype(np.uint64, copy=False))  # a negative label is huge
    if largest >= classes:
        raise ValueError(
            f"cross_entropy: expected labels from 0 to {classes - 1} for {classes} classes, "
            f"got {labels.min()} to {labels.max()}"
        )


def array_shape(name: str, x: Any) -> tuple[int, ...]:
    """The shape of x; TypeError if it is neither a Tensor nor an array."""
    if not hasattr(x, "shape"):
        raise TypeError(
            f"{name}: expected a Tensor or an array, got {type(x).__name__}: make a Tensor of it "
            "with tb.tensor(...)"
        )
    shape: tuple[int, ...] = x.shape
    return shape


def constant(value: Any) -> Any:
    """The array of a Tensor; anything else as it is. ValueError if a gradient would be lost."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(
            "a Tensor that requires grad is given where only a constant can be: detach() it"
        )
    return value.data if isinstance(value, Tensor) else value
