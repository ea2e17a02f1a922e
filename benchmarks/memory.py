"""Memory: the peak of a training step, and the time and bytes of a chain of up to a million ops.

Two instruments. *Resident*: by how much the process's resident memory grows at most, as the kernel
counts it (Linux: VmHWM, reset through /proc/self/clear_refs), each case in a fresh process, after a
small net or a short chain has made the libraries allocate what they keep. It sees every library. Of
a training step it includes the model, its optimizer and what a compiled step keeps between calls;
but not its first calls, when it is eager or compiles.
*Traced*: Python's tracemalloc, to which NumPy reports its arrays: exact, but blind to PyTorch, and
slow; so it is taken in a run of its own, which is not timed.
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
"""Shorter chains are too small for the resident memory, which comes in pages."""
CHAIN_RIVALS = ("eager", "torch")
STEP_RIVALS = ("eager", "compiled", "composition", "floor", "torch")
STEPS_MEASURED = 3


def make(rival: str, what: str, **spec: Any) -> tuple[None, dict[str, float]]:
    """Measure at once: there is nothing to repeat."""
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
    """Bytes by which the resident memory of this process grows at most until `run()` is done.

    before: what it was to start with; by default what it is now.
    """
    if sys.platform != "linux":
        return float("nan")
    now = resident_now()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    run()
    return 1024.0 * _status("VmHWM") - (now if before is None else before)


def resident_now() -> float:
    """Bytes, without those that are free but kept."""
    if sys.platform != "linux":
        return float("nan")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or memory that was freed, but kept, would be used unseen
    return 1024.0 * _status("VmRSS")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1])


def traced(run: Callable[[], Any]) -> float:
    """Bytes that `run()` has allocated at most at one time, Python's and NumPy's."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(peak)
