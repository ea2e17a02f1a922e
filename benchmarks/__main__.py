"""tinybn beside its peers, in one run: PyTorch eager, JAX, HIPS autograd, MyGrad, and the floor.

The floor is the same training step written by hand in NumPy, without autodiff. Every rival runs in
a process of its own; they take turns, round after round, each turn with a warm-up, and medians over
the rounds are reported; a ratio is the median of the ratios within a round. A turn in which another
process takes a core away is repeated. Rivals that are not installed are skipped. For example

    python -m benchmarks --quick --only mlp norm --threads 1 --rivals floor torch
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import limits, memory, mlp, norm, overhead, report
from benchmarks.worker import Worker

PACKAGES = ("torch", "jax", "autograd", "mygrad")
PARTS = ("mlp", "limits", "norm", "overhead", "chain", "memory")
PATIENCE = 10
"""How often a turn is taken that other processes disturb."""
DISTURBED = 0.02
"""Which part of a turn may be spent waiting for a core."""
OURS = ("tinybn", "floor", "products", "bare", "fused", "composed", *limits.GAUGES)
"""Contestants that need NumPy alone."""


class Bench:
    """How to measure: which rivals, how many rounds, how long a turn."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick: bool = options.quick
        self.threads = sorted({min(t, os.cpu_count() or 1) for t in options.threads})
        self.rounds = options.rounds or (3 if self.quick else 9)
        self.seconds = 0.03 if self.quick else 0.12
        self.disturbed = 0
        installed = [name for name in PACKAGES if importlib.util.find_spec(name)]
        self.rivals = [*OURS, *(name for name in options.rivals if name in installed)]
        self.skipped = [name for name in options.rivals if name not in installed]

    @contextlib.contextmanager
    def workers(self, rivals: Sequence[str], threads: int) -> Iterator[dict[str, Worker]]:
        """A process for each rival that is there."""
        with contextlib.ExitStack() as stack:
            yield {
                rival: stack.enter_context(Worker(rival, threads))
                for rival in rivals
                if rival in self.rivals
            }

    def race(
        self, workers: dict[str, Worker], part: str, spec: dict[str, Any], turn: float = 1
    ) -> dict[str, Any]:
        """What each says of its work, its median and best time, the first's ratio, and busy cores.

        turn: how long one is, as a part of the usual.
        """
        module = f"benchmarks.{part}"
        facts = {rival: worker.ask(module=module, spec=spec) for rival, worker in workers.items()}
        racing = [rival for rival, fact in facts.items() if not fact.get("missing")]
        turns: dict[str, list[dict[str, float]]] = {rival: [] for rival in racing}
        for _ in range(self.rounds):
            for rival in racing:
                turns[rival].append(self.turn(workers[rival], turn * self.seconds))
        times = {rival: np.array([t["seconds"] for t in turns[rival]]) for rival in racing}
        first = times[racing[0]]
        return {
            **spec,
            "facts": facts,
            "seconds": {rival: float(np.median(t)) for rival, t in times.items()},
            "best": {rival: float(t.min()) for rival, t in times.items()},
            "ratios": {rival: float(np.median(first / t)) for rival, t in times.items()},
            "cores": {r: statistics.median(t["cores"] for t in turns[r]) for r in racing},
        }

    def turn(self, worker: Worker, seconds: float) -> dict[str, float]:
        """One turn; again, after a pause, if another process took a core away meanwhile."""
        for _ in range(PATIENCE):
            turn = worker.ask(seconds=seconds)
            if turn["waited"] < DISTURBED:
                break
            self.disturbed += 1
            time.sleep(seconds)
        return turn

    def mlp(self) -> list[dict[str, Any]]:
        """Every net, optimizer and thread count."""
        rows = []
        for threads in self.threads:
            with self.workers(mlp.RIVALS, threads) as workers:
                for optimizer in ("sgd",) if self.quick else ("sgd", "adam"):
                    for name, (sizes, batch) in mlp.NETS.items():
                        spec = {"sizes": sizes, "batch": batch, "optimizer": optimizer}
                        row = self.race(workers, "mlp", spec)
                        mlp.check_losses({r: f["losses"] for r, f in row["facts"].items()})
                        rows.append({"net": name, "threads": threads, **row})
                        progress(f"mlp: {optimizer}, {name}, threads: {threads}")
        return rows

    def limits(self) -> list[dict[str, Any]]:
        """Every net and thread count."""
        rows = []
        for threads in self.threads:
            with self.workers(limits.RIVALS, threads) as workers:
                for name, (sizes, batch) in mlp.NETS.items():
                    spec = {"sizes": sizes, "batch": batch, "optimizer": "sgd"}
                    row = self.race(workers, "limits", spec, turn=1 / 4)
                    rows.append({"net": name, "threads": threads, **row, **limits.explain(row)})
                    progress(f"limits: {name}, threads: {threads}")
        return rows

    def norm(self) -> list[dict[str, Any]]:
        """Every norm, shape and thread count."""
        rows = []
        for threads in self.threads:
            with self.workers(norm.RIVALS, threads) as workers:
                for op in ("batch", "layer"):
                    for shape in norm.SHAPES:
                        row = self.race(workers, "norm", {"op": op, "shape": shape})
                        norm.check_gradients({r: f["dx"] for r, f in row["facts"].items()})
                        rows.append({"threads": threads, **row})
                        progress(f"norm: {op}, {shape}, threads: {threads}")
        return rows

    def overhead(self) -> list[dict[str, Any]]:
        """Every op."""
        rows = []
        with self.workers(overhead.RIVALS, 1) as workers:
            for op in overhead.OPS:
                row = self.race(workers, "overhead", {"op": op})
                per_op = {rival: t / overhead.LENGTH for rival, t in row["seconds"].items()}
                rows.append({**row, "per_op": per_op})
                progress(f"overhead: {op}")
        return rows

    def alone(self, rival: str, spec: dict[str, Any]) -> dict[str, Any]:
        """A measurement in a fresh process."""
        with Worker(rival, 1) as worker:
            return worker.ask(module="benchmarks.memory", spec=spec)

    def chain(self) -> list[dict[str, Any]]:
        """Every length."""
        rows = []
        for op in memory.CHAIN_OPS:
            for length in memory.LENGTHS[: 2 if self.quick else None]:
                spec = {"what": "chain", "op": op, "length": length}
                rivals = [r for r in memory.CHAIN_RIVALS if r in self.rivals]
                rows.append({**spec, "found": {r: self.alone(r, spec) for r in rivals}})
                progress(f"chain: {op}, {length}")
        return rows

    def memory(self) -> list[dict[str, Any]]:
        """Every net."""
        rows = []
        for name, (sizes, batch) in mlp.NETS.items():
            spec = {"what": "step", "sizes": sizes, "batch": batch, "optimizer": "sgd"}
            rivals = [r for r in memory.STEP_RIVALS if r in self.rivals]
            rows.append({"net": name, **spec, "found": {r: self.alone(r, spec) for r in rivals}})
            progress(f"memory: {name}")
        return rows


