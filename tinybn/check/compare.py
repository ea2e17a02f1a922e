"""Fused ops, their compositions, finite differences and rivals against a more precise reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from tinybn.check.derivatives import Floats, by_autodiff, by_differences, draw_weights, leaves
from tinybn.check.table import Row, Table
from tinybn.fusion import FUSED, Fused, FusedOp
from tinybn.modes import use_fused, watch
from tinybn.tensor import Tensor
from tinybn.walk import Contribution

EXACT = np.dtype(np.longdouble)
"""The dtype of the reference. Its mantissa has 64 bits on x86, 53 on Windows and Apple silicon."""

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)

Rival: TypeAlias = Callable[[list[Floats], list[list[Floats]], int], Sequence[Sequence[Floats]]]
"""Another implementation: takes the inputs, the weights (see derivatives.py) and the highest order,
and returns [[output], [gradient of each input], …].
"""


class Exact(NamedTuple):
    """A result of the reference: order, input whose gradient it is, value and scale."""

    order: int
    input: str
    value: Floats
    scale: float


def compare(
    op: Fused[...] | str,
    inputs: Sequence[Tensor | ArrayLike],
    static: Mapping[str, Any] | None = None,
    *,
    orders: int = 3,
    dtypes: Sequence[DTypeLike] = ("float32", "float64"),
    backends: Sequence[str] = ("numpy",),
    differences: bool = True,
    rivals: Mapping[str, Rival] | None = None,
    rng: np.random.Generator | None = None,
) -> Table:
    """Measure a fused op's closed form and its composition against a more precise reference.

    The reference is the composition in `EXACT`. Finite differences, which rely on no gradient rule,
    check its rules. Shapes and dtypes are compared before numbers. These errors are allowed:

        float64                1e-12 of the scale, at every order
        float32, orders 0, 1   16 ULP for the closed form, 128 for the composition
        float32, order 2 up    128 ULP, plus 64 times the ULP that the composition loses in
                               float64: cancellation costs the same number of ULP in any dtype
        differences            8 times their own error bound, plus 1e-10 of the scale

    Where `EXACT` is no more precise than float64, the reference is in float64, and the loss is
    measured in float32.

    Args:
        op: a fused op, or its name.
        inputs: the op's inputs, rounded to float32 first, so that all dtypes get the same numbers.
        static: the op's keywords.
        orders: the highest order of derivatives.
        dtypes: the dtypes to run the op in.
        backends: where to run it.
        differences: whether to check finite differences, too (slow above a hundred elements).
        rivals: other implementations by name; they get no verdict.
        rng: draws the weights of the derivatives; `np.random.default_rng(0)` by default.

    Returns:
        One row per dtype, backend, method, order and input. It prints as a table, and its `check()`
        raises an error if a result is off.

    Raises:
        TypeError: the op is not fused.
        ValueError: an input is not an array of finite floating-point numbers.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((2, 3))
        >>> table = tb.check.compare("rms_norm", [x], orders=1)
        >>> {row.verdict for row in table}
        {'ok'}
    """
    fused = fused_op("compare", op)
    arrays = [_rounded(x) for x in inputs]
    names = fused.names[: len(arrays)]
    keywords = (static or {}).items()

    def fn(*xs: Tensor) -> Tensor:  # labels stay on the host
        here = xs[0].backend
        given = {k: Tensor(v, backend=here) if is_float(v) else v for k, v in keywords}
        return fused.call(**dict(zip(names, xs, strict=True)), **given)

    def run(dtype: np.dtype, backend: str, closed: bool) -> list[list[Floats]]:
        xs = leaves([a.astype(dtype) for a in arrays], backend)
        with use_fused(closed):  # order by order: only the last pass runs a closed form
            return [by_autodiff(fn, xs, weights, order)[-1] for order in range(orders + 1)]

    def rows(
        backend: str, dtype: np.dtype, method: str, found: Sequence[Sequence[Floats]], limits: Any
    ) -> list[Row]:
        results = zip(chain.from_iterable(found), reference, strict=True)
        head = fused.name, backend, str(dtype), method
        return [_row(head, got, exact, dtype, limits[exact.order]) for got, exact in results]

    with use_fused(False):
        shape = fn(*leaves(arrays)).shape
    weights = draw_weights(rng or np.random.default_rng(0), shape, arrays, orders)
    weights = [[w.astype(F32) for w in ws] for ws in weights]
    reference = _reference(fn, names, leaves([a.astype(EXACT) for a in arrays]), weights, orders)

    unlimited = [np.inf] * (orders + 1)
    below = F64 if np.finfo(EXACT).eps < np.finfo(F64).eps else F32
    measured = rows("numpy", below, "composition", run(below, "numpy", False), unlimited)
    lost = [max(r.max_ulp for r in measured if r.order == k) for k in range(orders + 1)]
    table = Table()
    for dtype in [np.dtype(name) for name in dtypes]:
        for backend in backends:
            for method, closed in (("composition", False), ("fused", True)):
                limits = [_limit(dtype, closed, k, lost[k]) for k in range(orders + 1)]
                table += rows(backend, dtype, method, run(dtype, backend, closed), limits)
        for method, rival in (rivals or {}).items():
            found = rival([a.astype(dtype) for a in arrays], weights, orders)
            table += [r._replace(verdict="") for r in rows("", dtype, method, found, unlimited)]
    xs = leaves([a.astype(F64) for a in arrays])
    for exact in reference[1:] if differences else ():
        with use_fused(False):
            estimate = by_differences(fn, xs, weights, names.index(exact.input), exact.order)
        head = fused.name, "numpy", "float64", "differences"
        row = _row(head, estimate.value, exact, F64, np.inf)
        off, tolerance = estimate.compare(exact.value, exact.scale)
        table.append(row._replace(verdict="ok" if (off <= tolerance).all() else "MISS"))
    return table


def fused_op(asked: str, op: Fused[...] | str) -> FusedOp:
    """A fused op, given itself or by name; the TypeError names the function that `asked`."""
    found = FUSED.get(op) if isinstance(op, str) else getattr(op, "op", None)
    if not isinstance(found, FusedOp):
        what = repr(op) if isinstance(op, str) else getattr(op, "__name__", type(op).__name__)
        raise TypeError(
            f"{asked}: {what} has no composition to be compared with: expected one of "
            f"{', '.join(FUSED)}, or an op made with @fused"
        )
    return found


def is_float(value: Any) -> bool:
    """Whether it is a Tensor or an array of floating-point numbers."""
    return hasattr(value, "dtype") and value.dtype.kind == "f"


def _rounded(x: Tensor | ArrayLike) -> Floats:
    array = Tensor(x, dtype=getattr(x, "dtype", F64), backend="numpy").numpy()
    if array.dtype.kind != "f" or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            "compare: expected inputs of finite floating-point numbers, got "
            f"{array.dtype} {array.shape}{' with NaN or inf' if array.dtype.kind == 'f' else ''}"
        )
    return array.astype(F32)


def _limit(dtype: np.dtype, closed: bool, order: int, lost: float) -> float:
    if dtype == F64:
        return 1e-12 / float(np.finfo(F64).eps)
    if order < 2:
        return 16.0 if closed else 128.0
    return 128.0 + 64 * lost


def _row(
    head: tuple[str, str, str, str], found: Floats, exact: Exact, dtype: np.dtype, limit: float
) -> Row:
    order, name, value, scale = exact
    if found.shape != value.shape or found.dtype != dtype:
        got = f"got {found.dtype} {found.shape}, expected {dtype} {value.shape}"
        return Row(*head, order, name, np.nan, np.nan, np.nan, np.nan, limit, got)
    error = np.abs(found - value)
    worst, median = float(error.max()), float(np.median(error))
    rel, unit = worst / (_largest(value) or 1.0), float(np.finfo(dtype).eps) * (scale or 1.0)
    verdict = "ok" if worst <= limit * unit else "MISS"
    return Row(*head, order, name, worst, rel, worst / unit, median / unit, limit, verdict)


SHIFTS = {"add", "subtract", "negative", "reshape", "expand_dims", "squeeze", "transpose"}
"""Ops that change only the shape or the sign of a gradient."""


def _reference(
    fn: Callable[..., Tensor],
    names: Sequence[str],
    xs: Sequence[Tensor],
    weights: list[list[Floats]],
    orders: int,
) -> list[Exact]:
    """The results of the composition, in the dtype of xs.

    The scale of a gradient is its largest element or, if that is larger, the largest term that adds
    up to it: a contribution to x, or to a shifted x such as d = x - μ. (In batch norm, dx is what
    remains of a much larger gradient without its mean and its part along x̂; in a batch of two,
    nothing remains.) From order 2 on, the scale is at least that of the order below divided by the
    largest element of x, because a gradient may be zero in exact arithmetic.
    """
    with use_fused(False):
        y = fn(*xs).numpy()
    found = [Exact(0, "output", y, _largest(y))]
    below = [0.0] * len(xs)
    for order in range(1, orders + 1):
        terms: dict[Any, float] = {}

        def see(c: Contribution, terms: dict[Any, float] = terms) -> None:
            if not isinstance(c.value, Tensor):  # a Tensor is of a lower order
                passed = terms.get(c.node, 0.0) if c.node.op.name in SHIFTS else 0.0
                terms[c.source] = max(terms.get(c.source, 0.0), _largest(c.value), passed)

        with use_fused(False), watch(see):
            values = by_autodiff(fn, xs, weights, order)[-1]
        floors = [b / (_largest(x.numpy()) or 1.0) for b, x in zip(below, xs, strict=True)]
        found += (
            Exact(order, name, value, max(_largest(value), terms.get(x, 0.0), floor))
            for name, value, x, floor in zip(names, values, xs, floors, strict=True)
        )
        below = [exact.scale for exact in found[-len(xs) :]]
    return found


def _largest(array: Any) -> float:
    return float(np.abs(array).max())
