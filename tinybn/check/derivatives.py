"""Derivatives of a function, order by order: by autodiff, and by differences with their errors.

What is differentiated is a scalar: s₁(x) = Σ v · fn(x) for order 1, and sₖ₊₁(x) = Σ w · ∇sₖ(x) for
order k + 1. So the derivatives of every order are gradients, one per input. The weights come as one
list of arrays per order: [[v], [w for each input], …].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinybn.autodiff import grad
from tinybn.ops import multiply
from tinybn.ops import sum as total
from tinybn.tensor import Tensor

STEPS = 40
"""How often the step is halved at most: to reach into a small domain, it takes many."""

EPS = float(np.finfo(np.float64).eps)


def draw_weights(
    rng: np.random.Generator, output: Any, arrays: Sequence[np.ndarray], orders: int
) -> list[list[np.ndarray]]:
    """Random weights for derivatives up to `orders`; `output`: v itself, or the shape of v."""
    v = rng.standard_normal(output) if isinstance(output, tuple) else output
    return [[v], *([rng.standard_normal(x.shape) for x in arrays] for _ in range(orders - 1))]


def tensors(arrays: Sequence[np.ndarray], backends: Sequence[str]) -> list[Tensor]:
    """Leaves that want gradients, each on its backend."""
    return [Tensor(a, requires_grad=True, backend=b) for a, b in zip(arrays, backends, strict=True)]


def by_autodiff(
    fn: Callable[..., Tensor],
    arrays: Sequence[np.ndarray],
    backends: Sequence[str],
    weights: Sequence[Sequence[np.ndarray]],
    orders: int,
) -> list[list[np.ndarray]]:
    """[fn(x)] (order 0), then the gradients of s₁, s₂, … up to `orders`, as arrays on the host.

    NaN where fn is: a gradient may have a finite formula outside of the domain, such as 1/x of log.
    """
    xs = tensors(arrays, backends)
    values: list[Any] = [fn(*xs)]
    found = [[values[0].numpy()]]
    if orders and not np.isfinite(found[0][0]).all():
        return found + [[np.full(a.shape, np.nan) for a in arrays]] * orders
    for k in range(orders):
        scalar = None
        for value, weight in zip(values, weights[k], strict=True):
            if value is not None and value.requires_grad:
                weighted = multiply(value, Tensor(weight, dtype=value.dtype, backend=value.backend))
                scalar = total(weighted) if scalar is None else scalar + total(weighted)
        if scalar is None:  # what came before depends on nothing any more
            values = [None] * len(xs)
        else:
            values = list(grad(scalar, xs, create_graph=k + 1 < orders, allow_unused=True))
        found.append(
            [
                np.zeros(a.shape, a.dtype) if v is None else v.numpy()
                for v, a in zip(values, arrays, strict=True)
            ]
        )
    return found


class Estimate(NamedTuple):
    """A derivative by differences, a bound for its error, and the slopes to both sides."""

    value: float
    error: float
    left: float
    right: float
    kink: bool

    @property
    def range(self) -> tuple[float, float]:
        """What the derivative may be: at a kink, anything between the two slopes."""
        if self.kink:
            return min(self.left, self.right), max(self.left, self.right)
        return self.value, self.value


def by_differences(
    fn: Callable[..., Tensor],
    arrays: Sequence[np.ndarray],
    backends: Sequence[str],
    weights: Sequence[Sequence[np.ndarray]],
    i: int,
    order: int,
) -> dict[tuple[int, ...], Estimate]:
    """∂s/∂x of that order for every element of input i, from the derivatives one order below.

    Each is extrapolated to step 0 from central differences at steps h, h/2, h/4, … (Ridders 1982),
    whose errors are powers of h²; the entry of that table which differs least from its neighbours
    is taken, and this difference is the bound for its error, beside that for rounding:
    ε · Σ |w · values| / h, times 16 for what happens inside fn. Where fn is NaN or inf at x ± h,
    only smaller steps count.
    """

    def values(x: np.ndarray) -> list[np.ndarray]:
        moved = [x if j == i else a for j, a in enumerate(arrays)]
        with np.errstate(all="ignore"):
            return by_autodiff(fn, moved, backends, weights, order - 1)[-1]

    here = values(arrays[i])
    bulk = sum(float(np.abs(v * w).sum()) for v, w in zip(here, weights[order - 1], strict=True))
    spread = float(np.median(np.abs(arrays[i] - np.median(arrays[i]))))
    return {
        index: _difference(values, here, weights[order - 1], arrays[i], index, bulk, spread)
        for index in np.ndindex(arrays[i].shape)
    }


def _difference(
    values: Callable[[np.ndarray], list[np.ndarray]],
    here: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    x: np.ndarray,
    index: tuple[int, ...],
    bulk: float,
    spread: float,
) -> Estimate:
    """The derivative of Σ weights · values with respect to x[index], by Ridders' method."""

    def change(step: float) -> tuple[float, float]:
        """How much the sum grows from x to x + step, and the step as it was rounded."""
        moved = x.copy()
        moved[index] += step
        after = values(moved)
        terms = ((w * (b - a)).sum() for w, a, b in zip(weights, here, after, strict=True))
        return float(sum(terms)), float(moved[index] - x[index])

    best = Estimate(np.nan, np.inf, np.nan, np.nan, False)
    previous: list[float] = []
    sides: list[tuple[float, float, float]] = []
    h = 0.1 * (spread or abs(float(x[index])) or 1.0)  # a step that is large, but not absurd
    for _ in range(STEPS):
        (up, right), (down, left) = change(h), change(-h)
        h /= 2
        slopes = down / left, up / right
        if not np.isfinite(up - down):  # out of the domain: nearer, then
            previous.clear()
            continue
        row = [(up - down) / (right - left)]
        rounding = 16 * EPS * bulk / (right - left)
        for k, older in enumerate(previous, start=1):  # errors are powers of h²
            row.append(row[-1] + (row[-1] - older) / (4**k - 1))
            error = max(abs(row[-1] - row[-2]), abs(row[-1] - older)) + rounding
            if error < best.error:
                best = best._replace(value=row[-1], error=error)
        previous = row
        sides.append((right, *slopes))
        best = best._replace(left=slopes[0], right=slopes[1])
        if best.error < 2 * rounding and len(sides) > 3:
            break  # a smaller step could only make it worse
    return best._replace(kink=_is_kink(sides, bulk))


def _is_kink(sides: list[tuple[float, float, float]], bulk: float) -> bool:
    """Whether the slopes to the two sides stay apart as the step shrinks: if s is smooth, half the
    step halves their difference.
    """
    if len(sides) < 2:
        return False
    (_, left0, right0), (h, left, right) = sides[-2:]
    gap0, gap = abs(right0 - left0), abs(right - left)
    return gap > 0.75 * gap0 and gap > 64 * EPS * bulk / h
