"""The normalization layers: an op of ops/norm.py each, with its gamma and beta."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinybn import ops
from tinybn.backend import Array
from tinybn.nn.module import Module, at_least_1, parameter
from tinybn.tensor import Input, Tensor, tensor


class BatchNorm(Module):
    """Batch norm of (N, C) or (N, C, …) per channel (ops.batch_norm), with running statistics.

    In training x is normalized by its own mean and biased variance, and running statistics follow:

        running = (1 - momentum) · running + momentum · new

    where the new variance is the unbiased one. momentum=None averages all batches alike. In
    evaluation the running statistics take the batch's place.

    affine: whether there are gamma and beta. track_running_stats=False: evaluation uses the batch's
    own statistics, too. Source: Ioffe & Szegedy 2015, algorithms 1 and 2.
    """

    buffers = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        shape = (at_least_1("num_features", num_features),)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"BatchNorm: expected 0 <= momentum <= 1 or None, got {momentum}")
        self.eps = _not_negative(eps)
        self.momentum = momentum
        self.gamma = parameter(1.0, shape) if affine else None
        self.beta = parameter(0.0, shape) if affine else None
        self.running_mean = tensor(np.zeros(shape, np.float32)) if track_running_stats else None
        self.running_var = tensor(np.ones(shape, np.float32)) if track_running_stats else None
        self.num_batches_tracked = 0 if track_running_stats else None
        self.num_features = num_features

    def forward(self, x: Input) -> Tensor:
        _check_channels(self, x, self.num_features)
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or var is None or count is None:
            return ops.batch_norm(x, self.gamma, self.beta, eps=self.eps)
        if not self.training:
            return ops.batch_norm(
                x, self.gamma, self.beta, mean=mean.data, var=var.data, eps=self.eps
            )
        y, saved = ops.batch_norm.with_saved(x, self.gamma, self.beta, eps=self.eps)
        self.num_batches_tracked = count + 1
        momentum = 1 / (count + 1) if self.momentum is None else self.momentum
        n = x.size // self.num_features
        new_mean, new_var = _statistics(x, saved, mean.dtype)
        unbiased = n / (n - 1)
        mean.data = (1 - momentum) * mean.data + momentum * new_mean
        var.data = (1 - momentum) * var.data + momentum * unbiased * new_var
        return y

    def __repr__(self) -> str:
        return f"BatchNorm({self.num_features})"


class LayerNorm(Module):
    """Layer norm over the last axes, of shape `normalized_shape` (ops.layer_norm)."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        self.normalized_shape = _shape(normalized_shape)
        self.eps = _not_negative(eps)
        self.gamma = parameter(1.0, self.normalized_shape) if elementwise_affine else None
        self.beta = parameter(0.0, self.normalized_shape) if elementwise_affine and bias else None

    def forward(self, x: Input) -> Tensor:
        axis = _fitting_axes(self, x, self.normalized_shape)
        return ops.layer_norm(x, self.gamma, self.beta, axis=axis, eps=self.eps)

    def __repr__(self) -> str:
        return f"LayerNorm({self.normalized_shape})"


class RMSNorm(Module):
    """RMS norm over the last axes, of shape `normalized_shape` (ops.rms_norm)."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
    ) -> None:
        self.normalized_shape = _shape(normalized_shape)
        self.eps = _not_negative(eps)
        self.gamma = parameter(1.0, self.normalized_shape) if elementwise_affine else None

    def forward(self, x: Input) -> Tensor:
        axis = _fitting_axes(self, x, self.normalized_shape)
        return ops.rms_norm(x, self.gamma, axis=axis, eps=self.eps)

    def __repr__(self) -> str:
        return f"RMSNorm({self.normalized_shape})"


class GroupNorm(Module):
    """Group norm of (N, C) or (N, C, …) in `num_groups` groups of channels (ops.group_norm)."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True
    ) -> None:
        shape = (at_least_1("num_channels", num_channels),)
        if num_channels % at_least_1("num_groups", num_groups):
            raise ValueError(
                f"GroupNorm: {num_groups} groups do not divide {num_channels} channels evenly"
            )
        self.num_groups = int(num_groups)
        self.num_channels = shape[0]
        self.eps = _not_negative(eps)
        self.gamma = parameter(1.0, shape) if affine else None
        self.beta = parameter(0.0, shape) if affine else None

    def forward(self, x: Input) -> Tensor:
        _check_channels(self, x, self.num_channels)
        return ops.group_norm(x, self.num_groups, self.gamma, self.beta, eps=self.eps)

    def __repr__(self) -> str:
        return f"GroupNorm({self.num_groups}, {self.num_channels})"


class InstanceNorm(Module):
    """Instance norm of (N, C, L), (N, C, H, W), … (ops.instance_norm); without gamma by default."""

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False) -> None:
        shape = (at_least_1("num_features", num_features),)
        self.num_features = num_features
        self.eps = _not_negative(eps)
        self.gamma = parameter(1.0, shape) if affine else None
        self.beta = parameter(0.0, shape) if affine else None

    def forward(self, x: Input) -> Tensor:
        _check_channels(self, x, self.num_features)
        return ops.instance_norm(x, self.gamma, self.beta, eps=self.eps)

    def __repr__(self) -> str:
        return f"InstanceNorm({self.num_features})"


NORMS: dict[str, Callable[[int], Module]] = {
    "batch": BatchNorm,
    "layer": LayerNorm,
    "group": lambda width: GroupNorm(4, width),
    "rms": RMSNorm,
}


def _statistics(x: Any, saved: Any, dtype: np.dtype) -> tuple[Array, Array]:
    """Each channel's mean and biased variance: what batch_norm saved (None: see x), as `dtype`."""
    if saved is None:
        x = x.data if isinstance(x, Tensor) else x
        axis = (0, *range(2, x.ndim))
        mean, var = ops.mean(x, axis), ops.var(x, axis)
    else:
        moments = saved.moments
        mean, var = (moments.mu + moments.rest).reshape(-1), moments.var.reshape(-1)
    return mean.astype(dtype, copy=False), var.astype(dtype, copy=False)


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    shape = (
        tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
    )
    if not shape:
        raise ValueError("normalized_shape: expected at least one axis, got ()")
    return tuple(at_least_1("normalized_shape", n) for n in shape)


def _check_channels(layer: Module, x: Any, channels: int) -> None:
    shape = x.shape
    if len(shape) < 2 or shape[1] != channels:
        raise ValueError(
            f"{layer}: expected x of shape (N, {channels}) or (N, {channels}, …), got {shape}"
        )


def _fitting_axes(layer: Module, x: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    if x.shape[-len(shape) :] != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"{layer}: expected x of shape (…, {expected}), got {x.shape}")
    return tuple(range(-len(shape), 0))


def _not_negative(eps: float) -> float:
    if not eps >= 0:
        raise ValueError(f"expected eps >= 0, got {eps}")
    return eps
