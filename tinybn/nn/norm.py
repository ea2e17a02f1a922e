"""The normalization layers: an op of ops/norm.py each, with its gamma and beta."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinybn import ops
from tinybn.backend import Array
from tinybn.nn.module import Module, at_least_1, parameter
from tinybn.ops.fused.batch_norm import Moments
from tinybn.ops.fused.plans import planned
from tinybn.ops.fused.sums import cast
from tinybn.recording import module_of
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
        if not self.training and self.running_mean is not None:
            return ops.batch_norm(
                x, self.gamma, self.beta, mean=self.running_mean, var=self.running_var, eps=self.eps
            )
        y, moments = ops.batch_norm.with_saved(x, self.gamma, self.beta, eps=self.eps)
        if self.training and self.running_mean is not None:
            self._track(x.data if isinstance(x, Tensor) else x, moments)
        return y

    def _track(self, x: Any, moments: Moments | None) -> None:
        """Let the running statistics follow the batch x, an array; into new arrays."""
        mean, var = self.running_mean, self.running_var
        assert mean is not None
        assert var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        if moments is None:  # batch norm ran as a composition
            axis = (0, *range(2, x.ndim))
            moments = Moments(ops.mean(x, axis), 0, ops.var(x, axis), None)
        new_mean, new_var = moments.mean + moments.rest, moments.var
        if new_var.dtype != var.dtype:
            new_mean, new_var = cast(var.dtype, new_mean, new_var)
        if self.momentum is None:
            keep, weight, unbiased = _weights(1 / self.num_batches_tracked, x)
        else:  # always the same
            keep, weight, unbiased = _arrays_of_weights(module_of(x), (x, var._data), self.momentum)
        mean._data = mean._data * keep + new_mean * weight
        var._data = var._data * keep + new_var * unbiased

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


def _weights(momentum: float, x: Any) -> tuple[float, float, float]:
    """Of what was, of a new mean, and of a new biased variance of x, which becomes unbiased."""
    n = x.size // x.shape[1]
    return 1 - momentum, momentum, momentum * n / (n - 1)


@planned
def _arrays_of_weights(xp: Any, arrays: tuple[Any, Any], momentum: float) -> list[Array]:
    """The same as 0-d arrays, which NumPy takes faster, and a GPU gets only once."""
    x, running = arrays
    return [xp.asarray(weight, running.dtype) for weight in _weights(momentum, x)]


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
