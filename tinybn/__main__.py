"""`python -m tinybn`: which backends can be used here, why the others can't, and the versions.

`python -m tinybn program`: the backward pass of batch norm, as the program that autodiff wrote.
"""

from __future__ import annotations

import argparse
import platform
import sys
from itertools import zip_longest
from typing import Any

import numpy as np

import tinybn
from tinybn import backend, diagnosis
from tinybn.program import relaxed, without_dead


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


def batch_norm_programs() -> str:
    """Forward and backward pass of batch norm, composed of primitives beside its closed form: as
    they were written down, and after the passes that move what is constant out of the sums.
    """
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 32, 4))
    gamma, beta = rng.standard_normal((2, 4))

    def batch_norm(x: Any, gamma: Any, beta: Any, dy: Any) -> Any:
        x, gamma, beta = (tinybn.tensor(a, requires_grad=True) for a in (x, gamma, beta))
        y = tinybn.ops.batch_norm(x, gamma, beta)
        return tinybn.grad(y, [x, gamma, beta], dy)

    parts = []
    for title, passes in (("As recorded", without_dead), ("After the passes", relaxed)):
        columns = []
        for fused, name in ((False, "composed of primitives"), (True, "closed form")):
            with tinybn.use_fused(fused):
                program = tinybn.program(batch_norm, x, gamma, beta, dy, passes=passes)
            sums = sum(line.op == "sum" for line in program.lines)
            head = f"{name}: {len(program.lines)} lines, {sums} sums"
            columns.append([head, "", *str(program).splitlines()])
        width = max(map(len, columns[0])) + 4
        rows = [f"{a:<{width}}{b}".rstrip() for a, b in zip_longest(*columns, fillvalue="")]
        parts.append("\n".join([f"{title}", "=" * len(title), *rows]))
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tinybn", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["report", "program"], default="report")
    show = {"report": report, "program": batch_norm_programs}
    sys.stdout.write(show[parser.parse_args(arguments).what]() + "\n")


if __name__ == "__main__":
    main()
