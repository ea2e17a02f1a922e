"""What runs a recorded step: Numba's loops, the printed program, or a CUDA graph."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import warnings
from typing import Any

from tinybn.backend import module
from tinybn.program.capture import Captured
from tinybn.program.passes import exact, relaxed
from tinybn.program.recorded import refused
from tinybn.program.source import OnNumPy
from tinybn.program.step import STEP, Step

OLDEST_NUMBA = "0.62"
"""The LLVM of older ones ends the process when it meets the larger of two floats."""

BACKENDS = ("numba", "numpy", "graph")


def machine(step: Step, backend: str, wanted: str) -> tuple[Any, dict[int, int]]:
    """What runs a recorded step, and for each output written over an input, that input."""
    if (backend, wanted) == ("numpy", "numba") and _has_numba():
        from tinybn.program.machine import Machine

        return Machine(relaxed(step.program), step.homes), step.homes
    if wanted == "graph":
        if backend != "cupy":
            raise refused(
                "backend='graph' is for steps on CuPy arrays: move the model to CuPy", STEP
            )
        return Captured(step), step.homes
    return OnNumPy(exact(step.program), module(backend)), {}


@functools.cache
def _has_numba() -> bool:
    """Whether there is a Numba that may be used. Importing it would take half a second."""
    try:
        found = importlib.metadata.version("numba")
        if _numbers(found) >= _numbers(OLDEST_NUMBA):
            return True
        problem = f"Numba {found} is older than {OLDEST_NUMBA}"
    except importlib.metadata.PackageNotFoundError:
        problem = "Numba is not installed"
    warnings.warn(
        f"compiled steps run on NumPy, without loops of their own, since {problem}: "
        "pip install 'tinybn[compile]'",
        stacklevel=6,
    )
    return False


def _numbers(version: str) -> list[int]:
    return [*map(int, re.findall(r"\d+", version)[:2])]
