"""The norms as CuPy's kernels.

One set of kernels serves all of them. With x laid out such that statistics and γ broadcast, each
norm is a choice of axes: those that are normalized together, and those that γ is constant over.
With d = x - mean, x̂ = r (d - rest) and g = γ dy (see batch norm and layer norm):

    y = γ x̂ + β        dx = r (g - mean(g) - x̂ mean(g x̂))        dγ = Σ(dy x̂), dβ = Σ dy

In batch norm γ is constant along what is normalized. So it leaves the sums, which then are dγ and
dβ: five kernels forward and backward, and six in the other norms.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from tinybn.backend import Array
from tinybn.kernels import PAIR, kernel
from tinybn.ops import norm
from tinybn.ops.fused.batch_norm import Moments, batch_norm
from tinybn.ops.fused.group_norm import group_norm, instance_norm
from tinybn.ops.fused.layer_norm import layer_norm, rms_norm
from tinybn.ops.fused.sums import dtypes

# --- kernels ---


@kernel
def mean_of(xp: Any) -> Any:
    return xp.ReductionKernel(
        "X x, int64 n", "A mean", "x", "a + b", "mean = a / n", "0", "mean_of", reduce_type="A"
    )


@kernel
def moments_of(xp: Any) -> Any:
    return xp.ReductionKernel(
        "X x, M mean, int64 n, float64 eps, bool centred",
        "A rest, A var, A r",
        "Pair((A)x - (A)mean, ((A)x - (A)mean) * ((A)x - (A)mean))",
        "a + b",
        "rest = centred ? a.first / n : 0, "
        "var = a.second / n - rest * rest, "
        "r = 1 / sqrt(var + (A)eps)",
        "0",
        "moments_of",
        reduce_type="Pair",
        preamble=PAIR,
    )


@kernel
def normalize(xp: Any) -> Any:
    return xp.ElementwiseKernel(
        "X x, M mean, R rest, A r, G gamma, B beta",
        "Y y",
        "y = ((A)x - (A)mean - (A)rest) * (r * (A)gamma) + (A)beta",
        "normalize",
    )


@kernel
def sums_of(xp: Any) -> Any:
    """Σ g and Σ g x̂."""
    return xp.ReductionKernel(
        "D dy, G gamma, X x, M mean, R rest, A r",
        "A sum, A dot",
        "Pair((A)dy * (A)gamma, (A)dy * (A)gamma * (((A)x - (A)mean - (A)rest) * r))",
        "a + b",
        "sum = a.first, dot = a.second",
        "0",
        "sums_of",
        reduce_type="Pair",
        preamble=PAIR,
    )


@kernel
def slope_of(xp: Any) -> Any:
    """dx; γ is split into what stands inside of the sums and what stands outside."""
    return xp.ElementwiseKernel(
        "D dy, G inside, P outside, X x, M mean, R rest, A r, S sum, A dot, int64 n",
        "Y dx",
        """
        A x_hat = ((A)x - (A)mean - (A)rest) * r;
        dx = (A)outside * r * ((A)dy * (A)inside - ((A)sum + x_hat * dot) / n);
        """,
        "slope_of",
    )


@kernel
def inverse_deviation(xp: Any) -> Any:
    return xp.ElementwiseKernel(
        "V var, float64 eps", "A r", "r = 1 / sqrt((A)var + (A)eps)", "inverse_deviation"
    )


# --- the norms ---


class Layout(NamedTuple):
    """x has that shape; all along `axis` is normalized together; γ is constant along `over`, and
    was given in the shape `params`.
    """

    shape: tuple[int, ...]
    axis: tuple[int, ...]
    over: tuple[int, ...]
    params: tuple[int, ...]

    def kept(self, axis: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one number for each part along `axis`."""
        return tuple(1 if i in axis else n for i, n in enumerate(self.shape))

    def param(self, value: Any, default: Array) -> Array:
        """γ or β, to be broadcast against x."""
        return default if value is None else value.reshape(self.kept(self.over))

    @property
    def n(self) -> int:
        """How many numbers are normalized together."""
        return math.prod(self.shape[i] for i in self.axis)


