"""How long ops and a training step take on a GPU, by CUDA events: a block for a bug report.

    make bench-gpu

Each line has the time that the GPU was busy and the time that the host took to launch the work,
both medians. Where the host takes longer, the GPU waits, and fewer launches would help.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import tinybn as tb
from tinybn import backend
from tinybn.__main__ import report

SHAPES = [(64, 64), (512, 1024), (8192, 4096)]


def workloads() -> Iterator[tuple[str, Callable[[], Any]]]:
    """The timed functions by name; all their arrays are on CuPy."""
    rng = np.random.default_rng(0)
    for n, width in SHAPES:
        x, gamma, beta, dy = (
            tb.tensor(rng.standard_normal(shape), dtype=np.float32, requires_grad=True)
            for shape in ((n, width), width, width, (n, width))
        )
        for op in (tb.ops.batch_norm, tb.ops.layer_norm):

            def both(op: Any = op, inputs: Any = (x, gamma, beta), dy: Any = dy) -> Any:
                return tb.grad(op(*inputs), inputs, dy)

            def composed(both: Callable[[], Any] = both) -> Any:
                with tb.use_fused(False):
                    return both()

            yield f"{op.__name__} {n} x {width}, forward and backward", both
            yield f"{op.__name__} {n} x {width}, from primitive ops", composed
    for norm in ("none", "batch", "layer"):
        yield f"training step, MLP 64-256-256-10, batch 256, norm {norm}", _training(norm, rng)


def _training(norm: str, rng: np.random.Generator) -> Callable[[], Any]:
    model = tb.nn.MLP([64, 256, 256, 10], norm, rng=rng)
    optimizer = tb.optim.Adam(model.parameters())
    x = tb.tensor(rng.standard_normal((256, 64)), dtype=np.float32)
    labels = rng.integers(10, size=256)

    def step() -> None:
        loss = tb.ops.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(repeat: int, warmup: int = 10) -> list[str]:
    """The table, one line per workload."""
    from cupyx.profiler import benchmark

    lines = [f"{'GPU ms':>9}  {'host ms':>9}  of {repeat} runs, float32"]
    with tb.use_backend("cupy"):
        for name, run in workloads():
            times = benchmark(run, n_repeat=repeat, n_warmup=warmup)
            gpu, host = (1e3 * np.median(t) for t in (times.gpu_times, times.cpu_times))
            lines.append(f"{gpu:9.4f}  {host:9.4f}  {name}")
    return lines


def main() -> int:
    """The command."""
    problem = backend.problems()["cupy"]
    if problem is None and "on cupy-on-cpu" in report():
        problem = "CuPy runs on the CPU here, where there is nothing to time"
    if problem is not None:
        print(f"bench-gpu needs a GPU: {problem}", file=sys.stderr)
        return 1
    print(report(), *measure(repeat=200), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
