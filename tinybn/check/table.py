"""What `compare` returns: rows that print as a table, and raise if one of them is off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from tinybn.check.gradcheck import GradientError


class Row(NamedTuple):
    """How far one result of one method is from the reference.

    method is "fused", "composition", "differences" or the name of a rival. Order 0 is the output.
    max_abs is the largest error, and max_rel is that error divided by the largest element. max_ulp
    and median_ulp are errors in units of ε times the scale of the result (see `_reference`); limit
    is the largest max_ulp allowed. verdict is "ok", or says what is wrong. For a rival, backend and
    verdict are "".
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


class Table(list[Row]):
    """A list of rows that prints as a table."""

    @property
    def misses(self) -> Table:
        """The rows that are off."""
        return Table(row for row in self if row.verdict not in ("ok", ""))

    def check(self) -> Table:
        """The table itself, if all is right.

        Raises:
            GradientError: a result is off; the message shows all that are.
        """
        if wrong := self.misses:
            raise GradientError(f"{len(wrong)} of {len(self)} results are off:\n\n{wrong}")
        return self

    def __str__(self) -> str:
        cells = [
            (r.op, r.backend or "-", r.dtype, r.method, str(r.order), r.input, f"{r.max_rel:.1e}",
             f"{r.max_ulp:.3g}", f"{r.limit:.3g}", r.verdict or "-")
            for r in self
        ]  # fmt: skip
        return _aligned([HEAD, *cells])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For IPython and Jupyter, which would show a list of rows."""
        printer.text(str(self))


HEAD = (
    "op", "backend", "dtype", "method", "order", "input", "max rel", "max ULP", "limit", "verdict",
)  # fmt: skip


def _aligned(rows: Iterable[tuple[str, ...]]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
