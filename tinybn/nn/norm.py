"""The normalization layers: each is an op of ops/norm.py together with its gamma and beta.

Arguments follow PyTorch. `eps` is added to the variance; gamma is initially 1, and beta 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from tinybn import ops
from tinybn.backend import Array
from tinybn.distributed.communicator import Communicator
from tinybn.distributed.norm import statistics, sync_batch_norm
from tinybn.nn.module import Module, at_least_1, parameter
from tinybn.ops import checks
from tinybn.parameters import number
from tinybn.tensor import Input, Tensor, tensor


class Norm(Module):
    """What all norms share: eps, gamma and beta. gamma and beta may be None."""

    sizes: ClassVar[tuple[str, ...]] = ()
    """The attributes that `repr` shows."""

    def __init__(self, shape: tuple[int, ...], eps: float, gamma: bool, beta: bool) -> None:
        if not number(eps) >= 0:
            raise ValueError(f"{type(self).__name__}: expected a number eps >= 0, got {eps!r}")
        self.eps = eps
        self.gamma = parameter(1.0, shape) if gamma else None
        self.beta = parameter(0.0, shape) if beta else None

    def __repr__(self) -> str:
        sizes = ", ".join(str(getattr(self, name)) for name in self.sizes)
        return f"{type(self).__name__}({sizes})"

    def check_channels(self, x: Input, channels: int) -> None:
        """Raise ValueError unless x is (N, channels, …)."""
        shape = checks.array_shape(str(self), x)
        if len(shape) < 2 or shape[1] != channels:
            raise ValueError(
                f"{self}: expected x of shape (N, {channels}) or (N, {channels}, …), got {shape}"
            )

    def axes(self, x: Input, last: tuple[int, ...]) -> tuple[int, ...]:
        """The axes of x that have the lengths `last`; ValueError unless they are its last ones."""
        shape = checks.array_shape(str(self), x)
        if shape[-len(last) :] != last:
            expected = ", ".join(map(str, last))
            raise ValueError(f"{self}: expected x of shape (…, {expected}), got {shape}")
        return tuple(range(-len(last), 0))


class BatchNorm(Norm):
    """Normalize each channel of (N, C) or (N, C, …) over the batch and space (`ops.batch_norm`).

    Training normalizes with the batch's mean and biased variance, and updates the running
    statistics, where `new` is the batch's mean or its unbiased variance:

        running = (1 - momentum) · running + momentum · new

    Evaluation normalizes with the running statistics instead.

    Args:
        num_features: C.
        momentum: the weight of the new batch; None averages all batches equally.
        affine: whether to learn gamma and beta.
        track_running_stats: if False, evaluation also uses the batch's own statistics.
        sync: the ranks over which a batch is spread (see `tb.distributed`): training normalizes
            with the statistics of the whole batch, not of this rank's part.

    Raises:
        ValueError: when called, x does not fit, or in training a channel has only one value.

    Source: Ioffe & Szegedy 2015 (1502.03167), algorithms 1 and 2.

    Example:
        >>> layer = tb.nn.BatchNorm(1)
        >>> layer(np.array([[2.0], [10.0], [6.0]])).T
        tensor([[-1.2247443,  1.2247443,  0.       ]], dtype=float64, from transpose)
    """

    buffers = ("running_mean", "running_var", "num_batches_tracked")
    sizes = ("num_features",)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        sync: Communicator | None = None,
    ) -> None:
        if momentum is not None and not 0 <= number(momentum) <= 1:
            raise ValueError(f"BatchNorm: expected 0 <= momentum <= 1 or None, got {momentum!r}")
        self.num_features = n = at_least_1("num_features of BatchNorm", num_features)
        super().__init__((n,), eps, affine, affine)
        self.momentum = momentum
        self.sync = sync
        self.running_mean = tensor(np.zeros(n, np.float32)) if track_running_stats else None
        self.running_var = tensor(np.ones(n, np.float32)) if track_running_stats else None
        self.num_batches_tracked = 0 if track_running_stats else None

    def forward(self, x: Input) -> Tensor:
        self.check_channels(x, self.num_features)
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or var is None or count is None:
            return self._normalized(x)[0]
        if not self.training:
            return ops.batch_norm(
                x, self.gamma, self.beta, mean=mean.data, var=var.data, eps=self.eps
            )
        y, saved = self._normalized(x)
        self.num_batches_tracked = count + 1
        momentum = 1 / (count + 1) if self.momentum is None else self.momentum
        n, new_mean, new_var = self._statistics(x, saved, mean.dtype)
        unbiased = n / (n - 1)
        mean.data = (1 - momentum) * mean.data + momentum * new_mean
        var.data = (1 - momentum) * var.data + momentum * unbiased * new_var
        return y

    def _normalized(self, x: Input) -> tuple[Tensor, Any]:
        """The output with the batch's statistics, and what the closed form saved."""
        affine = self.gamma, self.beta
        if self.sync is None:
            return ops.batch_norm.with_saved(x, *affine, eps=self.eps)
        return sync_batch_norm.with_saved(x, *affine, comm=self.sync, eps=self.eps)

    def _statistics(self, x: Input, saved: Any, dtype: np.dtype) -> tuple[int, Array, Array]:
        """Each channel's number of values, mean and biased variance; `saved`, or from x."""
        array = x.data if isinstance(x, Tensor) else x
        n = x.size // self.num_features
        if self.sync is not None:
            n, mean, var = statistics(array, saved, self.sync)
        elif saved:
            moments = saved.moments
            mean, var = (moments.mu + moments.rest).reshape(-1), moments.var.reshape(-1)
        else:
            axis = (0, *range(2, x.ndim))
            mean, var = ops.mean(array, axis), ops.var(array, axis)
        return n, mean.astype(dtype, copy=False), var.astype(dtype, copy=False)


