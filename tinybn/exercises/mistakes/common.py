"""Advice that several exercises share, and what their wrong formulas have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from tinybn.exercises.recorded import Case

Mistakes: TypeAlias = dict[str, dict[str, list[tuple[Callable[[Case], Any], str]]]]
"""By exercise and by name of a result: wrong formulas, each with advice to whoever wrote it."""

EPS_OUTSIDE = "eps is outside of the root: it is √(var + eps), not √var + eps."
NO_EPS = "eps is missing. It is added to var, so that nothing is divided by 0 where var is 0."
NO_ROOT = "You divide by (var + eps): the square root is missing."
EVERYTHING = "You sum or average over the whole array. Give axis=0: each column is separate."
ACROSS = "You sum or average along the rows. Each column is separate here, so it is axis=0."
NOT_CENTRED = "You use x where (x - mean) belongs."
SCALED = "You use x_hat where (x - mean) belongs."
NO_SUM = (
    "You return one number per element, but there is one per column to find. What a whole "
    "column shares collects a gradient from every row: take the sum over axis=0."
)
PLUS = "The term along x_hat has the wrong sign: both terms are subtracted."
N_MINUS_1 = "You divide by n - 1. It is n here."


def root(c: Case) -> Any:
    """√(var + eps)."""
    return np.sqrt(c.var + c.eps)


def centred(c: Case) -> Any:
    """x - mean."""
    return c.x - c.mean


def row_means(a: Any) -> Any:
    """The mean of each row, of shape (n, 1)."""
    return a.mean(-1, keepdims=True)
