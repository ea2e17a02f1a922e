"""How does data-parallel training scale? Count messages, fit a model, predict more ranks.

A step on k ranks computes its part of the batch, and exchanges messages. The script measures steps
and messages on 1 and 2 ranks here, fits the constants of a model, predicts 4 ranks, and measures
these, too. Then it draws what the model says up to 1024 ranks. It takes about a minute, and needs
`pip install 'tinybn[mpi,examples]'`.

    python examples/scaling.py

prints tables and writes scaling.json and scaling.png to the folder --out.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinybn as tb
from lab.figures import OTHERS, panels, save
from lab.files import dumps, replace_unprintable, survives_a_broken_pipe, table, write
from lab.howto import DOCS, publish
from tinybn import distributed
from tinybn.distributed.training import buckets

WIDTHS = (64, 256, 256, 256, 10)
BATCHES = (64, 128, 256)
SIZES = (1_000, 4_000_000)
"""The bytes of the two messages that give latency and bandwidth."""
STRONG, WEAK = 1024, 64
"""The examples of a step on all ranks, and on each."""


class Traffic(NamedTuple):
    """What a rank hands to MPI in a step: its calls, and their bytes by kind."""

    messages: int
    reduced: int
    gathered: int

    @property
    def bytes(self) -> int:
        """All bytes."""
        return self.reduced + self.gathered


def traffic(widths: Sequence[int], itemsize: int = 4, bucket: int = 4 << 20) -> Traffic:
    """The traffic of a step of an MLP whose hidden layers have synchronised batch norm.

    Per norm of C channels: n, the mean in two parts and M2 in float64, gathered; two sums per
    channel, reduced. Then the loss and the gradients. Each message carries a mark, too.
    """
    norms = widths[1:-1]
    sizes = [1]  # the loss
    for i, (n, m) in enumerate(itertools.pairwise(widths)):
        sizes += [n * m, m, m, m] if i < len(norms) else [n * m, m]
    arrays = [tb.tensor(np.empty(size, f"f{itemsize}")) for size in sizes]
    grouped = buckets(arrays, bucket)
    gathered = sum((1 + 3 * c + 1) * 8 for c in norms)
    reduced = sum((2 * c + 1) * itemsize for c in norms)
    reduced += (sum(sizes) + len(grouped)) * itemsize
    return Traffic(2 * len(norms) + len(grouped), reduced, gathered)


class Machine(NamedTuple):
    """The constants of the model; times in seconds, `bandwidth` in bytes per second."""

    fixed: float
    per_example: float
    latency: float
    bandwidth: float
    cores: float = math.inf

    def computing(self, batch: float, ranks: int) -> float:
        """Forward, backward and update of this rank's part; ranks beyond the cores take turns."""
        return (self.fixed + self.per_example * batch / ranks) * max(1.0, ranks / self.cores)

    def messages(self, t: Traffic, ranks: int) -> tuple[float, float]:
        """The time of the norms' messages, and that of the gradients.

        log₂ k rounds have a latency each. All-reduce moves 2 (k - 1) / k times the bytes, and
        all-gather k - 1 times (Thakur, Rabenseifner & Gropp 2005).
        """
        if ranks == 1:
            return 0.0, 0.0
        turns = max(1.0, ranks / self.cores)
        rounds = math.ceil(math.log2(ranks)) * self.latency * turns
        norms = (t.messages - 1) * rounds + (ranks - 1) * t.gathered / self.bandwidth * turns
        gradients = rounds + 2 * (ranks - 1) / ranks * t.reduced / self.bandwidth * turns
        return norms, gradients

    def step(self, batch: float, ranks: int, t: Traffic, overlap: bool = False) -> float:
        """The time of a step; with overlap, gradients travel during the backward half of it."""
        computing = self.computing(batch, ranks)
        norms, gradients = self.messages(t, ranks)
        backward = computing / 2
        return computing + norms + (max(0.0, gradients - backward) if overlap else gradients)


CLUSTER = {"latency": 2e-6, "bandwidth": 1e10}
"""An assumption for the picture: a network of 2 µs and 10 GB/s, a core per rank."""


