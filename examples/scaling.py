"""How does data-parallel training scale? Count its messages, fit a model, predict other rank counts.

A step on k ranks takes the computing of its part of the batch, and its messages. The script measures
steps and messages on 1 and 2 ranks here, fits the constants of a model, predicts 4 ranks, and
measures these, too. Then it draws what the model says up to 1024 ranks. It takes about a minute, and
needs `pip install 'tinybn[mpi,examples]'`.

    python examples/scaling.py

prints a table and writes result.json and scaling.png to the folder --out.
"""

from __future__ import annotations

import argparse
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
from tinybn import distributed

WIDTHS = (64, 256, 256, 256, 10)
BATCH = 256
BATCHES = (64, 128, 256)
SIZES = (1_000, 4_000_000)
"""The bytes of the two messages that give latency and bandwidth."""
COLUMNS = ("ranks", "batch", "predicted", "measured")


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
    sizes = [1]
    for n, m in zip(widths, widths[1:], strict=False):
        sizes += [n * m, m] + ([m, m] if m in norms and len(sizes) < 4 * len(norms) + 1 else [])
    grouped = distributed.training.buckets(
        [tb.tensor(np.empty(n, f"f{itemsize}")) for n in sizes], bucket
    )
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
            for n, m in zip(WIDTHS, WIDTHS[1:-1], strict=False)
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
            array = np.zeros(size // 4, np.float32)
            found["messages"][size] = times(lambda array=array: comm.all_reduce(array))
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
    """Draw step times: the fit here, and strong and weak scaling on the assumed cluster."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cluster = machine._replace(cores=math.inf, **CLUSTER)
    ranks = [2**i for i in range(11)]
    figure, (here, strong, weak) = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    few = [1, 2, 4]
    for batch, colour in zip(BATCHES, ("#0072B2", "#D55E00", "#009E73"), strict=True):
        here.plot(few, [1e3 * machine.step(batch, k, t) for k in few], color=colour, label=f"batch {batch}")
        here.plot(few, [1e3 * r["steps"][str(batch)] for r in runs], "o", color=colour)
    here.set(title=f"here, on {machine.cores:g} cores: model and measurements", xticks=few)
    here.set_xscale("log", base=2)
    for axes, batch_of, title in (
        (strong, lambda k: 1024, "strong scaling: 1024 examples a step"),
        (weak, lambda k: 64 * k, "weak scaling: 64 examples a rank"),
    ):
        for label, cost, style in (
            ("computing alone", lambda k: cluster.computing(batch_of(k), k), ":"),
            ("with all messages", lambda k: cluster.step(batch_of(k), k, t), "-"),
            ("gradients sent during backward", lambda k: cluster.step(batch_of(k), k, t, True), "--"),
            ("without synchronised norms", lambda k: cluster.step(batch_of(k), k, t) - cluster.messages(t, k)[0], "-."),
        ):
            axes.plot(ranks, [1e3 * cost(k) for k in ranks], style, label=label)
        axes.set_xscale("log", base=2)
        axes.set_title(title)
    for axes in (here, strong, weak):
        axes.set(xlabel="ranks", yscale="log")
        axes.title.set_fontsize(9)
        axes.legend(frameon=False, fontsize=7)
    here.set_ylabel("milliseconds a step")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure each thing for")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    options = parser.parse_args(arguments)
    if options.measure is not None:
        measure(options.measure)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        runs = [run(k, options.seconds) for k in (1, 2, 4)]
    except OSError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2
    t = traffic(WIDTHS)
    machine = fit(runs[0], runs[1], os.cpu_count() or 1)
    rows = compared(machine, runs, t)
    print(
        f"a step of the MLP {'-'.join(map(str, WIDTHS))}: {t.messages} messages, {t.bytes} bytes "
        f"(counted: {runs[1]['sent']['messages']} and {runs[1]['sent']['bytes']})\n"
        f"computing {1e3 * machine.fixed:.2f} ms + {1e6 * machine.per_example:.1f} µs an example; "
        f"a message {1e6 * machine.latency:.0f} µs + 1 s per {machine.bandwidth / 1e9:.2f} GB\n"
    )
    print("".join(f"{name:>12}" for name in COLUMNS))
    for ranks, batch, predicted, measured in rows:
        print(f"{ranks:12}{batch:12}{1e3 * predicted:9.2f} ms{1e3 * measured:9.2f} ms")
    cluster = machine._replace(cores=math.inf, **CLUSTER)
    for ranks in (4, 64, 1024):
        strong, weak = (cluster.step(b, ranks, t) for b in (1024, 64 * ranks))
        print(f"predicted on {ranks} ranks of the cluster: {1e3 * strong:.2f} ms for 1024 examples, {1e3 * weak:.2f} ms for 64 a rank")
    result = {"traffic": t._asdict(), "machine": machine._asdict(), "runs": runs, "steps": rows}
    (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(machine, runs, t, options.out / "scaling.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
