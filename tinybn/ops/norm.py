"""The normalization family, as compositions of primitive ops.

One idea: choose axes, subtract the mean along them, and scale to unit variance.

    x_hat = (x - μ) / √(σ² + ε)        y = gamma · x_hat + beta

    batch norm     every axis but the channels'    Ioffe & Szegedy 2015 (1502.03167), algorithm 1
    layer norm     the last axes                   Ba, Kiros & Hinton 2016 (1607.06450), section 3
    group norm     a group of channels, and space  Wu & He 2018 (1803.08494), section 3.1
    instance norm  space                           Ulyanov et al. 2016 (1607.08022), section 2
    rms norm       the last axes, not centred      Zhang & Sennrich 2019 (1910.07467), section 4

(Numbers in parentheses are arXiv's.) There is no gradient rule in this file: the gradients follow
from the rules of mean, subtract, multiply, sqrt and divide. μ and σ² are functions of x, so the
gradient of x also flows through them.
"""

from __future__ import annotations

from typing import Any

from tinybn.ops import checks
from tinybn.ops.elementwise import narrow, sqrt, wide
from tinybn.ops.reduction import mean, recentre
from tinybn.ops.shape import reshape
from tinybn.tensor import Input, Tensor


def _normalize(x: Input, gamma: Any, beta: Any, axis: tuple[int, ...], eps: float) -> Tensor:
    """Normalize x along `axis`; gamma and beta broadcast against x."""
    a = wide(x)
    mu = mean(a, axis, keepdims=True)
    d = recentre(a - mu, axis)  # a - mu, less the rounding error of mu
    var = mean(d * d, axis, keepdims=True)
    x_hat = d / sqrt(var + eps)
    y = scale_and_shift(x_hat, gamma, beta)
    return narrow(y, x, gamma, beta)


def scale_and_shift(x_hat: Any, gamma: Any, beta: Any) -> Any:
    """gamma · x_hat + beta; None omits that part."""
    y = scale(x_hat, gamma)
    return y if beta is None else y + beta


def scale(a: Any, gamma: Any) -> Any:
    """gamma · a; None omits gamma."""
    return a if gamma is None else gamma * a


def batch_norm(
    x: Input,
    gamma: Input | None = None,
    beta: Input | None = None,
    *,
    mean: Any = None,
    var: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel over the batch and space; σ² is biased (divided by n).

    Args:
        x: (N, C) or (N, C, …).
        gamma, beta: (C,), or None to omit that part.
        mean, var: (C,); for evaluation, constants to use instead of the batch's μ and σ².
        eps: ε, at least 0.

    Returns:
        y in the shape of x, and in the common dtype of x, gamma and beta.

    Raises:
        ValueError: a shape does not fit, or a channel has only one value, and so no variance.
    """
    axis = checks.batch_norm(x, gamma, beta, mean, var, eps)
    gamma, beta = per_channel(gamma, x), per_channel(beta, x)
    if mean is None:
        return _normalize(x, gamma, beta, axis, eps)
    a = wide(x)
    mu, var = (per_channel(checks.constant(v), x).astype(a.dtype) for v in (mean, var))
    x_hat = (a - mu) / sqrt(var + eps)
    y = scale_and_shift(x_hat, gamma, beta)
    return narrow(y, x, gamma, beta)


def layer_norm(
    x: Input,
    gamma: Input | None = None,
    beta: Input | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each sample over its last axes.

    Args:
        x: (N, …).
        gamma, beta: in the shape of the normalized axes, or None to omit that part.
        axis: the last axis, or a tuple of the last axes.
        eps: ε, at least 0.

    Raises:
        ValueError: a shape does not fit, or the axes are not the last.
    """
    axis = checks.last_axes("layer_norm", x, axis, gamma, beta, eps=eps)
    return _normalize(x, gamma, beta, axis, eps)


def rms_norm(
    x: Input,
    gamma: Input | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
) -> Tensor:
    """gamma · x / √(mean(x²) + ε) over the last axes: layer norm without centring.

    See `layer_norm` for arguments and errors.
    """
    axis = checks.last_axes("rms_norm", x, axis, gamma, eps=eps)
    a = wide(x)
    x_hat = a / sqrt(mean(a * a, axis, keepdims=True) + eps)
    y = scale_and_shift(x_hat, gamma, None)
    return narrow(y, x, gamma)


def group_norm(
    x: Input,
    groups: int,
    gamma: Input | None = None,
    beta: Input | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each sample over space and over groups of C / groups channels.

    Args:
        x: (N, C) or (N, C, …).
        groups: the number of groups, which must divide C.
        gamma, beta: (C,), or None to omit that part.
        eps: ε, at least 0.

    Raises:
        ValueError: a shape does not fit, or the groups do not divide the channels.
    """
    checks.group_norm(x, groups, gamma, beta, eps)
    grouped, gamma, beta = in_groups(x, groups, gamma, beta)
    return reshape(_normalize(grouped, gamma, beta, (2, 3), eps), x.shape)


def instance_norm(
    x: Input,
    gamma: Input | None = None,
    beta: Input | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel of each sample over space.

    Args:
        x: (N, C, L), (N, C, H, W), …
        gamma, beta: (C,), or None to omit that part.
        eps: ε, at least 0.

    Raises:
        ValueError: a shape does not fit, or a channel of a sample has only one value.
    """
    checks.instance_norm(x, gamma, beta, eps)
    grouped, gamma, beta = in_groups(x, x.shape[1], gamma, beta)
    return reshape(_normalize(grouped, gamma, beta, (2, 3), eps), x.shape)


def per_channel(v: Any, x: Any) -> Any:
    """One number per channel (C,), to broadcast against x (N, C, …)."""
    return v if v is None or x.ndim == 2 else reshape(v, (-1, *[1] * (x.ndim - 2)))


def in_groups(x: Any, groups: int, *params: Any) -> Any:
    """x (N, C, …) as (N, groups, C / groups, space), and `params` (C,) to broadcast against it."""
    size = x.shape[1] // groups
    laid_out = (None if v is None else reshape(v, (groups, size, 1)) for v in params)
    return reshape(x, (x.shape[0], groups, size, -1)), *laid_out
