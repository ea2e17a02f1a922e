"""Derivatives of a function, order by order: by autodiff, and by finite differences.

Each order differentiates a scalar: s₁(x) = Σ v · fn(x) for order 1, and sₖ₊₁(x) = Σ w · ∇sₖ(x) for
order k + 1. The derivatives of every order are therefore gradients, one per input. The weights are
lists of arrays, one list per order: [[v], [w for each input], …].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinybn.autodiff import grad
from tinybn.modes import use_fused, watch
from tinybn.tensor import Tensor

Floats: TypeAlias = NDArray[np.floating[Any]]
Weights: TypeAlias = Sequence[Sequence[Floats]]

STEPS = 40
"""The maximum number of halvings of the step; a small domain needs many."""

EPS = float(np.finfo(np.float64).eps)


def draw_weights(
    rng: np.random.Generator, shape: tuple[int, ...], xs: Sequence[Tensor | Floats], orders: int
) -> list[list[Floats]]:
    """Random weights for derivatives up to `orders` of a function whose output has this shape."""
    shapes = [[shape], *[[x.shape for x in xs]] * (orders - 1)]
    return [[rng.standard_normal(shape) for shape in level] for level in shapes]


def leaves(arrays: Sequence[Floats], backend: str = "numpy") -> list[Tensor]:
    """Tensors that require gradients."""
    return [Tensor(a, requires_grad=True, backend=backend) for a in arrays]


def derivatives(
    fn: Callable[..., Tensor], xs: Sequence[Tensor], weights: Sequence[Sequence[Any]], orders: int
) -> Iterator[list[Tensor]]:
    """[fn(x)], then the gradients of s₁, s₂, … up to `orders`: one for each of the leaves xs."""
    values = [fn(*xs)]
    yield values
    for k in range(orders):
        scalars = _weighted(values, weights[k])
        found: Sequence[Tensor | None] = [None] * len(xs)  # if the order below depends on nothing
        if scalars:
            found = grad(scalars, xs, create_graph=k + 1 < orders, allow_unused=True)
        values = [x.detach() * 0 if g is None else g for x, g in zip(xs, found, strict=True)]
        yield values


def _weighted(values: Sequence[Tensor], weights: Sequence[Any]) -> list[Tensor]:
    """Σ w · value for each value that depends on something."""
    return [
        (v * Tensor(w, dtype=v.dtype, backend=v.backend)).sum()
        for v, w in zip(values, weights, strict=True)
        if v.requires_grad
    ]


def by_autodiff(
    fn: Callable[..., Tensor], xs: Sequence[Tensor], weights: Weights, orders: int
) -> list[list[Floats]]:
    """The derivatives of all orders, as arrays on the host.

    The gradients are NaN if fn is not finite, because outside its domain a rule may still give a
    number, as 1/x does for log.
    """
    found: list[list[Floats]] = []
    for values in derivatives(fn, xs, weights, orders):
        found.append([v.numpy() for v in values])
        if not np.isfinite(found[0][0]).all():
            return found + [[np.full(x.shape, np.nan) for x in xs]] * orders
    return found


class Estimate(NamedTuple):
    """A gradient by finite differences.

    Attributes:
        value: the gradient.
        error: a bound on the error of each element.
        low, high: the range of right gradients: at a kink, everything between the slopes to the
            left and to the right; elsewhere, `value` itself.
    """

    value: Floats
    error: Floats
    low: Floats
    high: Floats

    def compare(self, found: Floats, scale: float) -> tuple[Floats, Floats]:
        """How far `found` lies outside the range, and how far it may.

        It may lie outside by 8 times the bound, plus 1e-10 of the scale for its own rounding.
        """
        off = np.maximum(np.maximum(self.low - found, found - self.high), 0)
        return off, 8 * self.error + 1e-10 * scale


def by_differences(
    fn: Callable[..., Tensor], xs: Sequence[Tensor], weights: Weights, i: int, order: int
) -> Estimate:
    """The gradient of that order for input i, from derivatives of the order below.

    Ridders' method extrapolates central differences at steps h, h/2, h/4, … to step 0, knowing that
    their errors are series in h². It takes the entry of the table that differs least from its
    neighbours. This difference, plus a term for rounding, bounds the error. Rounding costs
    16 ε / h times Σ |w · values|, or a quarter of what `_rounded` finds inside fn, if that is more.
    If fn is NaN or inf at x ± h, only smaller steps count.

    Source: Ridders, Advances in Engineering Software 4 (1982).
    """

    x, w = xs[i].numpy(), weights[order - 1]

    def values(moved: Floats) -> list[Floats]:
        inputs = [*xs[:i], *leaves([moved], xs[i].backend), *xs[i + 1 :]]
        with np.errstate(all="ignore"):
            return by_autodiff(fn, inputs, weights, order - 1)[-1]

    here = values(x)
    bulk = sum(float(np.abs(v * w).sum()) for v, w in zip(here, w, strict=True))
    bulk = max(bulk, _rounded(fn, xs, weights, order) / 4)
    spread = float(np.median(np.abs(x - np.median(x))))

    def extrapolated(index: tuple[int, ...]) -> tuple[float, float, float, float]:
        def change(step: float) -> tuple[float, float]:
            """How much Σ w · values grows from x to x + step, and the step after rounding."""
            moved = x.copy()
            moved[index] += step
            terms = zip(w, here, values(moved), strict=True)
            return float(sum((w * (b - a)).sum() for w, a, b in terms)), moved[index] - x[index]

        step = 0.1 * (spread or abs(float(x[index])) or 1.0)  # large, but not absurd
        return _ridders(change, step, bulk)

    elements = [extrapolated(index) for index in np.ndindex(x.shape)]
    return Estimate(*np.array(elements).T.reshape(4, *x.shape))


def _rounded(
    fn: Callable[..., Tensor], xs: Sequence[Tensor], weights: Weights, order: int
) -> float:
    """Σ |v · ∂s/∂v| over all v computed on the way to s = Σ w · (the derivatives below `order`).

    Rounding each v by ε changes s by up to ε times that. Compositions show every v.
    """
    made: dict[Any, Any] = {}
    terms: dict[Any, float] = {}

    def add(c: Any) -> None:
        if c.node in made:
            term = abs(c.upstream * made.pop(c.node))
            terms[c.node] = float(term[term * 0 == 0].sum())  # without NaN and inf

    with np.errstate(all="ignore"), use_fused(False):
        with watch(None, outputs=made.__setitem__):
            values = list(islice(derivatives(fn, xs, weights, order), order))[-1]
        scalars = _weighted(values, weights[order - 1])
        with watch(add):
            if scalars:
                grad(scalars, xs, allow_unused=True)
    return sum(terms.values())


def _ridders(
    change: Callable[[float], tuple[float, float]], h: float, bulk: float
) -> tuple[float, float, float, float]:
    """An element of an Estimate, from central differences at steps h, h/2, h/4, …"""
    value, error = np.nan, np.inf
    previous: list[float] = []
    sides: list[tuple[float, float, float]] = []
    for _ in range(STEPS):
        (up, right), (down, left) = change(h), change(-h)
        h /= 2
        if not np.isfinite(up - down):  # outside of the domain
            previous.clear()
            continue
        row = [(up - down) / (right - left)]
        rounding = 16 * EPS * bulk / (right - left)
        for k, older in enumerate(previous, start=1):  # errors are powers of h²
            row.append(row[-1] + (row[-1] - older) / (4**k - 1))
            bound = max(abs(row[-1] - row[-2]), abs(row[-1] - older)) + rounding
            if bound < error:
                value, error = row[-1], bound
        previous = row
        slopes = down / left, up / right
        sides.append((right, min(slopes), max(slopes)))
        if error < 2 * rounding and len(sides) > 3:
            break  # smaller steps could only make it worse
    if len(sides) > 1:
        (_, low0, high0), (h, low, high) = sides[-2:]
        # Half the step halves the gap between the slopes of a smooth function.
        if high - low > max(0.75 * (high0 - low0), 64 * EPS * bulk / h):
            return value, error, low, high
    return value, error, value, value
