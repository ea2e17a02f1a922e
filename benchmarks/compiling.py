"""The cost of compiling: seconds for each network, and microseconds for each call.

*Cold* is the second call of a step, which records and compiles it, in a new process with an empty
cache folder. *Warm* is the same in another process that finds the first one's cache. *Wider* is a
network of other widths, which should compile nothing. Numba is imported beforehand.

Beside its program, a call pays for guards and bookkeeping. These are measured from outside: with n
steps in one compiled function, a call takes t(n) = cost + n · program, so cost = 2 t(1) - t(2).
"""

from __future__ import annotations

import importlib
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.mlp import weights_and_batches
from benchmarks.rivals import STEPS

RIVALS = ("once", "twice")
CALLED = ("2-16-16-2 @32", "64-32-32-10 @32", "64×20 hidden @64")
"""Networks whose programs are short enough for the difference to show."""


def wider(sizes: list[int]) -> list[int]:
    """The same network with wider hidden layers."""
    return [sizes[0], *(width + 24 for width in sizes[1:-1]), sizes[-1]]


def make(
    rival: str, sizes: list[int], batch: int, optimizer: str
) -> tuple[Callable[[], Any] | None, dict[str, float]]:
    """A compiled function of one or two steps, or for "compiled" the cost of making it."""
    if rival == "compiled":
        return None, _cost(sizes, batch, optimizer)
    import tinybn as tb

    weights, batches = weights_and_batches(sizes, batch)
    step = STEPS["eager"](weights, optimizer)

    def twice(x: Any, labels: Any) -> Any:
        return step(x, labels), step(x, labels)

    compiled = tb.compile(step if rival == "once" else twice)
    ring = itertools.cycle(batches)
    return lambda: compiled(*next(ring)), {}


def _cost(sizes: list[int], batch: int, optimizer: str) -> dict[str, float]:
    weights, batches = weights_and_batches(sizes, batch)
    start = time.perf_counter()
    importlib.import_module("numba")
    imported = time.perf_counter() - start
    step = STEPS["compiled"](weights, optimizer)
    step(*batches[0])
    cached = _files()
    start = time.perf_counter()
    step(*batches[1])
    return {
        "seconds": time.perf_counter() - start,
        "import": imported,
        "files": _files() - cached,
    }


def _files() -> int:
    """The number of files in the cache folder."""
    return sum(path.is_file() for path in Path(os.environ["TINYBN_CACHE"]).rglob("*"))
