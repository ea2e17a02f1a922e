"""Arrays of symbols: a program that runs on them computes for all numbers at once.

They are NumPy arrays of `Element` objects, whose operators and methods NumPy calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinybn.program.source import Program, function


class Symbolic(np.ndarray):
    """An array of elements. No dtype that a program asks for rounds them."""

    def astype(self, *_: Any, **__: Any) -> Any:
        """The same array."""
        return self

    def sum(  # type: ignore[override]
        self, axis: Any = None, *, keepdims: bool = False, **_: Any
    ) -> Any:
        """Σ, in no particular dtype."""
        return super().sum(axis, keepdims=keepdims)

    def max(self, axis: Any, *, keepdims: bool) -> Any:  # type: ignore[override]
        """Peaks: symbols for any number."""
        peaks = super().sum(axis, keepdims=keepdims)
        for index in np.ndindex(peaks.shape):
            along = zip(index, peaks.shape, strict=True)
            part = self[tuple(slice(i, i + 1) if n > 1 else slice(None) for i, n in along)]
            elements = [*part.flat]
            peaks[index] = elements[0].algebra.symbol("peak", *elements)
        return peaks


LIBRARY = SimpleNamespace(
    **vars(np)
    | {
        "isfinite": lambda a: np.ones(a.shape, bool),
        "where": lambda condition, a, b: np.asarray(np.where(condition, a, b)).view(Symbolic),
        "broadcast_to": lambda a, shape: np.broadcast_to(a, shape, subok=True),
    }
)
"""What a program sees as np. All numbers are finite."""


def filled(shapes: Mapping[str, tuple[int, ...]], values: Iterable[Any]) -> dict[str, np.ndarray]:
    """Arrays of objects by name, filled with the values in order."""
    rest = iter(values)
    return {
        name: np.array([next(rest) for _ in range(math.prod(shape))], object).reshape(shape)
        for name, shape in shapes.items()
    }


def run(program: Program, arrays: Sequence[np.ndarray]) -> list[Any]:
    """Run the printed program on an array for each of its inputs."""
    given = dict(zip(program.inputs, arrays, strict=True))
    return list(function(program, LIBRARY)(*[given[line] for line in program.parameters()]))
