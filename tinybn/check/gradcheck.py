"""Check gradients against finite differences, each with its own error bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from tinybn.check.derivatives import Estimate, Floats, by_autodiff, by_differences, draw_weights
from tinybn.tensor import Tensor


class GradientError(AssertionError):
    """A gradient is not the derivative of its function."""


def gradcheck(
    fn: Callable[..., Tensor],
    inputs: Sequence[Tensor | ArrayLike],
    *,
    order: int = 1,
    cotangent: Tensor | ArrayLike | None = None,
    rng: np.random.Generator | None = None,
) -> None:
    """Check every element of every gradient of `fn`, up to `order`, against finite differences.

    Order 1 checks the gradient of s₁(x) = Σ v · fn(x) with a random v. With v = 1, many mistakes
    would go unseen: for batch norm, Σ fn(x) does not depend on x at all. Order k + 1 checks the
    gradient of sₖ₊₁(x) = Σ w · ∇sₖ(x), with ∇sₖ by autodiff and another random w. If ∇sₖ is right
    at every order below, that gradient is a derivative of fn of order k + 1.

    An element is wrong if its error exceeds 8 times the error bound of the difference, plus 1e-10
    of the input's largest gradient. At a kink, where the slopes to the left and to the right stay
    apart as the step shrinks, everything between the two is right.

    Args:
        fn: a deterministic function that takes the inputs as Tensors and returns a Tensor.
        inputs: float64 Tensors or arrays, on any backend.
        order: the highest order of derivatives to check.
        cotangent: v, in the shape of fn's output; random by default.
        rng: draws v and w; `np.random.default_rng(0)` by default.

    Raises:
        GradientError: a gradient is wrong; the message shows its worst elements.
        TypeError, ValueError: fn or the inputs can't be checked.

    Source: Ridders, Advances in Engineering Software 4 (1982), for the differences.

    Example:
        >>> tb.check.gradcheck(tb.ops.tanh, [np.array([0.5, -1.0])], order=2)  # no error: right
    """
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"gradcheck: expected an order of 1, 2, …, got {order!r}")
    xs = _checked_inputs(inputs)
    y = _checked_output(fn, xs)
    weights = draw_weights(rng or np.random.default_rng(0), y.shape, xs, order)
    if cotangent is not None:
        v = Tensor(cotangent, dtype=np.float64, backend="numpy").numpy()
        if v.shape != y.shape:
            raise ValueError(
                f"gradcheck: expected a cotangent of shape {y.shape}, as fn's output, got {v.shape}"
            )
        weights[0] = [v]
    found = by_autodiff(fn, xs, weights, order)
    for k in range(1, order + 1):
        for i, g in enumerate(found[k]):
            if g.shape != xs[i].shape:
                raise GradientError(
                    f"gradcheck: the gradient of input {i} (order {k}) has shape {g.shape}, "
                    f"expected {xs[i].shape}"
                )
            _judge(g, by_differences(fn, xs, weights, i, k), f"input {i} is wrong at order {k}")


def _checked_inputs(inputs: Sequence[Tensor | ArrayLike]) -> list[Tensor]:
    """The inputs as leaves, each on its backend."""
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
    return [Tensor(x, requires_grad=True, backend=x.backend) for x in tensors]


def _checked_output(fn: Callable[..., Tensor], xs: Sequence[Tensor]) -> Tensor:
    """What fn returns: a Tensor with a gradient, the same both times."""
    y, again = fn(*xs), fn(*xs)
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


def _judge(found: Floats, estimate: Estimate, what: str) -> None:
    """Raise GradientError with the worst elements, one per line, unless `found` is right."""
    off, tolerance = estimate.compare(found, float(np.linalg.norm(found.ravel(), np.inf)))
    wrong = [index for index in np.ndindex(found.shape) if not off[index] <= tolerance[index]]
    if not wrong:
        return
    lines = [
        f"gradcheck: the gradient of {what}: {len(wrong)} of {found.size} elements; the worst:"
    ]
    for index in sorted(wrong, key=lambda index: -off[index])[:5]:
        low, high = estimate.low[index], estimate.high[index]
        expected = f"{low:.10g} to {high:.10g} (a kink)" if low < high else f"{low:.10g}"
        lines.append(
            f"  [{', '.join(map(str, index))}]: expected {expected}, got {found[index]:.10g}; "
            f"off by {off[index]:.2g}, tolerance {tolerance[index]:.2g}"
        )
    raise GradientError("\n".join(lines))
