"""Fused ops beside their compositions, differences and others, against a more precise reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from tinybn.check.derivatives import by_autodiff, by_differences, draw_weights
from tinybn.fusion import FUSED, Fused, FusedOp
from tinybn.modes import use_fused, watch
from tinybn.tensor import Tensor
from tinybn.walk import Contribution

EXACT = np.dtype(np.longdouble)
"""The dtype of the reference: 64 bits of mantissa on x86, 113 on some machines, 53 on others."""

F64 = np.dtype(np.float64)

Results: TypeAlias = list[list[np.ndarray]]
"""Order by order: [[output], [gradient of each input], …], as derivatives.by_autodiff returns."""

Rival: TypeAlias = Callable[[list[np.ndarray], list[list[np.ndarray]], int], Results]
"""Another implementation: takes inputs, weights (see derivatives.py) and the highest order."""


class Row(NamedTuple):
    """How far one result of one method is from the reference.

    method: "fused", "composition", "differences" or a rival's name. order: 0 is the output itself.
    input: whose gradient it is. max_rel: as a fraction of the largest element. max_ulp, median_ulp:
    over the elements, in units of ε times the scale of the result (see `_reference`). limit: the
    largest max_ulp that is right. verdict: "ok", what is wrong, or "" of a method that is shown for
    comparison alone.
    """

    op: str
    backend: str
    dtype: str
    method: str
    order: int
    input: str
    max_abs: float
    max_rel: float
    max_ulp: float
    median_ulp: float
    limit: float
    verdict: str


def compare(
    op: Fused | str,
    inputs: Sequence[Any],
    static: Mapping[str, Any] | None = None,
    *,
    orders: int = 3,
    dtypes: Sequence[DTypeLike] = ("float32", "float64"),
    backends: Sequence[str] = ("numpy",),
    differences: bool = True,
    rivals: Mapping[str, Rival] | None = None,
    rng: np.random.Generator | None = None,
) -> list[Row]:
    """Measure a fused op's closed form and its composition against a more precise reference.

    op: a fused op, or its name. inputs: arrays or Tensors; they are rounded to float32 first, so
    that all dtypes are given the same numbers. static: the op's keywords. orders: up to which
    derivatives. differences: whether to look at those as well, in float64 (slow for more than a
    hundred elements). rivals: other implementations by name, which get no verdict. rng: where the
    weights of the derivatives are drawn from (default_rng(0) otherwise).

    The reference is the composition in `EXACT`; its rules are judged by differences, which know
    nothing of them. Shapes and dtypes are compared before numbers. What is right:

        float64                1e-12 of the scale, at every order
        float32, orders 0, 1   16 ULP for the closed form, 128 for the composition
        float32, above         128 ULP, and 64 times those that the composition loses in float64:
                               cancellation costs every dtype the same number of its ULP
        differences            8 times their own error bound, plus 1e-10 of the scale
    """
    fused = fused_op("compare", op)
    arrays = [_rounded(x) for x in inputs]
    names = fused.names[: len(arrays)]
    keywords = {name: _moved(static or {}, name) for name in ("numpy", *backends)}

    def fn(*xs: Tensor) -> Tensor:
        return fused.call(**dict(zip(names, xs, strict=True)), **keywords[xs[0].backend])

    rng = rng or np.random.default_rng(0)
    with use_fused(False):
        shape = fn(*(Tensor(a, backend="numpy") for a in arrays)).shape
    weights = draw_weights(rng, shape, arrays, max(orders, 1))
    weights = [[w.astype(np.float32) for w in ws] for ws in weights]
    exact, scales = _reference(fn, arrays, weights, orders)
    head = [["output"], *[names] * orders]

    @functools.cache
    def run(dtype: np.dtype, backend: str, closed: bool) -> Results:
        cast = [a.astype(dtype) for a in arrays]
        with use_fused(closed):  # order by order: only the last pass runs a closed form
            return [
                by_autodiff(fn, cast, [backend] * len(cast), weights, order)[-1]
                for order in range(orders + 1)
            ]

    def rows(
        backend: str, dtype: np.dtype, method: str, found: Results, limits: list[float]
    ) -> list[Row]:
        return [
            _row(
                (fused.name, backend, str(dtype), method, k, name),
                got,
                want,
                scale,
                dtype,
                limits[k],
            )
            for k in range(orders + 1)
            for name, got, want, scale in zip(head[k], found[k], exact[k], scales[k], strict=True)
        ]

    table: list[Row] = []
    lost = [0.0] * (orders + 1)
    for row in rows("numpy", F64, "composition", run(F64, "numpy", False), lost):
        lost[row.order] = max(lost[row.order], row.max_ulp)
    for dtype in (np.dtype(name) for name in dtypes):
        for backend in backends:
            for method, closed in (("composition", False), ("fused", True)):
                limits = [_limit(dtype, closed, order, lost[order]) for order in range(orders + 1)]
                table += rows(backend, dtype, method, run(dtype, backend, closed), limits)
        for method, rival in (rivals or {}).items():
            found = rival([a.astype(dtype) for a in arrays], weights, orders)
            unlimited = [np.inf] * (orders + 1)
            table += [r._replace(verdict="") for r in rows("", dtype, method, found, unlimited)]
    if differences:
        table += _differences(fused.name, fn, arrays, names, weights, exact, scales)
    return table


def fused_op(asked: str, op: Fused | str) -> FusedOp:
    """A fused op, given as it is or by name; TypeError names what `asked` for it."""
    found = FUSED.get(op) if isinstance(op, str) else getattr(op, "op", None)
    if not isinstance(found, FusedOp):
        what = repr(op) if isinstance(op, str) else getattr(op, "__name__", type(op).__name__)
        raise TypeError(
            f"{asked}: {what} has no composition to be compared with: expected one of "
            f"{', '.join(FUSED)}, or an op made with @fused"
        )
    return found


def _rounded(x: Any) -> np.ndarray:
    array = Tensor(x, dtype=getattr(x, "dtype", np.float64), backend="numpy").numpy()
    if array.dtype.kind != "f" or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            "compare: expected inputs of finite floating-point numbers, got "
            f"{array.dtype} {array.shape}{' with NaN or inf' if array.dtype.kind == 'f' else ''}"
        )
    return array.astype(np.float32)


def _moved(static: Mapping[str, Any], backend: str) -> dict[str, Any]:
    """The keywords, with arrays of floating-point numbers on a backend. Labels stay on the host."""
    return {
        name: Tensor(value, backend=backend) if _is_float(value) else value
        for name, value in static.items()
    }


def _is_float(value: Any) -> bool:
    return hasattr(value, "dtype") and value.dtype.kind == "f"


def _limit(dtype: np.dtype, closed: bool, order: int, lost: float) -> float:
    if dtype == F64:
        return 1e-12 / float(np.finfo(F64).eps)
    if order < 2:
        return 16.0 if closed else 128.0
    return 128.0 + 64 * lost


def _row(
    names: tuple[str, str, str, str, int, str],
    found: np.ndarray,
    exact: np.ndarray,
    scale: float,
    dtype: np.dtype,
    limit: float,
) -> Row:
    if found.shape != exact.shape or found.dtype != dtype:
        got = f"got {found.dtype} {found.shape}, expected {dtype} {exact.shape}"
        return Row(*names, np.nan, np.nan, np.nan, np.nan, limit, got)
    error = np.abs(found - exact)
    worst, largest = float(error.max()), float(np.abs(exact).max())
    unit = float(np.finfo(dtype).eps) * (scale or 1.0)
    return Row(
        *names,
        worst,
        worst / (largest or 1.0),
        worst / unit,
        float(np.median(error)) / unit,
        limit,
        "ok" if worst <= limit * unit else "MISS",
    )


def _differences(
    op: str,
    fn: Callable[..., Tensor],
    arrays: Sequence[np.ndarray],
    names: Sequence[str],
    weights: list[list[np.ndarray]],
    exact: Results,
    scales: list[list[float]],
) -> list[Row]:
    """Derivatives by differences beside the reference: the rows that trust no rule."""
    wide, table = [a.astype(F64) for a in arrays], []
    for order in range(1, len(exact)):
        for i, name in enumerate(names):
            with use_fused(False):
                estimates = by_differences(fn, wide, ["numpy"] * len(wide), weights, i, order)
            shape, e, scale = wide[i].shape, exact[order][i], scales[order][i]
            value = np.array([estimate.value for estimate in estimates.values()]).reshape(shape)
            bound = np.array([estimate.error for estimate in estimates.values()]).reshape(shape)
            head = (op, "numpy", str(F64), "differences", order, name)
            near = np.abs(value - e) <= 8 * bound + 1e-10 * scale
            row = _row(head, value, e, scale, F64, np.inf)
            table.append(row._replace(verdict="ok" if near.all() else "MISS"))
    return table


def _reference(
    fn: Callable[..., Tensor],
    arrays: Sequence[np.ndarray],
    weights: list[list[np.ndarray]],
    orders: int,
) -> tuple[Results, list[list[float]]]:
    """The results in `EXACT`, order by order, and the scale of each.

    The scale of a gradient is its largest element, or the largest of the terms that add up to it.
    dx of batch norm is what is left when the mean and the part along x̂ are taken from a much larger
    gradient: all of it, in a batch of two. That one arrives at d = x - μ, which is x but for a
    shift. So terms are the contributions to x, and to what x enters by adding and subtracting.
    Above the first order, the scale is at least that of the order below by the largest element of
    x: a gradient that is zero in exact arithmetic has no other.
    """
    wide = [a.astype(EXACT) for a in arrays]
    exact: Results = []
    scales: list[list[float]] = []
    for order in range(orders + 1):
        terms = _Terms(fn)
        with use_fused(False), watch(terms.see):
            exact.append(by_autodiff(terms.fn, wide, ["numpy"] * len(wide), weights, order)[-1])
        floors = terms.largest() if order else [0.0]
        if order > 1:
            floors = [
                max(floor, below / (float(np.abs(a).max()) or 1.0))
                for floor, below, a in zip(floors, scales[-1], wide, strict=True)
            ]
        scales.append(
            [max(float(np.abs(e).max()), f) for e, f in zip(exact[-1], floors, strict=True)]
        )
    return exact, scales


SHIFTS = {"add", "subtract", "negative", "reshape", "expand_dims", "squeeze", "transpose"}
"""Ops through which a gradient goes unchanged, but for shape and sign."""


class _Terms:
    """Watches a backward pass for the terms that add up to the gradients of fn's inputs."""

    def __init__(self, fn: Callable[..., Tensor]) -> None:
        self.original = fn
        self.leaves: tuple[Tensor, ...] = ()
        self.sizes: dict[Any, float] = {}
        self.parents: dict[Any, list[Any]] = {}

    def fn(self, *xs: Tensor) -> Tensor:
        self.leaves = xs
        return self.original(*xs)

    def see(self, c: Contribution) -> None:
        if isinstance(c.value, Tensor):  # those are recorded, and so of a lower order
            return
        self.sizes[c.source] = max(self.sizes.get(c.source, 0.0), float(np.abs(c.value).max()))
        if not isinstance(c.source, Tensor) and c.source.op.name in SHIFTS:
            self.parents[c.source] = list(c.source.sources)

    def largest(self) -> list[float]:
        """Of each input."""
        sizes = {leaf: self.sizes.get(leaf, 0.0) for leaf in self.leaves}
        origins: dict[Any, set[Tensor]] = {leaf: {leaf} for leaf in self.leaves}
        for node in sorted(self.parents, key=lambda node: node.time):  # parents are older
            origins[node] = set().union(*(origins.get(p, set()) for p in self.parents[node]))
            for leaf in origins[node]:
                sizes[leaf] = max(sizes[leaf], self.sizes[node])
        return [sizes[leaf] for leaf in self.leaves]
