"""Batch norm over a batch that is spread over ranks: the composition, and the closed form.

The composition is that of ops/norm.py, line for line, with means that are taken over the ranks,
too. There is no gradient rule here: a mean over ranks has one, and the chain rule does the rest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinybn.backend import MODULES, Array
from tinybn.distributed.communicator import Communicator
from tinybn.distributed.ops import all_reduce
from tinybn.fusion import fused
from tinybn.ops import checks
from tinybn.ops.elementwise import narrow, sqrt, wide
from tinybn.ops.norm import per_channel, scale, scale_and_shift
from tinybn.ops.reduction import sum
from tinybn.ops.shape import reshape
from tinybn.summation import add_up, average
from tinybn.tensor import Input, Tensor

__all__ = ["sync_batch_norm"]


def _sync_batch_norm(
    x: Input,
    gamma: Input | None = None,
    beta: Input | None = None,
    *,
    comm: Communicator,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel over the batch of all ranks, and over space.

    Equal to `ops.batch_norm` of the batches of all ranks together, which may differ in length. In
    the sense of `all_reduce`: the gradients of x, gamma and beta are those of the sum of the losses
    of all ranks, and gamma's and beta's are this rank's part of it.

    Args:
        x: (N, C) or (N, C, …), this rank's part of the batch.
        gamma, beta: (C,), or None to omit that part.
        comm: the ranks, from `connect`.
        eps: ε, at least 0.

    Raises:
        ValueError: a shape does not fit, or a channel has only one value on all ranks together.
    """
    axis = checks.channels("sync_batch_norm", x, gamma, beta, eps=eps)
    count = int(comm.all_reduce(np.array(x.size // x.shape[1]), "the size of the batch"))
    _more_than_one(count)

    def mean(a: Any) -> Any:
        return all_reduce(sum(a, axis, keepdims=True), comm=comm) / count

    a = wide(x)
    d = a - mean(a)
    d = d - mean(d)  # what rounding of the mean left
    var = mean(d * d)
    x_hat = d / sqrt(var + float(eps))
    y = scale_and_shift(x_hat, per_channel(gamma, x), per_channel(beta, x))
    return narrow(y, x, gamma, beta)


def _more_than_one(count: int) -> None:
    if count == 1:
        raise ValueError(
            "sync_batch_norm: all ranks together have one value per channel, and one value has no "
            "variance: train on larger batches, or call eval()"
        )


# Each rank sends one message: for its n values per channel, their mean (as a sum of two numbers,
# mu + rest, of which the second corrects the rounding of the first) and M2 = Σ (x - mean)². With
# δ = mean - pivot, where the pivot is the mean of rank 0, Chan, Golub & LeVeque (1983) merge them:
#
#     N = Σ n      mean = pivot + Σ n δ / N      M2 = Σ M2 + Σ n (δ - Σ n δ / N)²
#
# Nothing large is subtracted from anything large, as in E[x²] - E[x]². The gradients are those of
# batch norm (ops/fused.py), with sums over all ranks, which are the other message. With g = γ dy:
#
#     dx = r (g - Σ g / N - x̂ Σ (g x̂) / N)


class Moments(NamedTuple):
    """Of all ranks' values, per channel: their number, mean (mu + rest) and biased variance."""

    number: int
    mu: Array
    rest: Array
    var: Array


def moments(xp: Any, x: Array, axis: tuple[int, ...], comm: Communicator) -> Moments:
    """The moments over these axes and all ranks, in one message. They broadcast against x."""
    mu = average(x, axis, True)
    d = x - mu
    rest = average(d, axis, True)
    d = d - rest
    own = (mu, rest, add_up(d * d, axis, True))
    n, shape = x.size // mu.size, mu.shape
    if comm.size == 1:
        _more_than_one(n)
        return Moments(n, mu, rest, own[2] / n)
    exact = np.result_type(x.dtype, np.float64)
    message = xp.concatenate([xp.full(1, n, exact), *(a.reshape(-1).astype(exact) for a in own)])
    rows = comm.all_gather(message, "the moments of batch norm")
    counts = rows[:, :1]
    mus, rests, m2s = (rows[:, 1 + i * mu.size :][:, : mu.size] for i in range(3))
    total = counts.sum()
    pivot = mus[0]
    delta = mus - pivot + rests
    shift = (counts * delta).sum(axis=0) / total
    apart = delta - shift
    m2 = m2s.sum(axis=0) + (counts * apart * apart).sum(axis=0)
    high = (pivot + shift).astype(x.dtype)
    low = (pivot - high + shift).astype(x.dtype)
    _more_than_one(count := round(float(total)))
    var = (m2 / total).astype(x.dtype)
    return Moments(count, *(a.reshape(shape) for a in (high, low, var)))


@fused(composition=_sync_batch_norm)
def sync_batch_norm(
    xp: Any, x: Array, gamma: Any, beta: Any, *, comm: Communicator, eps: float
) -> Any:
    axis = checks.channels("sync_batch_norm", x, gamma, beta, eps=eps)
    a = wide(x)
    found = moments(xp, a, axis, comm)
    r = 1 / xp.sqrt(found.var + eps)
    x_hat = (a - found.mu - found.rest) * r
    y = scale_and_shift(x_hat, per_channel(gamma, x), per_channel(beta, x))
    return narrow(y, x, gamma, beta), (found, r)


@sync_batch_norm.backward
def _(
    xp: Any,
    needed: Any,
    dy: Array,
    saved: Any,
    x: Array,
    gamma: Any,
    beta: Any,
    *,
    comm: Communicator,
    eps: float,
) -> Any:
    (count, mu, rest, _), r = saved
    axis = (0, *range(2, x.ndim))
    dy = dy.astype(r.dtype, copy=False)
    x_hat = (x.astype(r.dtype, copy=False) - mu - rest) * r
    dbeta, dgamma = add_up(dy, axis, True), add_up(dy * x_hat, axis, True)
    dx = None
    if needed[0]:
        gamma = per_channel(gamma, x)
        own = scale(xp.concatenate([dbeta, dgamma]), gamma)
        sums = comm.all_reduce(own, "the gradients of batch norm") / count
        dx = r * (scale(dy, gamma) - sums[:1] - x_hat * sums[1:])
    return dx, reshape(dgamma, (-1,)), reshape(dbeta, (-1,))


def statistics(x: Array, saved: Any, comm: Communicator) -> tuple[int, Array, Array]:
    """The number of values, the mean and the biased variance of each channel, over all ranks."""
    if saved:
        found = saved[0]
    else:
        xp: Any = MODULES[type(x)]
        found = moments(xp, wide(x), (0, *range(2, x.ndim)), comm)
    return found.number, (found.mu + found.rest).reshape(-1), found.var.reshape(-1)