@functools.cache
def _zero_and_one(xp: Any, dtype: Any) -> tuple[Array, Array]:
    """What stands for a parameter that is absent; a number of Python has no dtype in a kernel."""
    return xp.zeros((), dtype), xp.ones((), dtype)


def _normalized(
    xp: Any, x: Array, gamma: Any, beta: Any, eps: float, layout: Layout, centred: bool = True
) -> tuple[Array, Moments]:
    """y, and the moments in the shape that broadcasts against x."""
    output, dtype = dtypes(x, gamma, beta)
    zero, one = _zero_and_one(xp, dtype)
    n, kept = layout.n, layout.kept(layout.axis)
    along = {"axis": layout.axis, "keepdims": True}
    y = xp.empty(x.shape, output)
    x, gamma, beta = x.reshape(layout.shape), layout.param(gamma, one), layout.param(beta, zero)
    mean: Any = zero
    if centred:
        mean = mean_of(xp)(x, n, xp.empty(kept, dtype), **along)
    rest, var, r = (xp.empty(kept, dtype) for _ in range(3))
    moments_of(xp)(x, mean, n, eps, centred, rest, var, r, **along)
    normalize(xp)(x, mean, rest, r, gamma, beta, y.reshape(x.shape))
    return y, Moments(mean, rest, var, r)


