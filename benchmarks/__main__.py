"""tinybn beside its peers, in one run: eager, compiled, and compiled from primitive ops alone.

The rivals are PyTorch (eager, and `torch.compile`), `jax.jit`, PyTensor's Numba mode, HIPS
autograd, MyGrad, and the floor: the same training step by hand in NumPy, without autodiff. Each
rival runs in its own process. They take turns, round after round, each with a warm-up. A time is
the median over the rounds, and a ratio is the median of the ratios within a round. A turn is
repeated if another process took a core away. Rivals that are not installed are skipped. For example

    python -m benchmarks --quick --nets 2 --only mlp norm --threads 1 --rivals torch
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import goals, picture, report
from benchmarks.bench import RIVALS, Bench


def progress(text: str) -> None:
    """Show one line on a terminal; the next call overwrites it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="\r", file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    """The processor, the system and the versions."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"model name\s*: (.+)", text)
    blas: Any = np.show_config(mode="dicts")
    blas = blas["Build Dependencies"]["blas"]
    return {
        "cpu": found[1] if found else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack µ and –
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=report.TABLES, default=report.TABLES,
                        metavar="PART", help=f"some of {', '.join(report.TABLES)}")  # fmt: skip
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=RIVALS, metavar="RIVAL",
                        help=f"some of {', '.join(RIVALS)}, or none")  # fmt: skip
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--nets", type=int, metavar="N", help="only the first N networks")
    parser.add_argument("--python", nargs="+", default=[], metavar="RIVAL=PATH",
                        help="another interpreter for a rival")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=0, help="9 (3 with --quick)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="short turns, SGD only, no long chains: rough, for development",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    options = parser.parse_args(arguments)
    if min(options.threads) < 1 or options.rounds < 0:
        parser.error("--threads and --rounds must be at least 1")
    if not all("=" in item for item in options.python):
        parser.error("--python takes RIVAL=PATH")
    bench = Bench(options)
    results: dict[str, Any] = {"machine": machine() | bench.versions}
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items() if value))
    for part in options.only:
        results[part] = []
        for row in getattr(bench, part)():
            results[part].append(row)
            progress(f"{part}: {len(results[part])}")
        progress("")
        if results[part]:
            print("\n" + report.TABLES[part](results[part]))
    for rival, reason in bench.missing.items():
        print(f"\n{rival} was skipped: {reason}")
    if bench.disturbed:
        print(f"\n{bench.disturbed} turns were repeated because other processes took cores away")
    results["goals"] = goals.goals(results)
    print("\n" + goals.goals_table(results["goals"]))
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        write(options.out / "result.json", json.dumps(results, indent=1))
        drawn = picture.draw(results, options.out / "bench.png")
    except OSError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(f"\nNumbers: {options.out / 'result.json'}" + (f"; picture: {drawn}" if drawn else ""))
    return 0


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
