"""Is a gradient right? Derivatives by differences, with an error bound for each of them."""

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


class GradientError(AssertionError):
    """A gradient is not the derivative of its function."""


def gradcheck(
    fn: Callable[..., Tensor],
    inputs: Sequence[Any],
    *,
    order: int = 1,
    cotangent: Any = None,
    rng: np.random.Generator | None = None,
) -> None:
    """Compare every element of every gradient of `fn`, up to `order`, with differences; or raise.

    The function that is differentiated is s₁(x) = Σ v · fn(x) with a random v, since a v of ones is
    blind to much: of batch norm, Σ fn(x) does not depend on x at all. Order k + 1 checks sₖ₊₁(x) =
    Σ w · ∇sₖ(x), with the gradient that autodiff gives and another random w: if ∇sₖ is right at
    every order below, that is a derivative of order k + 1 of fn.

    fn: takes the inputs as Tensors and returns a Tensor; deterministic. inputs: float64 Tensors or
    arrays, on any backend. cotangent: v, if not random. rng: where v and w are drawn from
    (default_rng(0) otherwise).

    Each derivative is extrapolated to step 0 from central differences at steps h, h/2, h/4, …
    (Ridders 1982), whose errors are powers of h²; the entry of that table which differs least from
    its neighbours is taken, and this difference is the bound for its error, beside that for
    rounding: ε · Σ |v · fn| / h, times 16 for what happens inside fn. A gradient is refused where
    it is further off than 8 times both, plus 1e-10 of the input's largest (for its own rounding).
    At a kink, where the slopes to the left and to the right don't approach each other as h shrinks,
    anything between the two is right. Where fn is NaN or inf at x ± h, only smaller steps count.

    Raises GradientError with the worst elements; TypeError or ValueError if fn or the inputs can't
    be checked.
    """
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"gradcheck: expected an order of 1, 2, …, got {order!r}")
    arrays, backends = _checked_inputs(inputs)
    rng = rng or np.random.default_rng(0)
    y = _output(fn, arrays, backends)
    if cotangent is None:
        cotangent = rng.standard_normal(y.shape)
    weights = [[np.asarray(cotangent.numpy() if isinstance(cotangent, Tensor) else cotangent)]]
    if weights[0][0].shape != y.shape:
        raise ValueError(
            f"gradcheck: expected a cotangent of shape {y.shape}, as fn's output, "
            f"got {weights[0][0].shape}"
        )
    for k in range(1, order + 1):
        found = _derivatives(fn, arrays, backends, weights, order=k)
        for i in range(len(arrays)):
            _compare(fn, arrays, backends, weights, found[i], i, k)
        weights.append([rng.standard_normal(x.shape) for x in arrays])


def _checked_inputs(inputs: Sequence[Any]) -> tuple[list[np.ndarray], list[str]]:
    """The inputs as arrays on the host, and where they were."""
    if isinstance(inputs, Tensor) or not isinstance(inputs, list | tuple) or not inputs:
        raise TypeError(
            "gradcheck: expected a list or tuple of at least one input, got "
            f"{type(inputs).__name__}{' of none' if isinstance(inputs, list | tuple) else ''}"
        )
    tensors = [x if isinstance(x, Tensor) else Tensor(x) for x in inputs]
    for i, x in enumerate(tensors):
        if x.dtype != np.float64:
            raise TypeError(
                f"gradcheck: input {i} is {x.dtype}, whose rounding would hide errors: "
                "expected float64, for example x.astype(np.float64)"
            )
        if x.size == 0:
            raise ValueError(f"gradcheck: input {i} of shape {x.shape} has no elements")
        if not np.isfinite(x.numpy()).all():
            raise ValueError(f"gradcheck: input {i} holds NaN or inf")
    return [x.numpy() for x in tensors], [x.backend for x in tensors]


def _tensors(arrays: list[np.ndarray], backends: list[str]) -> list[Tensor]:
    return [Tensor(a, requires_grad=True, backend=b) for a, b in zip(arrays, backends, strict=True)]


def _output(fn: Callable[..., Tensor], arrays: list[np.ndarray], backends: list[str]) -> Tensor:
    """What fn returns, after checking that it is a Tensor with a gradient, twice the same."""
    y, again = (fn(*_tensors(arrays, backends)) for _ in range(2))
    if not isinstance(y, Tensor):
        raise TypeError(f"gradcheck: expected fn to return a Tensor, got {type(y).__name__}")
    if not y.requires_grad:
        raise ValueError("gradcheck: the output of fn does not depend on the inputs")
    if y.dtype != np.float64:
        raise TypeError(f"gradcheck: expected fn to return float64, got {y.dtype}")
    if not np.array_equal(y.numpy(), again.numpy(), equal_nan=True):
        raise ValueError(
            "gradcheck: fn gave two outputs for the same inputs: draw its random numbers before, "
            "or from a generator that it seeds itself"
        )
    if not np.isfinite(y.numpy()).all():
        raise ValueError("gradcheck: the output of fn holds NaN or inf")
    return y


