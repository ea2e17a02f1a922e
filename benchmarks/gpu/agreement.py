"""Whether training on CuPy agrees with NumPy, and whether a step waits for the GPU.

The losses of 20 steps on real digits, from one seed, must be those of NumPy to 1e-4. A captured
step must be the same as its kernels one by one, to the last bit.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import tinybn as tb
from benchmarks.gpu.part import Clock

NORMS = ("batch", "none", "layer", "rms", "group")
WAYS = ("eager", "program", "graph")
STEPS, TOLERANCE = 20, 1e-4


def works(clock: Clock) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Every way to run a step, with every norm."""
    norms = ("batch",) if clock.small else NORMS
    for optimizer, norm in itertools.product(("sgd",) if clock.small else ("sgd", "adam"), norms):
        for way in WAYS:
            yield (
                {"norm": norm, "optimizer": optimizer, "way": way},
                partial(agrees, norm, optimizer, way),
            )


def training(norm: str, optimizer: str, way: str, backend: str) -> tuple[Any, list[Any]]:
    """A step, and the batches of real digits to call it with."""
    data = tb.data.load("digits", seed=0)
    with tb.use_backend(backend):
        sizes = [data.features, 64, 64, data.classes]
        model = tb.nn.MLP(sizes, norm, rng=np.random.default_rng(0))
    make: Any = {
        "sgd": lambda ps: tb.optim.SGD(ps, 0.05, momentum=0.9),
        "adam": lambda ps: tb.optim.Adam(ps, 1e-3),
    }[optimizer]
    updates = make(model.parameters())

    def step(x: Any, labels: Any) -> Any:
        updates.zero_grad()
        loss = tb.ops.cross_entropy(model(x), labels)
        loss.backward()
        updates.step()
        return loss

    if way != "eager":
        step = tb.compile(step, backend="graph" if way == "graph" else "numpy")
    size = 64
    batches = [
        (tb.tensor(data.train.x[i : i + size], backend=backend), data.train.y[i : i + size])
        for i in range(0, STEPS * size, size)
    ]
    return step, batches


def agrees(norm: str, optimizer: str, way: str) -> dict[str, Any]:
    """How far the losses are from NumPy's, and what a step costs besides."""
    step, batches = training(norm, optimizer, way, "cupy")
    losses = [step(*batch) for batch in batches]
    expected, host_batches = training(norm, optimizer, "eager", "numpy")
    reference = np.array([expected(*batch).item() for batch in host_batches])
    found = np.array([loss.item() for loss in losses])
    worst = float(np.abs(found / reference - 1).max())
    row = {"largest_difference": worst, "right": worst < TOLERANCE, **waits(step, batches[0])}
    if way == "graph":
        row |= same_bits(norm, optimizer, [loss.item() for loss in losses])
    return row


def waits(step: Any, batch: Any) -> dict[str, Any]:
    """Whether CuPy saw the host wait in a step."""
    import cupyx

    try:
        with cupyx.allow_synchronize(False):
            step(*batch)
    except cupyx.DeviceSynchronized as error:
        return {"waits": True, "right": False, "where": str(error)}
    return {"waits": False}


@contextlib.contextmanager
def uncaptured() -> Iterator[None]:
    """Steps that would be captured in this block launch their kernels one by one."""
    from tinybn.program.capture import Captured

    def capture(machine: Any) -> None:
        machine._graph = machine

    def launch(machine: Any) -> None:
        with machine._aside():
            machine._results = machine._step(*machine._values, *machine._loaded)

    kind: Any = Captured
    before = kind._capture
    kind._capture, kind.launch = capture, launch
    try:
        yield
    finally:
        kind._capture = before
        del kind.launch


def same_bits(norm: str, optimizer: str, captured: list[float]) -> dict[str, Any]:
    """The captured losses beside those of the same kernels, launched one by one."""
    step, batches = training(norm, optimizer, "graph", "cupy")
    with uncaptured():
        losses = [step(*batch).item() for batch in batches]
    alike = losses == captured
    lines = step.latest.machine.source.count("\n    ")
    return {"same_bits": alike, "lines": lines} | ({} if alike else {"right": False})