def _gradients(
    xp: Any, needed: Any, dy: Array, moments: Moments, x: Array, gamma: Any, layout: Layout,
    centred: bool = True, constant: bool = False,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """dx, dγ and dβ. constant: the moments do not depend on x (evaluation)."""
    mean, rest, _, r = moments[:4]
    dx: Any = None
    dgamma: Any = None
    dbeta: Any = None
    if needed[0]:
        dx = xp.empty(x.shape, x.dtype if x.dtype.kind == "f" else r.dtype)
    zero, one = _zero_and_one(xp, r.dtype)
    x, dy, gamma = x.reshape(layout.shape), dy.reshape(layout.shape), layout.param(gamma, one)

    def sums(gamma: Array, axis: tuple[int, ...], shape: tuple[int, ...]) -> list[Array]:
        outputs = [xp.empty(shape, r.dtype) for _ in range(2)]  # no views: they may become .grad
        seen = (a.reshape(layout.kept(axis)) for a in outputs)
        sums_of(xp)(dy, gamma, x, mean, rest, r, *seen, axis=axis, keepdims=True)
        return outputs

    outside = layout.over == layout.axis
    if needed[1] or needed[2] or (outside and needed[0] and not constant):
        dbeta, dgamma = sums(one, layout.over, layout.params)
    if dx is not None and constant:
        normalize(xp)(dy, zero, zero, r, gamma, zero, dx.reshape(x.shape))
    elif dx is not None:
        kept = layout.kept(layout.axis)
        split = (one, gamma) if outside else (gamma, one)
        total, dot = (dbeta, dgamma) if outside else sums(gamma, layout.axis, kept)
        total = total.reshape(kept) if centred else zero
        dot = dot.reshape(kept)
        slope_of(xp)(dy, *split, x, mean, rest, r, total, dot, layout.n, dx.reshape(x.shape))
    return dx, dgamma, dbeta


def _by_channel(x: Array) -> Layout:
    axis = (0, *range(2, x.ndim))
    return Layout(x.shape, axis, axis, x.shape[1:2])


@batch_norm.forward_on("cupy")
def _(xp: Any, x: Array, gamma: Any, beta: Any, *, mean: Any, var: Any, eps: float) -> Any:
    norm.check_batch_norm(x, gamma, beta, mean, var, eps)
    layout = _by_channel(x)
    if mean is None:
        y, moments = _normalized(xp, x, gamma, beta, eps, layout)
        return y, Moments(*(v.reshape(-1) for v in moments[:4]))
    output, dtype = dtypes(x, gamma, beta)
    mean, var = norm.constant(mean), norm.constant(var)
    r = inverse_deviation(xp)(var, eps, xp.empty(var.shape, dtype))
    zero, one = _zero_and_one(xp, dtype)
    at = layout.param
    across = at(mean, zero), zero, at(r, zero), at(gamma, one), at(beta, zero)
    return normalize(xp)(x, *across, xp.empty(x.shape, output)), Moments(mean, zero, var, r)


@batch_norm.backward_on("cupy")
def _(
    xp: Any, needed: Any, dy: Array, moments: Moments, x: Array, gamma: Any, beta: Any, *,
    mean: Any, var: Any, eps: float,
) -> Any:  # fmt: skip
    layout = _by_channel(x)
    across = Moments(*(layout.param(v, v) if v.ndim else v for v in moments[:4]))
    return _gradients(xp, needed, dy, across, x, gamma, layout, constant=mean is not None)


def _by_row(x: Array, axis: Any) -> Layout:
    params = x.shape[x.ndim - (len(axis) if isinstance(axis, tuple) else 1) :]
    n = math.prod(params)
    return Layout((x.size // n, n), (1,), (0,), params)


@layer_norm.forward_on("cupy")
def _(xp: Any, x: Array, gamma: Any, beta: Any, *, axis: Any, eps: float) -> Any:
    norm.check_last_axes("layer_norm", x, axis, gamma, beta, eps=eps)
    return _normalized(xp, x, gamma, beta, eps, _by_row(x, axis))


@layer_norm.backward_on("cupy")
def _(
    xp: Any, needed: Any, dy: Array, moments: Moments, x: Array, gamma: Any, beta: Any, *,
    axis: Any, eps: float,
) -> Any:  # fmt: skip
    return _gradients(xp, needed, dy, moments, x, gamma, _by_row(x, axis))


@rms_norm.forward_on("cupy")
def _(xp: Any, x: Array, gamma: Any, *, axis: Any, eps: float) -> Any:
    norm.check_last_axes("rms_norm", x, axis, gamma, eps=eps)
    return _normalized(xp, x, gamma, None, eps, _by_row(x, axis), centred=False)


@rms_norm.backward_on("cupy")
def _(
    xp: Any, needed: Any, dy: Array, moments: Moments, x: Array, gamma: Any, *,
    axis: Any, eps: float,
) -> Any:  # fmt: skip
    layout, needed = _by_row(x, axis), [*needed, False]
    return _gradients(xp, needed, dy, moments, x, gamma, layout, centred=False)[:2]


def _by_group(x: Array, groups: int) -> Layout:
    samples, channels = x.shape[:2]
    shape = samples, groups, channels // groups, math.prod(x.shape[2:])
    return Layout(shape, (2, 3), (0, 3), (channels,))


@group_norm.forward_on("cupy")
def _(xp: Any, x: Array, gamma: Any, beta: Any, *, groups: int, eps: float) -> Any:
    norm.check_group_norm(x, groups, gamma, beta, eps)
    return _normalized(xp, x, gamma, beta, eps, _by_group(x, groups))


@group_norm.backward_on("cupy")
def _(
    xp: Any, needed: Any, dy: Array, moments: Moments, x: Array, gamma: Any, beta: Any, *,
    groups: int, eps: float,
) -> Any:  # fmt: skip
    return _gradients(xp, needed, dy, moments, x, gamma, _by_group(x, groups))


@instance_norm.forward_on("cupy")
def _(xp: Any, x: Array, gamma: Any, beta: Any, *, eps: float) -> Any:
    norm.check_instance_norm(x, gamma, beta, eps)
    return _normalized(xp, x, gamma, beta, eps, _by_group(x, x.shape[1]))


@instance_norm.backward_on("cupy")
def _(
    xp: Any, needed: Any, dy: Array, moments: Moments, x: Array, gamma: Any, beta: Any, *,
    eps: float,
) -> Any:  # fmt: skip
    return _gradients(xp, needed, dy, moments, x, gamma, _by_group(x, x.shape[1]))
