"""The closed forms: each norm, linear and cross-entropy as one node of the graph.

Each equals the composition of primitive ops that it names; tests and `make compare` check this
number by number. For its gradients, a norm keeps its input and a few numbers per channel or row,
and computes x̂ again. On CuPy, kernels replace the functions marked `replaceable` (on_cupy.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinybn.backend import Array, replaceable
from tinybn.fusion import fused
from tinybn.ops import checks, linalg, loss, norm
from tinybn.ops.norm import in_groups, per_channel, scale, scale_and_shift
from tinybn.summation import add_up, average

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]
__all__ += ["cross_entropy", "linear"]

# A norm is a choice of axes, with n values along them: x̂ = (x - μ) r, r = 1/√(σ² + ε), y = γ x̂ + β.
# With g = γ dy, three paths lead from x̂ to x: directly, through μ, and through σ². The gradient of
# σ² is -½ r² Σ g x̂, and ∂σ²/∂x = 2 (x - μ) / n. The path x → μ → σ² adds 0, since Σ (x - μ) = 0.
#
#     dx = r (g - Σ g / n - x̂ Σ(g x̂) / n)      dγ = Σ(dy x̂), dβ = Σ dy over all that share a γ
#
# In batch norm, all values along the axes share a γ. It leaves the sums, which become dβ and dγ:
#
#     dx = γ r (dy - dβ / n - x̂ dγ / n)        (Ioffe & Szegedy 2015, section 3)


class Layout(NamedTuple):
    """A norm's choice of axes: x, reshaped to `shape`, is normalized along `axis`.

    shared: the axes along which γ and β are constant. centred: whether μ is subtracted. fixed:
    whether μ and σ² are given constants.
    """

    shape: tuple[int, ...]
    axis: tuple[int, ...]
    shared: tuple[int, ...]
    centred: bool = True
    fixed: bool = False

    def mean(self, a: Array) -> Array:
        return average(a, self.axis, True)

    def view(self, a: Array) -> Array:
        """x, or its gradient, in this shape."""
        return a if a.shape == self.shape else a.reshape(self.shape)


class Moments(NamedTuple):
    """The mean, mu + rest (`rest` corrects the rounding of mu); the variance; r = 1/√(var + ε)."""

    mu: Any
    rest: Any
    var: Array
    r: Array


class Saved(NamedTuple):
    """What a norm keeps for its gradients, besides its inputs. gamma broadcasts against x."""

    moments: Moments
    layout: Layout
    gamma: Any


@replaceable
def normalize(
    xp: Any, x: Array, gamma: Any, beta: Any, given: Any, layout: Layout, eps: float
) -> tuple[Array, Moments]:
    """y and the moments. These, gamma, beta and `given` (μ and σ²) all broadcast against x."""
    mu, rest, d = 0.0, 0.0, x
    if layout.fixed:
        mu, var = given
        d = x - mu
    elif layout.centred:
        mu = layout.mean(x)
        d = x - mu
        rest = layout.mean(d)  # see `recentre` in reduction.py
        d = d - rest
    if not layout.fixed:
        var = layout.mean(d * d)
    r = 1 / xp.sqrt(var + eps)
    x_hat = d * r
    y = scale_and_shift(x_hat, gamma, beta)
    return y, Moments(mu, rest, var, r)


@replaceable
def gradients(
    xp: Any, needed: Any, dy: Array, x: Array, gamma: Any, moments: Moments, layout: Layout
) -> tuple[Any, Any, Any]:
    """dx, dγ and dβ, or None for those that are not needed."""
    mu, rest, _, r = moments
    n, mean = x.size // r.size, layout.mean
    gamma_outside = needed[0] and layout.axis == layout.shared and not layout.fixed
    dx = dgamma = dbeta = None
    x_hat = (x - mu - rest) * r if layout.centred else x * r
    if needed[1] or gamma_outside:
        dgamma = add_up(dy * x_hat, layout.shared, True)
    if needed[2] or gamma_outside:
        dbeta = add_up(dy, layout.shared, True)
    if gamma_outside:
        dx = scale(r, gamma) * (dy - dbeta / n - x_hat * (dgamma / n))
    elif needed[0] and layout.fixed:  # the direct path is the only one
        dx = scale(r, gamma) * dy
    elif needed[0]:
        g = scale(dy, gamma)
        through_mu = mean(g) if layout.centred else 0.0
        dx = r * (g - through_mu - x_hat * mean(g * x_hat))
    return dx, dgamma, dbeta


def _forward(
    xp: Any, x: Array, gamma: Any, beta: Any, layout: Layout, eps: float, given: Any = ()
) -> tuple[Array, Saved]:
    """gamma, beta and `given` must broadcast against x in the shape of the layout."""
    output, dtype = _dtypes(x, gamma, beta)
    a, gamma, beta, *given = _cast(dtype, layout.view(x), gamma, beta, *given)
    y, moments = normalize(xp, a, gamma, beta, given, layout, eps)
    (y,) = _cast(output, y if y.shape == x.shape else y.reshape(x.shape))
    return y, Saved(moments, layout, gamma)


def _backward(
    xp: Any, needed: Any, dy: Array, saved: Saved, x: Array, *params: Any, **static: Any
) -> list[Any]:
    moments, layout, gamma = saved
    dy, a = _cast(moments.r.dtype, layout.view(dy), layout.view(x))
    found = gradients(xp, (*needed, False), dy, a, gamma, moments, layout)
    return [_like(g, a) for g, a in zip(found, (x, *params), strict=False)]


def _dtypes(*arrays: Any) -> tuple[np.dtype, np.dtype]:
    """The dtype of the output (as in the composition), and one to compute in: at least float32."""
    dtypes = {a.dtype for a in arrays if a is not None}
    if arrays[0].dtype.kind != "f":
        dtypes.add(np.dtype(np.float64))  # that of the mean of integers
    output = dtypes.pop() if len(dtypes) == 1 else np.result_type(*dtypes)
    return output, output if output.itemsize >= 4 else np.dtype(np.float32)


def _cast(dtype: np.dtype, *arrays: Any) -> list[Any]:
    return [a if a is None or a.dtype == dtype else a.astype(dtype) for a in arrays]


def _like(g: Any, a: Any) -> Any:
    """g in the shape of a. An unneeded reshape would make a view, which a leaf must copy."""
    return g if g is None or a is None or g.shape == a.shape else g.reshape(a.shape)


@fused(composition=norm.batch_norm)
def batch_norm(xp: Any, x: Array, gamma: Any, beta: Any, *, mean: Any, var: Any, eps: float) -> Any:
    axis = checks.batch_norm(x, gamma, beta, mean, var, eps)
    given = [per_channel(checks.constant(v), x) for v in (mean, var)]
    layout = Layout(x.shape, axis, axis, fixed=mean is not None)
    return _forward(xp, x, per_channel(gamma, x), per_channel(beta, x), layout, eps, given)


@fused(composition=norm.layer_norm)
def layer_norm(xp: Any, x: Array, gamma: Any, beta: Any, *, axis: Any, eps: float) -> Any:
    axis = checks.last_axes("layer_norm", x, axis, gamma, beta, eps=eps)
    return _forward(xp, x, gamma, beta, Layout(x.shape, axis, tuple(range(axis[0]))), eps)


@fused(composition=norm.rms_norm)
def rms_norm(xp: Any, x: Array, gamma: Any, *, axis: Any, eps: float) -> Any:
    axis = checks.last_axes("rms_norm", x, axis, gamma, eps=eps)
    layout = Layout(x.shape, axis, tuple(range(axis[0])), centred=False)
    return _forward(xp, x, gamma, None, layout, eps)


@fused(composition=norm.group_norm)
def group_norm(xp: Any, x: Array, gamma: Any, beta: Any, *, groups: int, eps: float) -> Any:
    checks.group_norm(x, groups, gamma, beta, eps)
    grouped, gamma, beta = in_groups(x, groups, gamma, beta)
    return _forward(xp, x, gamma, beta, Layout(grouped.shape, (2, 3), shared=(0, 3)), eps)


@fused(composition=norm.instance_norm)
def instance_norm(xp: Any, x: Array, gamma: Any, beta: Any, *, eps: float) -> Any:
    checks.instance_norm(x, gamma, beta, eps)
    grouped, gamma, beta = in_groups(x, x.shape[1], gamma, beta)
    return _forward(xp, x, gamma, beta, Layout(grouped.shape, (2, 3), shared=(0, 3)), eps)


for _norm in (batch_norm, layer_norm, rms_norm, group_norm, instance_norm):
    _norm.backward(_backward)


# Linear: x W + b is linear in each, so dx = dy Wᵀ, dW = xᵀ dy and db = Σ dy, over all rows.


@fused(composition=linalg.linear)
def linear(xp: Any, x: Array, weight: Array, bias: Any) -> Any:
    checks.linear(x, weight, bias)
    return x @ weight if bias is None else x @ weight + bias, ()


@linear.backward
def _(xp: Any, needed: Any, dy: Array, saved: Any, x: Array, weight: Array, bias: Any) -> Any:
    rows, dy_rows = (a.reshape(-1, a.shape[-1]) for a in (x, dy))
    return (
        dy @ weight.T if needed[0] else None,
        rows.T @ dy_rows if needed[1] else None,
        add_up(dy_rows, 0, False) if needed[2] else None,
    )


# Cross-entropy: the mean over n rows of -log p[label], p = softmax(z) = exp(z) / Σ exp(z). Let hot
# be 1 at the label and 0 elsewhere. Then ∂(-log p[label])/∂z = p - hot, and dz = (p - hot) g / n.


@replaceable
def softmax_loss(xp: Any, z: Array, labels: Any) -> tuple[Array, Any]:
    """The loss, and what its gradient needs: p and hot."""
    hot = xp.asarray(labels)[:, None] == xp.arange(z.shape[1])
    d = z - z.max(axis=1, keepdims=True)
    e = xp.exp(d)
    total = add_up(e, 1, True)
    p, log_p = e / total, d - xp.log(total)
    return -add_up(xp.where(hot, log_p, 0), None, False) / z.shape[0], (p, hot)


@replaceable
def softmax_loss_gradient(xp: Any, g: Array, z: Array, saved: Any) -> Array:
    """dz."""
    p, hot = saved
    return (p - hot) * (g / len(z))


@fused(composition=loss.cross_entropy)
def cross_entropy(xp: Any, logits: Array, *, labels: Any) -> Any:
    labels = checks.cross_entropy(logits, labels)
    output, dtype = _dtypes(logits)
    (z,) = _cast(dtype, logits)
    y, saved = softmax_loss(xp, z, labels)
    return y.astype(output, copy=False), saved


@cross_entropy.backward
def _(xp: Any, needed: Any, g: Array, saved: Any, logits: Array, *, labels: Any) -> Any:
    g, z = _cast(_dtypes(logits)[1], g, logits)
    return (softmax_loss_gradient(xp, g, z, saved),)
