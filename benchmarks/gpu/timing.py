"""How long a GPU is busy with something, by events on its stream."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

CHUNKS = 15


class Events:
    """The events of CuPy or PyTorch. JAX has none: the host's clock stops when all is done."""

    def __init__(self, framework: str) -> None:
        self.framework = framework
        if framework == "jax":
            import jax

            self.wait: Any = jax.block_until_ready
        elif framework == "torch":
            import torch

            self.wait = lambda _: torch.cuda.synchronize()
            self.event: Any = lambda: torch.cuda.Event(enable_timing=True)
        else:
            import cupy

            self.wait = lambda _: cupy.cuda.Device().synchronize()
            self.event = cupy.cuda.Event
            self.between = cupy.cuda.get_elapsed_time

    def chunk(self, run: Callable[[], Any], times: int) -> tuple[float, float]:
        """Milliseconds per call: the GPU's, and those of the host to launch it."""
        if self.framework == "jax":
            begin = time.perf_counter()
            for _ in range(times):
                result = run()
            launched = time.perf_counter()
            self.wait(result)
            end = time.perf_counter()
            return 1e3 * (end - begin) / times, 1e3 * (launched - begin) / times
        first, last = self.event(), self.event()
        begin = time.perf_counter()
        first.record()
        for _ in range(times):
            result = run()
        last.record()
        host = time.perf_counter() - begin
        self.wait(result)
        elapsed = (
            first.elapsed_time(last) if self.framework == "torch" else self.between(first, last)
        )
        return elapsed / times, 1e3 * host / times


def milliseconds(run: Callable[[], Any], framework: str, seconds: float) -> dict[str, float]:
    """Medians over chunks of calls that take about `seconds` in all, after a warm-up."""
    events = Events(framework)
    for _ in range(3):
        events.wait(run())
    begin = time.perf_counter()
    events.chunk(run, 2)
    once = (time.perf_counter() - begin) / 2
    times = max(1, min(1000, int(seconds / CHUNKS / max(once, 1e-6))))
    chunks = [events.chunk(run, times) for _ in range(CHUNKS if once < seconds else 3)]
    gpu, host = (statistics.median(c[i] for c in chunks) for i in (0, 1))
    return {"ms": gpu, "host_ms": host, "calls": times * len(chunks)}
