"""Check and time tinybn on a GPU, in one run of ten minutes.

    python -m benchmarks.gpu --out runs/gpu

Any Python ≥ 3.11 with NumPy, CuPy, pytest, scikit-learn and matplotlib will do. PyTorch and JAX
with CUDA are rivals where they are installed. It writes nothing outside the folder --out, and needs
no network. Each part is a process of its own with a share of the time, so an error, or a part that
takes too long, costs the others nothing. The results, gpu.json, are written after every line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import table
from tinybn import backend
from tinybn.__main__ import report

PARTS = {
    "agreement": (0.10, "NumPy and CuPy train alike, eager and captured; what waits and launches"),
    "steps": (0.42, "training steps, ours and the rivals'"),
    "norms": (0.14, "the bandwidth of the norms, beside a copy"),
    "errors": (0.06, "float32 errors"),
    "errors_tf32": (0.02, "float32 errors with TF32"),
    "suite": (0.26, "the tests on CuPy"),
}
"""In this order: for each, its share of the time, and what it is about."""

ROOT = Path(__file__).parents[2]
STAND_IN = str(ROOT / "tools" / "cupy-on-cpu" / "run.py")


def settings(out: Path) -> dict[str, str]:
    """Environment variables that keep everything that is written in `out`."""
    folders = {
        "TMPDIR": "tmp",
        "XDG_CACHE_HOME": "cache",
        "CUPY_CACHE_DIR": "cache/cupy",
        "NUMBA_CACHE_DIR": "cache/numba",
        "TORCHINDUCTOR_CACHE_DIR": "cache/inductor",
        "TRITON_CACHE_DIR": "cache/triton",
        "MPLCONFIGDIR": "cache/matplotlib",
        "HYPOTHESIS_STORAGE_DIRECTORY": "cache/hypothesis",
        "PYTHONPYCACHEPREFIX": "cache/python",
    }
    found = {name: str(out / folder) for name, folder in folders.items()}
    for folder in found.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    caches = os.environ.get("XDG_CACHE_HOME", Path("~/.cache").expanduser())
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return found | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # leaves memory for the others
        "CUPY_ON_CPU_CACHE": os.environ.get("CUPY_ON_CPU_CACHE", f"{caches}/cupy-on-cpu"),
    }


def on_cpu() -> bool:
    """Whether CuPy runs on the CPU here."""
    return "on cupy-on-cpu" in report()


class Results:
    """All results so far, and the file that holds them."""

    def __init__(self, out: Path, about: dict[str, Any]) -> None:
        self.path = out / "gpu.json"
        self.content: dict[str, Any] = {**about, "parts": {}}
        self.save()

    def save(self) -> None:
        """Write the file atomically."""
        new = self.path.with_suffix(".tmp")
        new.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        os.replace(new, self.path)

    def run(self, part: str, seconds: float, small: bool, environment: dict[str, str]) -> None:
        """Run a part in a process of its own, and keep what it reports even if it has to end."""
        found: dict[str, Any] = {"rows": [], "seconds": 0.0, "ended": "running"}
        self.content["parts"][part] = found
        start = time.monotonic()
        command = [sys.executable, *[STAND_IN] * on_cpu()]
        command += ["-m", "benchmarks.gpu.part", part, f"{seconds:.0f}"]
        with (
            open(self.path.with_name(f"{part}.log"), "w", encoding="utf-8") as log,
            subprocess.Popen(
                [*command, *["--small"] * small],
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env=os.environ | environment | {"CUPY_TF32": str(int(part == "errors_tf32"))},
                cwd=ROOT,
            ) as process,
        ):
            late = threading.Timer(1.25 * seconds + 20, process.kill)
            late.start()
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    found["rows"].append(json.loads(line))
                    found["seconds"] = round(time.monotonic() - start, 1)
                    self.save()
            code = process.wait()
            late.cancel()
        found["seconds"] = round(time.monotonic() - start, 1)
        found["ended"] = "complete" if code == 0 else f"exit {code}: see {part}.log"
        self.save()


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        "benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu"), help="the folder for the results"
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="the time for all parts together"
    )
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--small", action="store_true", help="tiny sizes: does everything run?")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes: expected more than 0, got {options.minutes:g}")
    out = options.out.absolute()
    environment = settings(out)
    os.environ.update({k: v for k, v in environment.items() if k != "PYTHONPATH"})
    problem = backend.problems()["cupy"]
    if problem is not None:
        print(f"benchmarks.gpu: {problem}", file=sys.stderr)
        return 1
    about = report()
    if on_cpu() and not options.small:
        print("benchmarks.gpu: CuPy has no GPU here: only --small makes sense", file=sys.stderr)
        return 1
    results = Results(out, {"report": about.splitlines(), "small": options.small})
    print(about)
    start = time.monotonic()
    for n, part in enumerate(options.parts):
        left = 60 * options.minutes - (time.monotonic() - start)
        shares = [PARTS[p][0] for p in options.parts[n:]]
        print(f"\n{part}: {PARTS[part][1]}", flush=True)
        results.run(part, max(left * shares[0] / sum(shares), 5), options.small, environment)
        found = results.content["parts"][part]
        print(table.text(part, found["rows"]))
        print(f"({found['seconds']:.0f} s, {found['ended']})", flush=True)
    results.content["answers"] = table.answers(results.content["parts"])
    results.save()
    print("", *results.content["answers"], f"written to {options.out}: gpu.json", sep="\n")
    wrong = [p for p, found in results.content["parts"].items() if table.failed(p, found)]
    print(f"failed: {', '.join(wrong)}" if wrong else "nothing failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
