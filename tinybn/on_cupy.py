"""CuPy kernels for the norms, cross-entropy and the optimizers, which save launches.

The formulas are those of ops/fused.py and optim.py. A batch norm takes five launches forward and
backward, the other norms up to nine, cross-entropy four, and the update of a parameter one. CuPy
compiles a kernel when it first runs, once per dtype. In the kernels, A is the dtype to compute in,
at least float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tinybn.backend import Array, when_cupy_is_used
from tinybn.op import module_of
from tinybn.ops import fused
from tinybn.ops.fused import Layout, Moments
from tinybn.optim import SGD, Adam
from tinybn.optimizer import Arrays, replacements

KERNELS: dict[str, Callable[[Any], Any]] = {}
"""Functions of the module `cupy` that make a kernel, by name."""

PAIR = """
struct Pair {
    A first, second;
    __device__ Pair(A first = 0, A second = 0) : first(first), second(second) {}
};
__device__ Pair operator+(const Pair& a, const Pair& b) {
    return Pair(a.first + b.first, a.second + b.second);
}
"""
"""Two sums in one reduction."""


def elementwise(name: str, inputs: str, outputs: str, code: str) -> Callable[[Any], Any]:
    """A kernel that runs `code` for each element."""
    how = inputs, outputs, code, name
    KERNELS[name] = functools.cache(lambda cupy: cupy.ElementwiseKernel(*how))
    return KERNELS[name]


def reduction(name: str, inputs: str, outputs: str, pair: str, code: str) -> Callable[[Any], Any]:
    """A kernel that adds up `pair`, and then runs `code` on the sums, a.first and a.second."""
    how = inputs, outputs, f"Pair({pair})", "a + b", code, "0", name, "Pair"
    KERNELS[name] = functools.cache(lambda cupy: cupy.ReductionKernel(*how, preamble=PAIR))
    return KERNELS[name]


mean_of = reduction("mean_of", "A x, int64 n", "A mean", "x", "mean = a.first / n")
moments_of = reduction(
    "moments_of",
    "A x, A mu, int64 n, float64 eps, bool centred",
    "A rest, A var, A r",
    "x - mu, (x - mu) * (x - mu)",
    "rest = centred ? a.first / n : 0, var = a.second / n - rest * rest, "
    "r = 1 / sqrt(var + (A)eps)",
)
normalized = elementwise(
    "normalized",
    "A x, A mu, A rest, A r, A gamma, A beta",
    "A y",
    "y = (x - mu - rest) * r * gamma + beta",
)
sums_of = reduction(  # Σ g and Σ g x̂
    "sums_of",
    "A dy, A gamma, A x, A mu, A rest, A r",
    "A sum, A dot",
    "dy * gamma, dy * gamma * ((x - mu - rest) * r)",
    "sum = a.first, dot = a.second",
)
slope_of = elementwise(  # dx; γ is either inside or outside the sums
    "slope_of",
    "A dy, A inside, A outside, A x, A mu, A rest, A r, A sum, A dot, int64 n",
    "A dx",
    "dx = outside * r * (dy * inside - (sum + (x - mu - rest) * r * dot) / n)",
)
losses_of = reduction(  # of each row: Σ exp(z - max z), and the loss
    "losses_of",
    "A z, A largest, L label, L column",
    "A total, A loss",
    "exp(z - largest), column == label ? z - largest : 0",
    "total = a.first, loss = log(a.first) - a.second",
)
slope_of_losses = elementwise(
    "slope_of_losses",
    "A z, A largest, A total, L label, L column, A g, int64 n",
    "A dz",
    "dz = (exp(z - largest) / total - (column == label)) * (g / n)",
)
sgd = elementwise(  # without momentum, v is ignored
    "sgd",
    "P p, G g, V v, float64 lr, float64 decay, float64 momentum, bool nesterov",
    "P q, P w",
    """typedef decltype(0.0f + P()) A;
    A d = g + (A)decay * p, a = momentum == 0 ? d : (A)momentum * v + d;
    q = p - (A)lr * (nesterov ? d + (A)momentum * a : a), w = a;""",
)
adam = elementwise(  # `decay` is Adam's, on the gradient; `apart` is AdamW's
    "adam",
    "P p, G g, M m, V v, float64 lr, float64 correction1, float64 correction2, "
    "float64 decay, float64 apart, float64 beta1, float64 beta2, float64 eps",
    "P q, P n, P w",
    """typedef decltype(0.0f + P()) A;
    A d = g + (A)decay * p;
    A a = (A)beta1 * m + (A)(1 - beta1) * d, b = (A)beta2 * v + (A)(1 - beta2) * (d * d);
    A direction = (a / (A)correction1) / (sqrt(b / (A)correction2) + (A)eps);
    q = p - (A)lr * (direction + (A)apart * p), n = a, w = b;""",
)


def _normalize(
    xp: Any, x: Array, gamma: Any, beta: Any, given: Any, layout: Layout, eps: float
) -> tuple[Array, Moments]:
    along: Any = {"axis": layout.axis, "keepdims": True}
    if layout.fixed:
        mu, var = given
        moments = Moments(mu, 0.0, var, 1 / xp.sqrt(var + eps))
    else:
        kept = [1 if i in layout.axis else n for i, n in enumerate(layout.shape)]
        rest, var, r = (xp.empty(kept, x.dtype) for _ in range(3))
        n = x.size // r.size
        mu = mean_of(xp)(x, n, **along) if layout.centred else 0.0
        moments_of(xp)(x, mu, n, eps, layout.centred, rest, var, r, **along)
        moments = Moments(mu, rest, var, r)
    gamma, beta = _or(1.0, gamma), _or(0.0, beta)
    return normalized(xp)(x, moments.mu, moments.rest, moments.r, gamma, beta), moments


def _gradients(
    xp: Any, needed: Any, dy: Array, x: Array, gamma: Any, moments: Moments, layout: Layout
) -> tuple[Any, Any, Any]:
    mu, rest, _, r = moments
    axis, shared, gamma = layout.axis, layout.shared, _or(1.0, gamma)

    def sums(gamma: Any, axis: tuple[int, ...]) -> list[Array]:  # no views: a leaf copies those
        shape = [n for i, n in enumerate(layout.shape) if i not in axis]
        found = [xp.empty(shape, r.dtype) for _ in range(2)]
        views = (xp.expand_dims(a, axis) for a in found)
        sums_of(xp)(dy, gamma, x, mu, rest, r, *views, axis=axis, keepdims=True)
        return found

    gamma_outside = needed[0] and axis == shared and not layout.fixed
    wanted = gamma_outside or needed[1] or needed[2]
    dx: Any = None
    dbeta, dgamma = sums(1.0, shared) if wanted else (dx, dx)
    if layout.fixed and needed[0]:
        dx = normalized(xp)(dy, 0.0, 0.0, r, gamma, 0.0)
    elif needed[0]:
        inside, outside = (1.0, gamma) if gamma_outside else (gamma, 1.0)
        found = (dbeta, dgamma) if gamma_outside else sums(gamma, axis)
        total, dot = (xp.expand_dims(a, axis) for a in found)
        total = total if layout.centred else 0.0
        dx = slope_of(xp)(dy, inside, outside, x, mu, rest, r, total, dot, x.size // r.size)
    return dx, dgamma, dbeta


def _or(number: float, param: Any) -> Any:
    return number if param is None else param


@functools.lru_cache(64)
def _columns(xp: Any, n: int) -> Array:
    return xp.arange(n)


def _softmax_loss(xp: Any, z: Array, labels: Any) -> tuple[Array, Any]:
    rows, classes = z.shape
    label = xp.asarray(labels, dtype=int)[:, None]  # the one copy to the GPU
    largest = z.max(axis=1, keepdims=True)
    total, losses = (xp.empty((rows, 1), z.dtype) for _ in range(2))
    where = label, _columns(xp, classes)
    losses_of(xp)(z, largest, *where, total, losses, axis=1, keepdims=True)
    return mean_of(xp)(losses, rows), (largest, total, *where)


def _softmax_loss_gradient(xp: Any, g: Array, z: Array, saved: Any) -> Array:
    return slope_of_losses(xp)(z, *saved, g, len(z))


def _sgd(self: SGD, p: Array, g: Array, v: Any = None, *, lr: Any) -> Arrays:
    momentum, old = (0.0, g) if v is None else (self.momentum, v)
    q, w = sgd(module_of(p))(p, g, old, lr, self.weight_decay, momentum, self.nesterov)
    return (q,) if v is None else (q, w)


def _adam(self: Adam, p: Array, g: Array, m: Array, v: Array, **numbers: Any) -> Arrays:
    decays = (0.0, self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)
    return adam(module_of(p))(p, g, m, v, *numbers.values(), *decays, *self.betas, self.eps)


@when_cupy_is_used
def _(cupy: Any) -> None:
    replacements[SGD.update] = {cupy: _sgd}
    replacements[Adam.update] = {cupy: _adam}
    fused.normalize.on(cupy, _normalize)
    fused.gradients.on(cupy, _gradients)
    fused.softmax_loss.on(cupy, _softmax_loss)
    fused.softmax_loss_gradient.on(cupy, _softmax_loss_gradient)
