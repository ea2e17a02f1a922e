"""The tests on CuPy, file by file, those first that a GPU is most likely to fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.part import Clock

ROOT = Path(__file__).parents[2]
FIRST = (
    "on_cupy/test_agreement.py", "on_cupy/test_kernels.py", "on_cupy/test_cuda_graph.py",
    "on_cupy/test_waits.py", "on_cupy/test_program.py", "test_fused.py", "test_nn_norm.py",
    "test_optim.py", "test_ops.py", "test_autodiff.py", "test_compare.py", "test_gradcheck.py",
)  # fmt: skip
COUNTS = re.compile(r"(\d+) (passed|failed|error|errors|skipped|xfailed|deselected)")


def works(clock: Clock) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Every file of tests; the last first part of their order is FIRST."""
    files = [str(f.relative_to(ROOT / "tests")) for f in (ROOT / "tests").rglob("test_*.py")]
    others = sorted(f for f in files if f not in FIRST and not f.startswith("peers"))
    chosen = ["test_tensor.py"] if clock.small else [*(f for f in FIRST if f in files), *others]
    for file in chosen:
        yield {"file": file}, partial(run, file, clock)


def run(file: str, clock: Clock) -> dict[str, Any]:
    """The counts of one file, and its first failure."""
    cache = os.environ.get("TMPDIR", "/tmp")  # noqa: S108, the driver sets it
    command = [sys.executable, "-m", "pytest", "--backend", "cupy", f"tests/{file}", "-p"]
    command += ["no:cacheprovider", "-o", "addopts=-q -rN", f"--basetemp={cache}/pytest"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=max(clock.left(), 20)
        )
    except subprocess.TimeoutExpired:
        return {"left_out": "no time"}
    found = {name: int(n) for n, name in COUNTS.findall("\n".join(done.stdout.splitlines()[-12:]))}
    row: dict[str, Any] = {**found, "right": done.returncode in (0, 5)}  # 5: all on the host alone
    if not row["right"]:
        failure = re.search(
            r"^(_{3,} .*? _{3,}\n.*?)(?=^_{3,} |\Z)", done.stdout, re.DOTALL | re.MULTILINE
        )
        row["first_failure"] = (failure[1] if failure else done.stdout + done.stderr)[-4000:]
    return row