def progress(text: str) -> None:
    """One line on a terminal, written over by the next."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="\r", file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    """The processor, and what runs on it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    blas: Any = np.show_config(mode="dicts")
    blas = blas["Build Dependencies"]["blas"]
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    for name in PACKAGES:
        if importlib.util.find_spec(name):
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu": found[1] if found else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        **versions,
        "blas": f"{blas['name']} {blas['version']}",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
                        help=f"some of {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--rivals", nargs="*", choices=PACKAGES, default=PACKAGES, metavar="RIVAL",
                        help=f"some of {', '.join(PACKAGES)}, or none")  # fmt: skip
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
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
    bench = Bench(options)
    results: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    for name in bench.skipped:
        print(f"{name} is not installed: skipped. `make bench` installs it.")
    for part in options.only:
        results[part] = getattr(bench, part)()
        progress("")
        print("\n" + report.TABLES[part](results[part]))
    if bench.disturbed:
        print(f"\n{bench.disturbed} turns were repeated: other processes took the cores away")
    results["goals"] = report.goals(results)
    print("\n" + report.goals_table(results["goals"]))
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        write(options.out / "result.json", json.dumps(results, indent=1))
        drawn = report.draw(results, options.out / "bench.png")
    except OSError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(f"\nNumbers: {options.out / 'result.json'}" + (f"; picture: {drawn}" if drawn else ""))
    return 0


def write(path: Path, text: str) -> None:
    """Atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
