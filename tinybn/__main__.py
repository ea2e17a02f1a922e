"""The commands of `python -m tinybn`: a report, a program, and the examples in the package.

    report      which backends work here, why the others do not, and the versions (the default)
    program     batch norm, forward and backward, as the program that autodiff wrote
    microscope  a page (or --text) that steps through the gradient of a norm
    exercises   derive the gradient of batch norm yourself: writes a file, and checks it
    demo        an MLP learns handwritten digits, with batch norm and without
    train       the same with any norm, data and optimizer
    compare     every fused op against its composition, number by number
    prove       the same with symbols in place of numbers

The last four need `pip install 'tinybn[examples]'` and write to the folder runs. They and the
microscope take options (`python -m tinybn demo --help`).
"""

from __future__ import annotations

import argparse
import io
import platform
import runpy
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

import tinybn
from tinybn import backend, diagnosis, exercises
from tinybn.microscope import command as microscope
from tinybn.program import relaxed, without_dead

EXAMPLES = {
    "demo": "demo",
    "train": "train_mlp",
    "compare": "compare_gradients",
    "prove": "prove",
}


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
    """Batch norm, forward and backward: its composition beside its closed form.

    Both are shown as recorded, and after the passes, which move constants out of sums.
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
        for fused, name in ((False, "composition"), (True, "closed form")):
            with tinybn.use_fused(fused):
                program = tinybn.program(batch_norm, x, gamma, beta, dy, passes=passes)
            sums = sum(line.op == "sum" for line in program.lines)
            head = f"{name}: {len(program.lines)} lines, {sums} sums"
            columns.append([head, "", *str(program).splitlines()])
        width = max(map(len, columns[0])) + 4
        rows = [f"{a:<{width}}{b}".rstrip() for a, b in zip_longest(*columns, fillvalue="")]
        parts.append("\n".join([f"{title}", "=" * len(title), *rows]))
    return "\n\n".join(parts)


def run_example(name: str, arguments: list[str]) -> None:
    """Run a script of examples/, which a wheel has inside the package and a checkout beside it."""
    package = Path(tinybn.__file__).parent
    folder = next(f for f in (package / "examples", package.parent / "examples") if f.is_dir())
    sys.argv[1:] = arguments
    sys.path.insert(0, str(folder))
    try:
        runpy.run_path(str(folder / f"{EXAMPLES[name]}.py"), run_name="__main__")
    except ModuleNotFoundError as error:
        raise SystemExit(f"{name}: {error}: run `pip install 'tinybn[examples]'`") from error


def main(arguments: list[str] | None = None) -> None:
    """Print or run what was asked for."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack σ and –
    parser = argparse.ArgumentParser(
        prog="python -m tinybn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = ["report", "program", "microscope", "exercises", *EXAMPLES]
    parser.add_argument("command", nargs="?", choices=commands, default="report")
    parser.add_argument("options", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.command in EXAMPLES:
        run_example(asked.command, asked.options)
    elif asked.command == "microscope":
        microscope.main(asked.options)
    elif asked.command == "exercises":
        sys.exit(exercises.main(asked.options))
    elif asked.options:
        parser.error(f"{asked.command} takes no options, got {' '.join(asked.options)}")
    else:
        show = {"report": report, "program": batch_norm_programs}
        sys.stdout.write(show[asked.command]() + "\n")


if __name__ == "__main__":
    main()
