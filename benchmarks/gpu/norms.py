"""Norms alone, forward and backward: the bandwidth that they reach, beside a copy on the device.

A norm has to read x and write y, and on its way back to read x and dy and write dx: five arrays. A
copy moves two. Whatever else an implementation moves makes its bandwidth lower.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import norm
from benchmarks.gpu.part import Clock
from benchmarks.gpu.timing import milliseconds

SHAPES = ((4096, 1024), (65536, 1024), (65536, 4096), (256, 256), (1024, 1024), (8192, 8192))
OPS = ("batch", "layer", "rms")
WAYS = ("kernels", "torch", "arrays", "graph of composition")
"""Ours with CuPy's kernels, PyTorch's, ours in array code, and the composition as a CUDA graph."""


def works(clock: Clock) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """A copy, then every norm in every way, for each shape."""
    seconds = 0.05 if clock.small else 0.3
    has_torch = importlib.util.find_spec("torch") is not None
    for shape in ((32, 16),) if clock.small else SHAPES:
        size = {"rows": shape[0], "width": shape[1]}
        yield {**size, "op": "copy"}, partial(copy, shape, seconds)
        for op in OPS:
            for way in WAYS:
                name = {**size, "op": op, "way": way}
                if way == "torch" and not has_torch:
                    yield name, lambda: {"missing": "not installed"}
                else:
                    yield name, partial(timed, op, way, shape, seconds)


def bandwidth(shape: tuple[int, int], arrays: int, times: dict[str, float]) -> dict[str, float]:
    """The times, and gigabytes per second if so many float32 arrays move."""
    return {**times, "gb_per_s": arrays * 4 * shape[0] * shape[1] / times["ms"] / 1e6}


def copy(shape: tuple[int, int], seconds: float) -> dict[str, Any]:
    """A device-to-device copy of one array."""
    import cupy

    source = cupy.ones(shape, np.float32)
    target = cupy.empty_like(source)
    return bandwidth(shape, 2, milliseconds(lambda: cupy.copyto(target, source), "cupy", seconds))


def timed(op: str, way: str, shape: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Forward and backward of one norm with the gradients of all inputs."""
    given, dy = norm.inputs(op, shape)
    if way == "torch":
        import torch

        if not torch.cuda.is_available():
            return {"missing": "PyTorch has no GPU here"}
        arrays = [torch.from_numpy(a).cuda() for a in (*given, dy)]
        return bandwidth(shape, 5, milliseconds(norm._torch(op, *arrays), "torch", seconds))
    import tinybn as tb

    leaves = [tb.tensor(a, requires_grad=True, backend="cupy") for a in given]
    upstream = tb.tensor(dy, backend="cupy")
    function: Any = norm.gradients_of(op)
    fused = way != "graph of composition"
    if not fused:
        function = tb.compile(function, backend="graph")
    without = array_code() if way == "arrays" else contextlib.nullcontext()
    with tb.use_fused(fused), without:
        return bandwidth(
            shape, 5, milliseconds(lambda: function(*leaves, upstream), "cupy", seconds)
        )


@contextlib.contextmanager
def array_code() -> Iterator[None]:
    """The closed forms without kernels of their own: CuPy runs them as NumPy would."""
    import cupy

    from tinybn.ops import fused

    replaced = [f for f in vars(fused).values() if hasattr(f, "replacements")]
    before = [(f, f.replacements.pop(cupy)) for f in replaced if cupy in f.replacements]
    try:
        yield
    finally:
        for f, kernel in before:
            f.replacements[cupy] = kernel
