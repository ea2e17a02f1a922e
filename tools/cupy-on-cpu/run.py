"""Run a script with CuPy on the CPU, unless it has a GPU: run.py SCRIPT [ARGUMENTS …].

Without a script: say whether this machine can, or what it lacks.
"""

import runpy
import sys
from pathlib import Path

import cupy_on_cpu

try:
    if len(sys.argv) < 2:
        print(f"CuPy can run on this CPU, with {cupy_on_cpu.check_machine().version}")
        sys.exit()
    cupy_on_cpu.enable_unless_gpu()
except cupy_on_cpu.UnavailableError as error:
    sys.exit(f"{error}")
sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