def _derivatives(
    fn: Callable[..., Tensor],
    arrays: list[np.ndarray],
    backends: list[str],
    weights: list[list[np.ndarray]],
    order: int,
) -> list[np.ndarray]:
    """By autodiff: fn itself for order 0, the gradients of s₁ for order 1, those of s₂, …

    NaN where fn is: a gradient may have a finite formula outside of the domain, such as 1/x of log.
    """
    xs = _tensors(arrays, backends)
    values: list[Any] = [fn(*xs)]
    if not np.isfinite(values[0].numpy()).all():
        return [np.array(np.nan)] * (len(xs) if order else 1)
    for k in range(order):
        scalar = None
        for value, weight in zip(values, weights[k], strict=True):
            if value is None or not value.requires_grad:
                continue
            term = total(multiply(value, Tensor(weight, backend=value.backend)))
            scalar = term if scalar is None else scalar + term
        if scalar is None:  # the order before depends on nothing any more
            values = [None] * len(xs)
            break
        values = list(grad(scalar, xs, create_graph=k + 1 < order, allow_unused=True))
    if order == 0:
        return [values[0].numpy()]
    return [
        np.zeros(a.shape) if v is None else v.numpy() for v, a in zip(values, arrays, strict=True)
    ]


class _Estimate(NamedTuple):
    """A derivative by differences, a bound for its error, and the slopes to both sides."""

    value: float
    error: float
    left: float
    right: float
    kink: bool


def _compare(
    fn: Callable[..., Tensor],
    arrays: list[np.ndarray],
    backends: list[str],
    weights: list[list[np.ndarray]],
    found: np.ndarray,
    i: int,
    order: int,
) -> None:
    """Raise GradientError unless `found` is the gradient of s (of that order) for input i."""
    if found.shape != arrays[i].shape:
        raise GradientError(
            f"gradcheck: the gradient of input {i} (order {order}) has shape {found.shape}, "
            f"expected {arrays[i].shape}"
        )

    def values(x: np.ndarray) -> list[np.ndarray]:
        moved = [x if j == i else a for j, a in enumerate(arrays)]
        with np.errstate(all="ignore"):
            return _derivatives(fn, moved, backends, weights, order - 1)

    here = values(arrays[i])
    bulk = sum(float(np.abs(v * w).sum()) for v, w in zip(here, weights[order - 1], strict=True))
    typical = float(np.median(np.abs(arrays[i])))
    own = 1e-10 * float(np.linalg.norm(found.ravel(), np.inf))
    wrong: list[tuple[float, Any, tuple[float, float], float, bool]] = []
    for index in np.ndindex(arrays[i].shape):
        e = _difference(values, here, weights[order - 1], arrays[i], index, bulk, typical)
        low, high = (min(e.left, e.right), max(e.left, e.right)) if e.kink else (e.value, e.value)
        got = float(found[index])
        off = max(low - got, got - high, 0.0)
        tolerance = 8 * e.error + own
        if not off <= tolerance:
            wrong.append((off, index, (low, high), tolerance, e.kink))
    if wrong:
        raise GradientError(_report(wrong, found, i, order))


def _difference(
    values: Callable[[np.ndarray], list[np.ndarray]],
    here: list[np.ndarray],
    weights: list[np.ndarray],
    x: np.ndarray,
    index: tuple[int, ...],
    bulk: float,
    typical: float,
) -> _Estimate:
    """The derivative of Σ weights · values with respect to x[index], by Ridders' method."""

    def change(step: float) -> tuple[float, float]:
        """How much the sum grows from x to x + step, and the step as it was rounded."""
        moved = x.copy()
        moved[index] += step
        after = values(moved)
        terms = ((w * (b - a)).sum() for w, a, b in zip(weights, here, after, strict=True))
        return float(sum(terms)), float(moved[index] - x[index])

    best = _Estimate(np.nan, np.inf, np.nan, np.nan, False)
    previous: list[float] = []
    sides: list[tuple[float, float, float]] = []
    h = 0.1 * (max(abs(float(x[index])), typical) or 1.0)
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


def _report(wrong: list[Any], found: np.ndarray, i: int, order: int) -> str:
    """The worst elements, one per line."""
    wrong.sort(key=lambda w: -w[0])
    lines = [
        f"gradcheck: the gradient of input {i} is wrong at order {order}: {len(wrong)} of "
        f"{found.size} elements; the worst:"
    ]
    for off, index, (low, high), tolerance, kink in wrong[:5]:
        expected = f"{low:.10g} to {high:.10g} (a kink)" if kink else f"{low:.10g}"
        lines.append(
            f"  [{', '.join(map(str, index))}]: expected {expected}, got {found[index]:.10g}; "
            f"off by {off:.2g}, tolerance {tolerance:.2g}"
        )
    return "\n".join(lines)
