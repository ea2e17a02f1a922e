"""How the benchmark measures: rivals in processes of their own take turns."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import tinybn
from benchmarks import accuracy, compiling, memory, mlp, norm, overhead
from benchmarks.worker import Worker

RIVALS = ("torch", "torch.compile", "jax", "pytensor", "autograd", "mygrad")
PATIENCE = 10
"""The number of attempts at a turn that other processes disturb."""
DISTURBED = 0.02
"""The largest fraction of a turn that may be spent waiting for a core."""
OURS = ("eager", "floor", "products")
"""Contestants that need only NumPy."""
COMPILED = ("compiled", "composition", *compiling.RIVALS)
"""Contestants that also need Numba."""


class Bench:
    """The rivals, the number of rounds, and the length of a turn."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick: bool = options.quick
        self.threads = sorted({min(t, os.cpu_count() or 1) for t in options.threads})
        self.rounds = options.rounds or (3 if self.quick else 9)
        self.seconds = 0.03 if self.quick else 0.12
        self.disturbed = 0
        self.nets = dict(list(mlp.NETS.items())[: options.nets])
        self.optimizers = ("sgd",) if self.quick else ("sgd", "adam")
        self.pythons: dict[str, str] = dict(item.split("=", 1) for item in options.python)
        self.missing: dict[str, str] = {}
        self.rivals = [*OURS]
        if hasattr(tinybn, "compile") and importlib.util.find_spec("numba"):
            self.rivals += COMPILED
        else:
            self.missing["compiled"] = "it needs numba, which `make bench` installs"
        self.versions: dict[str, str] = {}
        for rival in options.rivals:
            package = rival.partition(".")[0]
            version = self.versions[package] = _version(package, self.python(rival))
            if version:
                self.rivals.append(rival)
            else:
                self.missing[rival] = "it is not installed; `make bench` does that"

    def python(self, rival: str) -> str:
        """The interpreter that a rival runs in."""
        return self.pythons.get(rival, sys.executable)

    @contextlib.contextmanager
    def workers(self, rivals: Sequence[str], threads: int) -> Iterator[dict[str, Worker]]:
        """A process for each rival that is installed."""
        with contextlib.ExitStack() as stack:
            yield {
                rival: stack.enter_context(Worker(rival, threads, self.python(rival)))
                for rival in rivals
                if rival in self.rivals
            }

    def race(self, workers: dict[str, Worker], part: str, spec: dict[str, Any]) -> dict[str, Any]:
        """For each rival: what it says of its work, the times of its turns, and its busy cores."""
        facts = {
            rival: worker.ask(module=f"benchmarks.{part}", spec=spec)
            for rival, worker in workers.items()
        }
        racing = [rival for rival, fact in facts.items() if not fact.get("missing")]
        turns: dict[str, list[dict[str, float]]] = {rival: [] for rival in racing}
        for _ in range(self.rounds):
            for rival in racing:
                turns[rival].append(self.turn(workers[rival], self.seconds))
        return {
            **spec,
            "facts": facts,
            "times": {rival: [t["seconds"] for t in turns[rival]] for rival in racing},
            "cores": {r: statistics.median(t["cores"] for t in turns[r]) for r in racing},
        }

    def turn(self, worker: Worker, seconds: float) -> dict[str, float]:
        """One turn, repeated after a pause if another process took a core away."""
        for _ in range(PATIENCE):
            turn = worker.ask(seconds=seconds)
            if turn["waited"] < DISTURBED:
                break
            self.disturbed += 1
            time.sleep(seconds)
        return turn

    def alone(
        self, rival: str, module: str, spec: dict[str, Any], **environment: str
    ) -> dict[str, Any]:
        """A measurement in a fresh process."""
        with Worker(rival, 1, self.python(rival), **environment) as worker:
            return worker.ask(module=f"benchmarks.{module}", spec=spec)

    def mlp(self) -> Iterator[dict[str, Any]]:
        """Every net, optimizer and thread count."""
        for threads in self.threads:
            with self.workers(mlp.RIVALS, threads) as workers:
                for optimizer in self.optimizers:
                    for name, (sizes, batch) in self.nets.items():
                        spec = {"sizes": sizes, "batch": batch, "optimizer": optimizer}
                        row = self.race(workers, "mlp", spec)
                        mlp.check_losses({r: row["facts"][r]["losses"] for r in row["times"]})
                        self.missing |= {
                            r: f["missing"] for r, f in row["facts"].items() if "missing" in f
                        }
                        yield {"net": name, "threads": threads, **row}

    def norm(self) -> Iterator[dict[str, Any]]:
        """Every norm, shape and thread count."""
        for threads in self.threads:
            with self.workers(norm.RIVALS, threads) as workers:
                for op in norm.OPS:
                    for shape in norm.SHAPES:
                        row = self.race(workers, "norm", {"op": op, "shape": shape})
                        norm.check_gradients({r: row["facts"][r]["dx"] for r in row["times"]})
                        yield {"threads": threads, **row}

    def compiling(self) -> Iterator[dict[str, Any]]:
        """Every net."""
        if "compiled" not in self.rivals:
            return
        for name, (sizes, batch) in self.nets.items():
            spec = {"sizes": sizes, "batch": batch, "optimizer": "sgd"}
            wider = {**spec, "sizes": compiling.wider(sizes)}
            row: dict[str, Any] = {"net": name, "call": None}
            with tempfile.TemporaryDirectory() as folder:
                for case, of in (("cold", spec), ("warm", spec), ("wider", wider)):
                    row[case] = self.alone("compiled", "compiling", of, TINYBN_CACHE=folder)
            if name in compiling.CALLED:
                with self.workers(compiling.RIVALS, 1) as workers:
                    times = self.race(workers, "compiling", spec)["times"]
                once, twice = (np.array(times[rival]) for rival in compiling.RIVALS)
                row["call"] = float(np.median(2 * once - twice))
            yield row

    def accuracy(self) -> Iterator[dict[str, Any]]:
        """Every norm and net."""
        specs = [{"op": op, "shape": shape, "mean": mean} for op, shape, mean in accuracy.NORMS]
        cases = {f"{s['op']} {s['shape']}, mean {s['mean']:.0f}": s for s in specs}
        cases |= {name: {"sizes": sizes, "batch": n} for name, (sizes, n) in self.nets.items()}
        ways = [way for way in accuracy.WAYS if way in self.rivals]
        for case, spec in cases.items():
            found = self.alone("eager", "accuracy", {"ways": ways, "spec": spec})
            yield {"case": case, "found": found}

    def memory(self) -> Iterator[dict[str, Any]]:
        """Every net."""
        for name, (sizes, batch) in self.nets.items():
            spec = {"what": "step", "sizes": sizes, "batch": batch, "optimizer": "sgd"}
            rivals = [r for r in memory.STEP_RIVALS if r in self.rivals]
            found = {r: self.alone(r, "memory", spec)["resident"] for r in rivals}
            yield {"net": name, "found": found}

    def overhead(self) -> Iterator[dict[str, Any]]:
        """Every op."""
        with self.workers(overhead.RIVALS, 1) as workers:
            for op in overhead.OPS:
                yield {"length": overhead.LENGTH, **self.race(workers, "overhead", {"op": op})}

    def chain(self) -> Iterator[dict[str, Any]]:
        """Every length."""
        rivals = [r for r in memory.CHAIN_RIVALS if r in self.rivals]
        for op in memory.CHAIN_OPS:
            for length in memory.LENGTHS[: 2 if self.quick else None]:
                spec = {"op": op, "length": length}
                found = {r: self.alone(r, "memory", {"what": "chain", **spec}) for r in rivals}
                yield {**spec, "found": found}


def _version(package: str, python: str) -> str:
    """The version of a package in an interpreter, or "" if it is not installed."""
    ask = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    command = [python, "-c", ask, package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
