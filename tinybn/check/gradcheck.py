"""Is a gradient right? Derivatives by differences, with an error bound for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinybn.check.derivatives import (
    Estimate,
    by_autodiff,
    by_differences,
    draw_weights,
    tensors,
)
from tinybn.tensor import Tensor


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

    A derivative by differences has a bound for its error (see derivatives.by_differences). A
    gradient is refused where it is further off than 8 times that, plus 1e-10 of the input's largest
    (for its own rounding). At a kink, where the slopes to the left and to the right don't approach
    each other as the step shrinks, anything between the two is right.

    Raises GradientError with the worst elements; TypeError or ValueError if fn or the inputs can't
    be checked.
    """
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"gradcheck: expected an order of 1, 2, …, got {order!r}")
    arrays, backends = _checked_inputs(inputs)
    rng = rng or np.random.default_rng(0)
    y = _output(fn, arrays, backends)
    v: Any = y.shape
    if cotangent is not None:
        v = Tensor(cotangent, dtype=np.float64, backend="numpy").numpy()
        if v.shape != y.shape:
            raise ValueError(
                f"gradcheck: expected a cotangent of shape {y.shape}, as fn's output, got {v.shape}"
            )
    weights = draw_weights(rng, v, arrays, order)
    found = by_autodiff(fn, arrays, backends, weights, order)
    for k in range(1, order + 1):
        for i, g in enumerate(found[k]):
            if g.shape != arrays[i].shape:
                raise GradientError(
                    f"gradcheck: the gradient of input {i} (order {k}) has shape {g.shape}, "
                    f"expected {arrays[i].shape}"
                )
            _judge(g, by_differences(fn, arrays, backends, weights, i, k), i, k)


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


def _output(fn: Callable[..., Tensor], arrays: list[np.ndarray], backends: list[str]) -> Tensor:
    """What fn returns, after checking that it is a Tensor with a gradient, twice the same."""
    y, again = (fn(*tensors(arrays, backends)) for _ in range(2))
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


def _judge(
    found: np.ndarray, estimates: dict[tuple[int, ...], Estimate], i: int, order: int
) -> None:
    """Raise GradientError unless `found` is the gradient of input i, of that order."""
    own = 1e-10 * float(np.linalg.norm(found.ravel(), np.inf))
    wrong: list[tuple[float, Any, Estimate, float]] = []
    for index, estimate in estimates.items():
        got, (low, high) = float(found[index]), estimate.range
        off = max(low - got, got - high, 0.0)
        tolerance = 8 * estimate.error + own
        if not off <= tolerance:
            wrong.append((off, index, estimate, tolerance))
    if wrong:
        raise GradientError(_report(wrong, found, i, order))


def _report(wrong: list[Any], found: np.ndarray, i: int, order: int) -> str:
    """The worst elements, one per line."""
    wrong.sort(key=lambda w: -w[0])
    lines = [
        f"gradcheck: the gradient of input {i} is wrong at order {order}: {len(wrong)} of "
        f"{found.size} elements; the worst:"
    ]
    for off, index, estimate, tolerance in wrong[:5]:
        low, high = estimate.range
        expected = f"{low:.10g} to {high:.10g} (a kink)" if estimate.kink else f"{low:.10g}"
        lines.append(
            f"  [{', '.join(map(str, index))}]: expected {expected}, got {found[index]:.10g}; "
            f"off by {off:.2g}, tolerance {tolerance:.2g}"
        )
    return "\n".join(lines)
