"""The float32 errors of every fused op and its composition on the GPU, over all cases of `compare`.

With TF32, matrix products have 10 bits of mantissa instead of 23: `linear` shows what that costs.
CuPy reads the setting when it is imported, so it is another process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.gpu.part import Clock
from tinybn.check import cases, compare
from tinybn.fusion import FUSED


def works(clock: Clock) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Every fused op; in a small run only two, one of them with products."""
    for op in ("rms_norm", "linear") if clock.small else ("linear", *FUSED.keys() - {"linear"}):
        yield {"op": op}, partial(worst, op)


def worst(op: str) -> dict[str, Any]:
    """The largest errors in ULP of the largest term, first order included, by method."""
    tf32 = os.environ.get("CUPY_TF32") == "1"
    found: dict[str, float] = {}
    misses = 0
    for case in cases():
        if case.op == op:
            for row in compare(
                op,
                case.inputs,
                case.static,
                orders=1,
                dtypes=("float32",),
                backends=("cupy",),
                differences=False,
            ):
                found[row.method] = max(found.get(row.method, 0.0), row.max_ulp)
                misses += row.verdict != "ok"
    # Products with TF32 are off by design: the row says by how much.
    return {**found, "misses": misses, "right": misses == 0 or tf32}
