"""Arrays of symbols: a program that runs on them computes for all numbers at once."""

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

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, axis: Any = None, keepdims: bool = False,
        **_: Any,
    ) -> Any:  # fmt: skip
        algebra = self.algebra
        if ufunc is np.isfinite:  # all numbers are
            return np.ones(self.shape, bool)
        if ufunc is np.power or ufunc is np.square:
            exponent = inputs[1] if ufunc is np.power else 2
            return symbolic(algebra, each(lambda p: algebra.power(p, exponent), inputs[0]))
        arrays = [each(algebra.polynomial, a) for a in inputs]
        if (ufunc, method) == (np.add, "reduce"):
            found = arrays[0].sum(axis, keepdims=keepdims)
        elif (ufunc, method) == (np.maximum, "reduce"):
            tuples = each(lambda p: (p,), arrays[0]).sum(axis, keepdims=keepdims)  # concatenates
            found = each(lambda of: algebra.symbol("peak", *of), tuples)
        elif ufunc in ARITHMETIC:
            found = ufunc(*arrays)
        elif ufunc is np.divide:
            inverse = each(algebra.inverse, arrays[1])
            found = each(algebra.polynomial, arrays[0]) * each(algebra.polynomial, inverse)
        elif ufunc in FUNCTIONS:
            found = each(getattr(algebra, ufunc.__name__), arrays[0])
        else:
            raise TypeError(f"a proof knows no np.{ufunc.__name__} of symbols")
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
