"""Loops: which lines they can compute, and where in its inputs a line reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from tinybn.program.line import REDUCTIONS, Line, Ref, apply, constant

DTYPES = {np.dtype(name) for name in ("float32", "float64", "int64", "bool")}
VIEWS = {"reshape", "transpose", "broadcast_to"}
ANY = VIEWS | {"astype", "where", "arange"}
NUMBERS = {"add", "subtract", "multiply", "negative", "absolute", "sign", "sum", "sum_wide"}
FLOATS = {"divide", "sqrt", "exp", "log", "tanh", "power", "maximum", "minimum", "max", "min"}
BOOLS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
KINDS = dict.fromkeys(ANY, "fib") | dict.fromkeys(NUMBERS, "fi")
KINDS |= dict.fromkeys(FLOATS, "f") | dict.fromkeys(BOOLS, "b")
"""What loops know: operations, and the kinds of dtype of their results."""

Place = tuple[int, ...]
"""Which loop runs along each axis of an array that is longer than 1 (or empty)."""


def lengths(v: Line) -> tuple[int, ...]:
    """Of the axes that need a loop."""
    return tuple(n for n in v.shape if n != 1)


def loops(v: Line) -> tuple[int, ...]:
    """The lengths of the loops that compute a line."""
    return lengths(v.inputs[0] if v.op in REDUCTIONS else v)


def place(v: Line) -> Place:
    """Where the result of these loops lies."""
    if v.op not in REDUCTIONS:
        return tuple(range(len(lengths(v))))
    shape = v.inputs[0].shape
    reduced = {a % len(shape) for a in v.static["axis"]}
    kept = [k for k, n in enumerate(shape) if n != 1]
    return tuple(i for i, k in enumerate(kept) if k not in reduced)


def is_number(v: Line) -> bool:
    """Whether loops take it as an argument, as it is known before they run."""
    return v.kind is not None or (v.op == "constant" and v.shape == ())


def how(v: Line) -> str:
    """What computes a line: "loops", "blas", or "numpy" for everything else."""
    dtypes = {a.dtype for a in (*v.inputs, v) if not a.kind}
    if v.op == "matmul" and all(a.ndim == 2 and a.size for a in v.inputs) and v.dtype.kind == "f":
        return "blas" if len(dtypes) == 1 and dtypes < DTYPES else "numpy"
    return "loops" if dtypes <= DTYPES and v.dtype.kind in KINDS.get(v.op, "") else "numpy"


def operands(v: Line, at: Place) -> Iterator[tuple[Line, Place]]:
    """What a line (no reduction) reads for its element at `at`, and where."""
    along = iter(at)
    full = [next(along) if n != 1 else -1 for n in v.shape]
    if v.op == "transpose":
        axes = [a % v.ndim for a in v.static["axes"]]
        full = [full[axes.index(k)] for k in range(v.ndim)]
    for a in v.inputs:
        here = zip(full[len(full) - a.ndim :], a.shape, strict=v.op != "reshape")
        yield a, at if v.op == "reshape" else tuple(k for k, n in here if n != 1)


def follows(v: Line) -> bool:
    """Whether the loops of v find what it reads; they don't if that has another shape."""
    return v.op != "reshape" or lengths(v) == lengths(v.inputs[0])


def viewed(v: Line, views: Collection[str] = VIEWS, stored: Collection[Line] = ()) -> Line:
    """The line (the first that is stored) of which v is a view."""
    while v.op in views and v not in stored:
        v = v.inputs[0]
    return v


def contiguous(v: Line) -> Line:
    """The line in whose memory v lies in order."""
    return viewed(v, ("reshape",))


def factor(v: Line) -> tuple[Line, bool]:
    """What BLAS reads for a factor of a product, and whether it is to transpose that."""
    turned = v.op == "transpose" and v.static["axes"][0] % 2 == 1
    return contiguous(v.inputs[0] if turned else v), turned


def lowered(v: Line, inputs: tuple[Line, ...]) -> Line:
    """The line, reading `inputs`, in terms of what loops know. Floats are added up in float64.
    a[arange, labels] is the sum along each row of a where the column is the label: nothing is read
    out of order.
    """
    if v.op == "sum" and v.dtype.kind == "f" and v.dtype in DTYPES:
        wide = Line("sum_wide", inputs, v.static, v.shape, np.float64, None, v.origin)
        return wide if v.dtype == np.float64 else copied(wide, v.dtype)
    if v.op == "full" and v.dtype in DTYPES:
        value = constant(v.dtype.type(v.static["value"]))
        return apply("broadcast_to", value, shape=v.shape, origin=v.origin)
    if v.op == "isfinite" and inputs[0].dtype.kind == "f":
        return apply("equal", apply("subtract", *inputs, *inputs), constant(0), origin=v.origin)
    index = v.static.get("index", ())
    if v.op in ("getitem", "add_at") and [*map(type, index)] == [Ref, Ref]:
        a, rows, labels = inputs[0], *(inputs[i] for i in index)
        n = (a.shape[0], 1)
        fits = a.dtype in DTYPES and a.dtype.kind == "f" and labels.dtype == np.int64
        if fits and a.ndim == 2 and rows.op == "arange" and rows.shape == labels.shape == n[:1]:
            after = apply("add", labels, constant(a.shape[1]))
            labels = apply("where", apply("less", labels, constant(0)), after, labels)
            column = apply("arange", n=a.shape[1], dtype=labels.dtype)
            here = apply("equal", apply("reshape", labels, shape=n), column)
            if v.op == "add_at":
                more = apply("add", a, apply("reshape", inputs[1], shape=n))
                return apply("where", here, more, a, origin=v.origin)
            chosen = apply("where", here, a, constant(a.dtype.type(0)))
            total = apply("astype", apply("sum_wide", chosen, axis=(1,)), dtype=a.dtype)
            return apply("reshape", total, shape=n[:1], origin=v.origin)
    return v if inputs == v.inputs else v.reading(inputs)


def copied(v: Line, dtype: Any = None) -> Line:
    """A copy, which may have another dtype."""
    dtype = dtype or v.dtype
    return Line("astype", (v,), {"dtype": dtype}, v.shape, dtype, None, v.origin)
