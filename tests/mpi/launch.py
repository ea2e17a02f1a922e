"""Run a program of this folder under mpiexec, with a watchdog."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import tinybn

HERE = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
SECONDS = 90
"""A run that takes longer hangs; a run takes a few seconds, or more on a busy machine."""


CUPY = Path(tinybn.__file__).parent.parent / "tools" / "cupy-on-cpu" / "run.py"
"""Runs a program with CuPy on the CPU, where there is no GPU."""


def launch(ranks, program, *arguments, runner=None, **environment):
    """The finished process, its two outputs in one. A run that hangs fails the test."""
    assert MPIEXEC, "there is no mpiexec: run `make test-mpi`, which installs one"
    command = [sys.executable, *([str(runner)] if runner else []), str(HERE / program)]
    paths = [str(Path(tinybn.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [MPIEXEC, "-n", str(ranks), *command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
        env=os.environ
        | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(paths)}
        | environment,
    )
