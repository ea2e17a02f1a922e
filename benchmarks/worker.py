"""One process for each rival and thread count, so that none disturbs another.

A thread pool must be sized before its library is loaded, and a library's idle threads, garbage and
allocator should not affect the others. A worker answers requests, one JSON object a line:

    {"module": …, "spec": {…}}    make the work; replies with what is known about it
    {"seconds": …}                repeat the work for that long; replies with the time it takes
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "PJRT_NPROC",
)  # fmt: skip
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "PYTENSOR_FLAGS": "mode=NUMBA,floatX=float32,cxx=",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
"""For glibc: without it a step by hand in NumPy faults in its pages again and again."""

PUT_OFF = 0.002
"""Seconds of work that may be waiting."""


class Worker:
    """The parent's side of a worker."""

    def __init__(
        self, rival: str, threads: int, python: str = sys.executable, **environment: str
    ) -> None:
        settings = SETTINGS | dict.fromkeys(THREADS, str(threads)) | environment
        if threads == 1:
            settings["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        if rival in ("floor", "products"):
            settings |= KEEP_FREED_MEMORY
        self.rival = rival
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", rival, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | settings,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the reply."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        reply = self.process.stdout.readline()
        if not reply:
            raise RuntimeError(f"{self.rival} failed at {request} (see above)")
        return json.loads(reply)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def timed(work: Callable[[], Any], seconds: float) -> dict[str, float]:
    """The mean time of a call, after a warm-up half as long.

    Returns:
        `seconds` per call; `cores`, the number of busy cores; and `waited`, the fraction of the
        time that a thread was ready to run but another process had its core.
    """
    _repeat(work, seconds / 2)
    start, busy, waited = time.perf_counter(), time.process_time(), _waited()
    calls = _repeat(work, seconds)
    elapsed, busy = time.perf_counter() - start, time.process_time() - busy
    waited = _waited() - waited
    return {"seconds": elapsed / calls, "cores": busy / elapsed, "waited": waited / elapsed}


def _waited() -> float:
    """Seconds that this process's threads have waited for a core so far (0 unless on Linux)."""
    tasks = Path("/proc/self/task").glob("*/schedstat")
    return sum(int(task.read_text(encoding="utf-8").split()[1]) for task in tasks) / 1e9


def _repeat(work: Callable[[], Any], seconds: float) -> int:
    """Call `work` for that long and return how often.

    JAX returns before a call is done. Calls may queue up as in training, but only for some
    milliseconds; otherwise there would be thousands.
    """
    calls, batch = 0, 1
    end = time.perf_counter() + seconds
    while not calls or (start := time.perf_counter()) < end:
        for _ in range(batch):
            result = work()
        if hasattr(result, "block_until_ready"):
            result.block_until_ready()
            if calls:
                batch = max(1, int(batch * PUT_OFF / (time.perf_counter() - start)))
        calls += batch
    return calls


def serve(rival: str, threads: int) -> None:
    """Answer requests until there are no more."""
    if rival.startswith("torch"):
        import torch

        torch.set_num_threads(threads)
    if rival == "composition":
        import tinybn

        tinybn.use_fused(False).__enter__()  # for the rest of this process
    work: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        if "module" in request:
            work = None  # free the old one before making a new one
            work, reply = importlib.import_module(request["module"]).make(rival, **request["spec"])
        else:
            reply = timed(work, request["seconds"])
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