class LayerNorm(Norm):
    """Normalize each sample over its last axes, of shape `normalized_shape` (`ops.layer_norm`).

    Args:
        elementwise_affine: whether to learn gamma and, unless bias=False, beta.

    Source: Ba, Kiros & Hinton 2016 (1607.06450), section 3.
    """

    sizes = ("normalized_shape",)

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        self.normalized_shape = shape = _shape(normalized_shape)
        super().__init__(shape, eps, elementwise_affine, elementwise_affine and bias)

    def forward(self, x: Input) -> Tensor:
        axis = self.axes(x, self.normalized_shape)
        return ops.layer_norm(x, self.gamma, self.beta, axis=axis, eps=self.eps)


class RMSNorm(Norm):
    """Divide each sample by √(mean(x²) + ε) over its last axes (`ops.rms_norm`).

    Source: Zhang & Sennrich 2019 (1910.07467), section 4.
    """

    sizes = ("normalized_shape",)

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
    ) -> None:
        self.normalized_shape = shape = _shape(normalized_shape)
        super().__init__(shape, eps, elementwise_affine, False)

    def forward(self, x: Input) -> Tensor:
        axis = self.axes(x, self.normalized_shape)
        return ops.rms_norm(x, self.gamma, axis=axis, eps=self.eps)


class GroupNorm(Norm):
    """Normalize each sample of (N, C, …) over space and groups of channels (`ops.group_norm`).

    Source: Wu & He 2018 (1803.08494), section 3.1.
    """

    sizes = ("num_groups", "num_channels")

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True
    ) -> None:
        self.num_groups = at_least_1("num_groups of GroupNorm", num_groups)
        self.num_channels = at_least_1("num_channels of GroupNorm", num_channels)
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: {num_groups} groups do not divide {num_channels} channels evenly"
            )
        super().__init__((self.num_channels,), eps, affine, affine)

    def forward(self, x: Input) -> Tensor:
        self.check_channels(x, self.num_channels)
        return ops.group_norm(x, self.num_groups, self.gamma, self.beta, eps=self.eps)


class InstanceNorm(Norm):
    """Normalize each channel of each sample of (N, C, L, …) over space (`ops.instance_norm`).

    Source: Ulyanov, Vedaldi & Lempitsky 2016 (1607.08022), section 2.
    """

    sizes = ("num_features",)

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False) -> None:
        self.num_features = at_least_1("num_features of InstanceNorm", num_features)
        super().__init__((self.num_features,), eps, affine, affine)

    def forward(self, x: Input) -> Tensor:
        self.check_channels(x, self.num_features)
        return ops.instance_norm(x, self.gamma, self.beta, eps=self.eps)


NORMS: dict[str, Callable[[int], Module]] = {
    "batch": BatchNorm,
    "layer": LayerNorm,
    "group": lambda width: GroupNorm(4, width),
    "rms": RMSNorm,
}
"""Functions that make a norm for a given width, by name."""


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    lengths = normalized_shape if isinstance(normalized_shape, Sequence) else [normalized_shape]
    if not lengths:
        raise ValueError("normalized_shape: expected at least one axis, got ()")
    return tuple(at_least_1("normalized_shape", n) for n in lengths)
