"""What loops can compute, and which elements of its inputs each element of a line reads.

Here, a *place* says where an element is: for each axis of its array, the number of the loop that
runs along it. Axes of length 1 have no loop. (The places of place.py are something else.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinybn.program.line import REDUCTIONS, Line

Place = tuple[int, ...]

DTYPES = {np.dtype(name) for name in ("float32", "float64", "int64", "bool")}
FREE = {"reshape", "transpose", "broadcast_to", "astype", "arange"}
EXPENSIVE = {"divide", "sqrt", "exp", "tanh", "log", "power"}
"""Operations whose results are stored rather than computed again in another nest."""

KNOWN = {
    "fib": "reshape transpose broadcast_to astype where arange",
    "fi": "add subtract multiply negative absolute sign sum sum_wide",
    "f": "divide sqrt exp log tanh power maximum minimum max min",
    "b": "equal not_equal less less_equal greater greater_equal isfinite",
}
"""The operations that loops can compute, by the kinds of dtype of their results."""

COMPUTABLE = {(op, kind) for kinds, ops in KNOWN.items() for op in ops.split() for kind in kinds}


def is_number(v: Line) -> bool:
    """Whether a line is a single number, known before any loop runs."""
    return v.kind is not None or (v.op == "constant" and v.shape == ())


def how(v: Line) -> str:
    """What computes a line: "loops", "blas", or "numpy" for everything else."""
    dtypes = {a.dtype for a in (*v.inputs, v) if not a.kind}
    if v.op == "matmul" and all(a.ndim == 2 and a.size for a in v.inputs) and v.dtype.kind == "f":
        return "blas" if len(dtypes) == 1 and dtypes < DTYPES else "numpy"
    return "loops" if dtypes <= DTYPES and (v.op, v.dtype.kind) in COMPUTABLE else "numpy"


def lengths(v: Line) -> list[int]:
    """The lengths of the loops that compute a line."""
    return [n for n in (v.inputs[0] if v.op in REDUCTIONS else v).shape if n != 1]


def full(v: Line) -> Place:
    """The place of an element that depends on all of these loops."""
    return tuple(range(len(lengths(v))))


def place(v: Line) -> Place:
    """Where the loops that compute a line store its elements."""
    if v.op not in REDUCTIONS:
        return full(v)
    shape = v.inputs[0].shape
    reduced = {a % len(shape) for a in v.static["axis"]}
    kept = [axis for axis, n in enumerate(shape) if n != 1]
    return tuple(i for i, axis in enumerate(kept) if axis not in reduced)


def operands(v: Line, at: Place) -> Iterator[tuple[Line, Place | None]]:
    """What a line reads to compute an element, and at which place; None for any place.

    at: the place of the element; for a reduction, the place of an element that it reduces.
    """
    if v.op == "reshape":
        follows = [n for n in v.inputs[0].shape if n != 1] == lengths(v)
        yield (v.inputs[0], at) if follows else (contiguous(v), None)
    elif v.op in REDUCTIONS:
        yield v.inputs[0], at
    else:
        along = iter(at)
        loop = [next(along) if n != 1 else -1 for n in v.shape]
        if v.op == "transpose":
            axes = [a % v.ndim for a in v.static["axes"]]
            loop = [loop[axes.index(axis)] for axis in range(v.ndim)]
        for a in v.inputs:
            pairs = zip(loop[v.ndim - a.ndim :], a.shape, strict=True)
            yield a, tuple(i for i, n in pairs if n != 1)


def contiguous(v: Line) -> Line:
    """The line whose memory holds the elements of v in order."""
    while v.op == "reshape":
        v = v.inputs[0]
    return v


def factor(v: Line) -> tuple[Line, bool]:
    """The array that BLAS reads for a factor of a product, and whether BLAS must transpose it."""
    turned = v.op == "transpose" and v.static["axes"][0] % 2 == 1
    return contiguous(v.inputs[0] if turned else v), turned


def whole(v: Line) -> list[Line]:
    """The arrays that BLAS or NumPy reads to compute a line."""
    return [factor(a)[0] if how(v) == "blas" else a for a in v.inputs if not is_number(a)]
