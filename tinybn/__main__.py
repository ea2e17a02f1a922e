"""`python -m tinybn`: which backends can be used here, why the others can't, and the versions."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np

import tinybn
from tinybn import backend, diagnosis


def report() -> str:
    """The lines that `python -m tinybn` prints, for a bug report."""
    about = {"numpy": _numpy, "cupy": _cupy}
    lines = [
        f"tinybn {tinybn.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}"
    ]
    for name, problem in backend.problems().items():
        lines.append(f"{name}: {problem or 'ready, ' + about[name]()}")
    if len(diagnosis.packages()) > 1:
        lines.append(f"warning: {diagnosis.two_packages()}")
    return "\n".join(lines)


def _numpy() -> str:
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"NumPy {np.__version__} with {blas.get('name', '?')} {blas.get('version', '?')}"


def _cupy() -> str:
    cupy: Any = backend.module("cupy")
    device, runtime = cupy.cuda.Device(), cupy.cuda.runtime
    name = runtime.getDeviceProperties(device.id)["name"].decode()
    kind, version = ("ROCm", str) if runtime.is_hip else ("CUDA", diagnosis.version)
    return (
        f"CuPy {cupy.__version__} ({', '.join(diagnosis.packages())}) on {name}, compute "
        f"capability {device.compute_capability}, {kind} {version(runtime.runtimeGetVersion())}, "
        f"driver {version(runtime.driverGetVersion())}"
    )


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
