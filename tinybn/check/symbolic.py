"""Arrays of symbols: a program that runs on them computes with all numbers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinybn.check.algebra import Algebra
from tinybn.program.source import Program, function

ARITHMETIC = (np.add, np.subtract, np.multiply, np.negative, np.matmul)
FUNCTIONS = (np.sqrt, np.exp, np.log)


class Symbolic(np.ndarray):
    """An array of polynomials. NumPy hands it every function of arrays that a program calls."""

    algebra: Algebra

    def __array_finalize__(self, source: Any) -> None:
        self.algebra = getattr(source, "algebra", None)  # type: ignore[assignment]

    def astype(self, *_: Any, **__: Any) -> Any:
        """The same array: no dtype rounds a polynomial."""
        return self

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        found = super().__array_function__(func, types, args, kwargs)
        return symbolic(self.algebra, found)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        algebra, called = self.algebra, ufunc if method == "__call__" else (ufunc, method)
        along = {"axis": options.get("axis"), "keepdims": options.get("keepdims", False)}
        if called is np.isfinite:  # every symbol is
            return np.ones(self.shape, bool)
        if called in (np.power, np.square):
            exponent = 2 if called is np.square else inputs[1]
            return symbolic(algebra, each(lambda p: algebra.power(p, exponent), inputs[0]))
        arrays = [each(algebra.polynomial, a) for a in inputs if method != "at"]
        if called in ARITHMETIC:
            found = ufunc(*arrays)
        elif called is np.divide:
            return arrays[0] * symbolic(algebra, each(algebra.inverse, arrays[1]))
        elif called in FUNCTIONS:
            found = each(getattr(algebra, ufunc.__name__), arrays[0])
        elif called == (np.add, "reduce"):
            found = arrays[0].sum(**along)
        elif called == (np.maximum, "reduce"):
            tuples = each(lambda p: (p,), arrays[0]).sum(**along)  # concatenates them
            found = each(lambda of: algebra.symbol("peak", *of), tuples)
        else:
            raise TypeError(f"a proof can't handle np.{ufunc.__name__} of symbols ({method})")
        return symbolic(algebra, found)


def symbolic(algebra: Algebra, found: Any) -> Symbolic:
    """The array, or the single polynomial, as an array of symbols."""
    if not isinstance(found, np.ndarray):
        single = np.empty((), object)
        single[()] = found
        found = single
    array: Symbolic = found.view(Symbolic)
    array.algebra = algebra
    return array


def each(function: Callable[[Any], Any], array: Any) -> np.ndarray:
    """The array of function(element)."""
    plain = np.asarray(array)
    return np.frompyfunc(function, 1, 1)(plain, np.empty(plain.shape, object))


def filled(shapes: Mapping[str, tuple[int, ...]], values: Iterable[Any]) -> dict[str, np.ndarray]:
    """Arrays of objects by name, filled with the values in order."""
    rest = iter(values)
    return {
        name: each(lambda _: next(rest), np.empty(shape, object)) for name, shape in shapes.items()
    }


def run(program: Program, arrays: Sequence[np.ndarray]) -> list[Any]:
    """Run the printed program on an array for each of its inputs."""
    given = dict(zip(program.inputs, arrays, strict=True))
    return list(function(program, np)(*[given[line] for line in program.parameters()]))
