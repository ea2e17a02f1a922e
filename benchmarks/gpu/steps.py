"""Training steps of MLPs with batch norm, by SGD and Adam, beside PyTorch and JAX."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks import rivals
from benchmarks.gpu.part import Clock
from benchmarks.gpu.timing import milliseconds
from benchmarks.mlp import NETS, weights_and_batches

LARGE: dict[str, tuple[list[int], int]] = {
    "784-2048×2-10 @1024": ([784, 2048, 2048, 10], 1024),
    "1024×8 hidden @2048": ([1024] * 9 + [10], 2048),
    "784-4096×3-10 @2048": ([784, 4096, 4096, 4096, 10], 2048),
    "784-8192×2-10 @4096": ([784, 8192, 8192, 10], 4096),
}
SMALL: dict[str, tuple[list[int], int]] = {"4-8-8-3 @16": ([4, 8, 8, 3], 16)}

ROUNDS = (("graph", "program", "eager"), ("torch", "jax"), ("torch.compile",))
"""What is timed first: ours everywhere, then rivals; torch.compile takes long to compile."""

OURS = ("graph", "program", "eager")
CHECKED_STEPS = 3


def works(clock: Clock) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Every network, optimizer and rival."""
    nets = SMALL if clock.small else NETS | LARGE
    missing = [r for r in ("torch", "jax") if importlib.util.find_spec(r) is None]
    for optimizer, chosen in itertools.product(("sgd", "adam"), ROUNDS):
        for net, rival in itertools.product(nets, chosen):
            name = {"net": net, "optimizer": optimizer, "rival": rival}
            if rival.partition(".")[0] in missing:
                yield name, lambda: {"missing": "not installed"}
            else:
                yield (
                    name,
                    partial(timed, rival, nets[net], optimizer, 0.05 if clock.small else 0.4),
                )


def timed(rival: str, net: tuple[list[int], int], optimizer: str, seconds: float) -> dict[str, Any]:
    """The time of a step, and its first losses, which must be the same for all."""
    sizes, batch = net
    weights, batches = weights_and_batches(sizes, batch)
    framework = "cupy" if rival in OURS else rival.partition(".")[0]
    if framework == "cupy":
        step, given = ours(rival, weights, optimizer, batches)
    elif framework == "torch":
        step, given = torch(rival, weights, optimizer, batches)
    else:
        import jax
        import jax.numpy as jnp

        if jax.default_backend() == "cpu":
            return {"missing": "JAX has no GPU here"}
        step = rivals.jax(weights, optimizer)
        given = [tuple(map(jnp.asarray, b)) for b in batches]
    if step is None:
        return {"missing": given}
    ring = itertools.cycle(given)
    losses = [float(step(*next(ring))) for _ in range(CHECKED_STEPS)]
    return {"losses": losses, **milliseconds(lambda: step(*next(ring)), framework, seconds)}


def ours(rival: str, weights: Any, optimizer: str, batches: Any) -> tuple[Any, Any]:
    """tinybn's step on CuPy: op by op, as a program, or as a CUDA graph. Labels are the host's."""
    import cupy

    import tinybn as tb

    with tb.use_backend("cupy"):
        step = rivals.tinybn([cupy.asarray(w) for w in weights], optimizer)
    if rival != "eager":
        step = tb.compile(step, backend="graph" if rival == "graph" else "numpy")
    given = [(tb.tensor(x, backend="cupy"), labels) for x, labels in batches]
    return step, given


def torch(rival: str, weights: Any, optimizer: str, batches: Any) -> tuple[Any, Any]:
    """PyTorch eager, or by Inductor with CUDA graphs."""
    import torch as framework

    if not framework.cuda.is_available():
        return None, "PyTorch has no GPU here"
    step = rivals.torch(weights, optimizer, device="cuda")
    given = [tuple(framework.from_numpy(a).cuda() for a in b) for b in batches]
    if rival == "torch.compile":
        step = framework.compile(step, mode="reduce-overhead")
    return step, given