def measure(seconds: float) -> None:
    """On every rank: time steps and messages. Rank 0 prints them."""
    with distributed.connect() as comm:
        rng = np.random.default_rng(0)
        norms = [
            layer
            for n, m in itertools.pairwise(WIDTHS[:-1])
            for layer in (tb.nn.Linear(n, m, rng=rng), tb.nn.BatchNorm(m, sync=comm), tb.nn.ReLU())
        ]
        model = tb.nn.Sequential(*norms, tb.nn.Linear(*WIDTHS[-2:], rng=rng))
        optimizer = tb.optim.SGD(model.parameters(), 0.01)
        found: dict[str, Any] = {"ranks": comm.size, "steps": {}, "messages": {}}

        def times(call: Callable[[], Any]) -> float:
            """The time of an undisturbed call: the fastest of those that fit into the seconds."""
            spent: list[float] = []
            end = time.perf_counter() + seconds
            while comm.broadcast(b"on" if time.perf_counter() < end or len(spent) < 5 else b""):
                for _ in range(5):
                    start = time.perf_counter()
                    call()
                    spent.append(time.perf_counter() - start)
            return min(spent)

        for batch in BATCHES:
            x = rng.standard_normal((batch // comm.size, WIDTHS[0])).astype(np.float32)
            y = rng.integers(0, WIDTHS[-1], len(x))

            def step(x: Any = x, y: Any = y) -> None:
                optimizer.zero_grad()
                loss = tb.ops.cross_entropy(model(x), y)
                loss.backward()
                distributed.average_gradients(comm, optimizer.params, loss)
                optimizer.step()

            found["steps"][batch] = times(step)
        before = comm.traffic.copy()
        step()
        sent = comm.traffic - before
        found["sent"] = {"messages": sent["messages"], "bytes": sent["bytes"]}
        for size in SIZES:
            message = functools.partial(comm.all_reduce, np.zeros(size // 4, np.float32))
            found["messages"][size] = times(message)
        if comm.rank == 0:
            print("measured", json.dumps(found), flush=True)


def run(ranks: int, seconds: float) -> dict[str, Any]:
    """What `measure` finds on so many ranks."""
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    mpiexec = beside or shutil.which("mpiexec")
    if mpiexec is None:
        raise OSError("there is no mpiexec: run `pip install 'tinybn[mpi]'`")
    done = subprocess.run(  # noqa: S603
        [mpiexec, "-n", str(ranks), sys.executable, __file__, "--measure", str(seconds)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("measured ")]
    if not lines:
        raise OSError(f"mpiexec -n {ranks} failed: {done.stderr or done.stdout}")
    return json.loads(lines[0].removeprefix("measured "))


def fit(one: dict[str, Any], two: dict[str, Any], cores: int) -> Machine:
    """The constants: computing from one rank, messages from two."""
    batches = np.array([float(b) for b in one["steps"]])
    times = np.array([*one["steps"].values()])
    per_example, fixed = np.polyfit(batches, times, 1, w=1 / times)
    if fixed < 0:  # noise
        per_example, fixed = float(np.mean(times / batches)), 0.0
    small, large = two["messages"].values()
    bandwidth = (SIZES[1] - SIZES[0]) / max(large - small, 1e-9)  # 2 (k - 1) / k is 1 for 2 ranks
    return Machine(float(fixed), float(per_example), small, bandwidth, cores)


def compared(
    machine: Machine, runs: Sequence[dict[str, Any]], t: Traffic
) -> list[tuple[int, int, float, float]]:
    """Per run and batch: ranks, batch, the predicted and the measured time of a step."""
    return [
        (r["ranks"], int(b), machine.step(int(b), r["ranks"], t), seconds)
        for r in runs
        for b, seconds in r["steps"].items()
    ]


def plot(machine: Machine, runs: Sequence[dict[str, Any]], t: Traffic, path: Path) -> None:
    """Draw step times: model and measurements here; strong and weak scaling on the cluster."""
    cluster = machine._replace(cores=math.inf, **CLUSTER)
    figure, ((here, strong, weak),) = panels(1, 3, width=12, height=3.8)
    few = [r["ranks"] for r in runs]
    for batch, colour in zip(BATCHES, OTHERS, strict=False):
        model = [1e3 * machine.step(batch, k, t) for k in few]
        here.plot(few, model, color=colour, label=f"batch {batch}")
        here.plot(few, [1e3 * r["steps"][str(batch)] for r in runs], "o", color=colour)
    here.set(title=f"here, on {machine.cores:g} cores: model, and measurements (dots)")
    ranks = [2**i for i in range(11)]
    for axes, batches, title in (
        (strong, [STRONG for _ in ranks], f"strong scaling: {STRONG} examples a step"),
        (weak, [WEAK * k for k in ranks], f"weak scaling: {WEAK} examples a rank"),
    ):
        pairs = list(zip(batches, ranks, strict=True))
        curves = {
            "computing alone": [cluster.computing(b, k) for b, k in pairs],
            "with all messages": [cluster.step(b, k, t) for b, k in pairs],
            "gradients sent during backward": [cluster.step(b, k, t, True) for b, k in pairs],
            "norms not synchronised": [
                cluster.step(b, k, t) - cluster.messages(t, k)[0] for b, k in pairs
            ],
        }
        for (label, seconds), colour, style in zip(
            curves.items(), OTHERS, (":", "-", "--", "-."), strict=False
        ):
            axes.plot(ranks, [1e3 * s for s in seconds], style, color=colour, label=label)
        axes.set(title=title)
    for axes in (here, strong, weak):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="ranks", yscale="log")
        axes.title.set_fontsize(9)
        axes.legend(frameon=False, fontsize=7)
    here.set_xticks(few, map(str, few))
    here.set_ylabel("milliseconds a step")
    save(figure, path, "A step of data-parallel training, and what a model says of it")


def report(result: dict[str, Any]) -> str:
    """The tables: traffic, constants, the steps here, and the steps on the cluster."""
    t, machine = Traffic(**result["traffic"]), Machine(**result["machine"])
    sent = result["runs"][1]["sent"]
    head = (
        f"a step of the MLP {'-'.join(map(str, WIDTHS))} sends\n"
        f"    by the formula  {t.messages} messages, {t.bytes} bytes\n"
        f"    counted         {sent['messages']} messages, {sent['bytes']} bytes\n"
        f"computing takes {1e3 * machine.fixed:.2f} ms + {1e6 * machine.per_example:.1f} µs an "
        f"example (fitted on 1 rank)\n"
        f"a message takes {1e6 * machine.latency:.0f} µs + 1 s per {machine.bandwidth / 1e9:.2f} "
        "GB (fitted on 2 ranks)\n"
    )
    if result["busy"] > machine.cores / 2:
        head += (
            f"{result['busy']} other processes ran on {machine.cores:g} cores meanwhile, and ranks "
            "waited for\nthem at every message: the measured times are no test of the model\n"
        )
    steps = [
        (str(ranks), str(batch), f"{1e3 * predicted:.2f} ms", f"{1e3 * measured:.2f} ms")
        for ranks, batch, predicted, measured in result["steps"]
    ]
    cluster = machine._replace(cores=math.inf, **CLUSTER)
    far = [
        (
            str(k),
            *(
                f"{1e3 * cluster.step(batch, k, t, overlap):.2f} ms"
                for batch in (STRONG, WEAK * k)
                for overlap in (False, True)
            ),
        )
        for k in (1, 4, 16, 64, 256, 1024)
    ]
    names = (f"{STRONG} a step", "overlapped", f"{WEAK} a rank", "overlapped")
    return "\n".join(
        [
            head,
            table([("ranks", "batch", "predicted", "measured"), *steps]),
            "",
            f"predicted on a cluster with {1e6 * CLUSTER['latency']:.0f} µs and "
            f"{CLUSTER['bandwidth'] / 1e9:.0f} GB/s:",
            table([("ranks", *names), *far]),
        ]
    )


@survives_a_broken_pipe
def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    replace_unprintable()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure each thing for")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--publish", action="store_true", help="write docs/howto, too")
    options = parser.parse_args(arguments)
    if options.measure is not None:
        measure(options.measure)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    try:
        runs = [run(k, options.seconds) for k in (1, 2, 4)]
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2
    t = traffic(WIDTHS)
    machine = fit(runs[0], runs[1], os.cpu_count() or 1)
    steps = compared(machine, runs, t)
    result = {
        "traffic": t._asdict(),
        "machine": machine._asdict(),
        "busy": round(busy, 1),
        "runs": runs,
        "steps": steps,
    }
    print(report(result))
    for folder in (options.out, *([DOCS] if options.publish else [])):
        write(folder / "scaling.json", dumps(result, indent=1) + "\n")
        plot(machine, runs, t, folder / "scaling.png")
    if options.publish:
        publish(DOCS / "distributed.md", "scaling", report(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
