"""Memory: the peak of a training step, and the time and bytes of a chain of up to a million ops.

There are two instruments.

* *Resident*: the largest growth of the process's resident memory, as the kernel counts it (Linux:
  VmHWM, reset through /proc/self/clear_refs). Each case runs in a fresh process, after a small net
  or a short chain has made the libraries allocate what they keep. This sees every library. For a
  training step it includes the model, its optimizer and what a compiled step keeps between calls,
  but not the first calls, which run eagerly or compile.
* *Traced*: Python's tracemalloc, to which NumPy reports its arrays. It is exact, but slow and blind
  to PyTorch, so it has a run of its own, which is not timed.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mlp import NETS, weights_and_batches
from benchmarks.rivals import STEPS, native

LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
MEASURABLE = 100_000
"""Shorter chains are too small to measure: resident memory comes in pages."""
CHAIN_RIVALS = ("eager", "torch")
STEP_RIVALS = ("eager", "compiled", "composition", "floor", "torch")
STEPS_MEASURED = 3


def make(rival: str, what: str, **spec: Any) -> tuple[None, dict[str, float]]:
    """Measure at once; there is nothing to repeat."""
    return None, (_step if what == "step" else _chain)(rival, **spec)


def _step(rival: str, sizes: list[int], batch: int, optimizer: str) -> dict[str, float]:
    def run(step: Callable[..., Any], batches: list[Any]) -> None:
        for i in range(STEPS_MEASURED):
            float(step(*batches[i]))

    def prepared(sizes: list[int], batch: int) -> Callable[[], None]:
        weights, batches = weights_and_batches(sizes, batch)
        given = [native(rival, *b) for b in batches]
        step = STEPS[rival](weights, optimizer)
        run(step, given)
        return lambda: run(step, given)

    prepared(*NETS["64-32-32-10 @32"])()
    before = resident_now()
    steps = prepared(sizes, batch)
    return {"resident": resident(steps, before)}


def _chain(rival: str, op: str, length: int) -> dict[str, float]:
    chain = {"eager": _eager_chain, "torch": _torch_chain}[rival](op)
    chain(1_000)
    gc.collect()
    found = {}
    if length >= MEASURABLE:
        found["resident"] = resident(lambda: chain(length)) / length
    if rival == "eager":
        found["traced"] = traced(lambda: chain(length)) / length
    times = []
    for _ in range(max(3, min(20, 200_000 // length))):
        start = time.perf_counter()
        chain(length)
        times.append(time.perf_counter() - start)
    return found | {"seconds": float(np.median(times)) / length}


def _eager_chain(op: str) -> Callable[[int], Any]:
    import tinybn as tb

    x = tb.tensor(np.ones(1, np.float32), requires_grad=True)
    factor: Any = 1.0 if op == "y · number" else tb.tensor(x, requires_grad=True)

    def chain(length: int) -> Any:
        y = x
        for _ in range(length):
            y = y * factor
        y.backward([1.0])

    return chain


def _torch_chain(op: str) -> Callable[[int], Any]:
    import torch

    x = torch.ones(1, requires_grad=True)
    factor: Any = 1.0 if op == "y · number" else torch.ones(1, requires_grad=True)

    def chain(length: int) -> Any:
        y = x
        for _ in range(length):
            y = y * factor
        y.backward(torch.ones(1))

    return chain


CHAIN_OPS = ("y · number", "y · parameter")


def resident(run: Callable[[], Any], before: float | None = None) -> float:
    """The largest growth, in bytes, of this process's resident memory during `run()`.

    `before` is the memory to start from; by default, the memory now.
    """
    if sys.platform != "linux":
        return float("nan")
    now = resident_now()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    run()
    return 1024.0 * _status("VmHWM") - (now if before is None else before)


def resident_now() -> float:
    """Resident memory in bytes, without memory that is free but kept."""
    if sys.platform != "linux":
        return float("nan")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # otherwise kept free memory would be reused unnoticed
    return 1024.0 * _status("VmRSS")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1])


def traced(run: Callable[[], Any]) -> float:
    """The peak of the bytes that `run()` allocates in Python and NumPy."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(peak)
