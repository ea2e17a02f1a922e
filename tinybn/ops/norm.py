"""The normalization family, as compositions of primitive ops.

There is one idea: choose the axes, centre along them, and scale to unit size.

    x_hat = (x - μ) / √(σ² + ε)        y = gamma · x_hat + beta

    batch norm     every axis but the channels'    Ioffe & Szegedy 2015 (1502.03167), algorithm 1
    layer norm     the last axes                   Ba, Kiros & Hinton 2016 (1607.06450), section 3
    group norm     a group of channels, and space  Wu & He 2018 (1803.08494), section 3.1
    instance norm  space                           Ulyanov et al. 2016 (1607.08022), section 2
    rms norm       the last axes, not centred      Zhang & Sennrich 2019 (1910.07467), section 4

(The numbers are arXiv's.) The gradients are not written anywhere: they come out of those of mean,
subtract, multiply, sqrt and divide. μ and σ² are functions of x, so its gradient also takes the
paths through them.
"""

from __future__ import annotations

from typing import Any

from tinybn.ops.elementwise import sqrt
from tinybn.ops.reduction import centre, mean
from tinybn.ops.shape import reshape
from tinybn.tensor import Input, Tensor, shape_of


def _scale(d: Tensor, axis: Any, eps: float) -> Tensor:
    """d / √(mean(d²) + ε): of centred d, this is division by the standard deviation."""
    return d / sqrt(mean(d * d, axis, keepdims=True) + eps)


def _affine(x_hat: Tensor, gamma: Any, beta: Any, shape: tuple[int, ...]) -> Tensor:
    """gamma · x_hat + beta, with gamma and beta laid out as `shape`; None leaves that part away."""
    if gamma is not None:
        x_hat = x_hat * reshape(gamma, shape)
    return x_hat if beta is None else x_hat + reshape(beta, shape)


def batch_norm(
    x: Input,
    gamma: Input | None = None,
    beta: Input | None = None,
    *,
    mean: Any = None,
    var: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel over the batch (and space): x (N, C) or (N, C, …), the rest (C,).

    μ and σ² are the batch's own, σ² biased (divided by n). With `mean` and `var` given, those are
    used instead, as constants: evaluation mode.
    """
    axis = check_batch_norm(x, gamma, beta, mean, var, eps)
    shape = _per_channel(x)
    if mean is not None:
        mean, var = (reshape(constant(v), shape).astype(x.dtype) for v in (mean, var))
        return _affine((x - mean) / sqrt(var + eps), gamma, beta, shape)
    return _affine(_scale(centre(x, axis), axis, eps), gamma, beta, shape)


def layer_norm(
    x: Input,
    gamma: Input | None = None,
    beta: Input | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each sample over its last axes; gamma and beta have the shape of those axes."""
    axis, shape = check_last_axes("layer_norm", x, axis, gamma, beta, eps=eps)
    return _affine(_scale(centre(x, axis), axis, eps), gamma, beta, shape)


def rms_norm(
    x: Input,
    gamma: Input | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
) -> Tensor:
    """gamma · x / √(mean(x²) + ε) over the last axes: layer norm without centring."""
    axis, shape = check_last_axes("rms_norm", x, axis, gamma, eps=eps)
    return _affine(_scale(x, axis, eps), gamma, None, shape)


def group_norm(
    x: Input,
    groups: int,
    gamma: Input | None = None,
    beta: Input | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each sample over groups of C / groups channels (and space); x (N, C, …)."""
    check_group_norm(x, groups, gamma, beta, eps)
    grouped = reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    axis = tuple(range(2, grouped.ndim))
    x_hat = reshape(_scale(centre(grouped, axis), axis, eps), x.shape)
    return _affine(x_hat, gamma, beta, _per_channel(x))


def instance_norm(
    x: Input,
    gamma: Input | None = None,
    beta: Input | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel of each sample over space; x (N, C, L), (N, C, H, W), …"""
    axis = check_instance_norm(x, gamma, beta, eps)
    return _affine(_scale(centre(x, axis), axis, eps), gamma, beta, _per_channel(x))


def _per_channel(x: Any) -> tuple[int, ...]:
    """The shape in which one number per channel broadcasts against x (N, C, …)."""
    return (1, x.shape[1]) + (1,) * (x.ndim - 2)


# What the arguments must be. The closed forms ask the same.


def check_batch_norm(x: Any, gamma: Any, beta: Any, mean: Any, var: Any, eps: float) -> Any:
    """The axes to normalize over."""
    _check_channels("batch_norm", x, gamma, beta, mean, var, eps=eps)
    axis = (0, *range(2, x.ndim))
    if (mean is None) != (var is None):
        raise ValueError(
            "batch_norm: expected both mean and var (evaluation), or neither (training)"
        )
    if mean is None:
        _more_than_one("batch_norm", x, x.shape[1])
    return axis


def check_group_norm(x: Any, groups: int, gamma: Any, beta: Any, eps: float) -> None:
    """Whether the groups divide the channels, too."""
    _check_channels("group_norm", x, gamma, beta, eps=eps)
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"group_norm: {groups} groups do not divide {x.shape[1]} channels evenly")


def check_instance_norm(x: Any, gamma: Any, beta: Any, eps: float) -> Any:
    """The axes to normalize over."""
    _check_channels("instance_norm", x, gamma, beta, eps=eps)
    axis = tuple(range(2, x.ndim))
    if not axis:
        raise ValueError(f"instance_norm: expected x of shape (N, C, L, …), got {x.shape}")
    _more_than_one("instance_norm", x, x.shape[0] * x.shape[1])
    return axis


def _check_channels(name: str, x: Any, *per_channel: Any, eps: float) -> None:
    shape = shape_of(x)
    if len(shape) < 2:
        raise ValueError(f"{name}: expected x of shape (N, C) or (N, C, …), got {shape}")
    _check(name, shape, shape[1:2], per_channel, eps)


def check_last_axes(name: str, x: Any, axis: Any, *params: Any, eps: float) -> tuple[Any, Any]:
    """The axes, after checking that they are the last of x, and the shape of gamma and beta."""
    shape = shape_of(x)
    axes = axis if isinstance(axis, tuple) else (axis,)
    last = tuple(range(len(shape) - len(axes), len(shape)))
    if not axes or last[0] < 0 or tuple(sorted(a % len(shape) for a in axes)) != last:
        raise ValueError(f"{name}: expected the last axes of x {shape}, got axis={axis}")
    _check(name, shape, shape[last[0] :], params, eps)
    return last, shape[last[0] :]


def _check(name: str, shape: Any, expected: Any, params: tuple[Any, ...], eps: float) -> None:
    for i, param in enumerate(params):
        if param is not None and shape_of(param) != expected:
            what = ("gamma", "beta", "mean", "var")[i]
            raise ValueError(
                f"{name}: expected {what} of shape {expected} for x {shape}, got {shape_of(param)}"
            )
    if not eps >= 0:
        raise ValueError(f"{name}: expected eps >= 0, got {eps}")
    if 0 in shape:
        raise ValueError(f"{name}: x of shape {shape} has no elements (an empty batch?)")


def _more_than_one(name: str, x: Any, channels: int) -> None:
    if x.size == channels:
        raise ValueError(
            f"{name}: x {x.shape} has one value per channel, and one value has no variance: "
            "train on larger batches (drop_last=True drops a last one of 1), or call eval()"
        )


def constant(value: Any) -> Any:
    """The array of a Tensor, an array itself."""
    return value.data if isinstance(value, Tensor) else value
