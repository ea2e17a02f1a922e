"""Run a script or a module with CuPy on the CPU, unless CuPy has a GPU.

    run.py SCRIPT [ARGUMENTS …]
    run.py -m MODULE [ARGUMENTS …]

Without either, say whether this machine can do it, or what it lacks.
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
if sys.argv[0] == "-m":
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
