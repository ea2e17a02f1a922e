"""NumPy or CuPy: which library owns an array, moving arrays, and why CuPy can't be used.

The array decides: `MODULES[type(array)]` is its library, and nothing else in tinybn asks whether
there is a GPU. CuPy is imported when the first of its arrays is wanted, and never before.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""A `numpy.ndarray` or a `cupy.ndarray` (CuPy may be absent, so no type can name it)."""

NAMES = ("numpy", "cupy")


class BackendUnavailableError(RuntimeError):
    """The array library that was asked for is not installed, or can't run on this machine."""


class BackendMismatchError(TypeError):
    """Arrays of two libraries met in one op."""


class _Modules(dict[type, ModuleType | None]):
    """From the type of an op's argument to the library that owns it; None for plain numbers."""

    def __missing__(self, kind: type) -> ModuleType | None:
        if kind.__module__.partition(".")[0] == "cupy" and kind.__name__ == "ndarray":
            self[kind] = sys.modules["cupy"]
        elif issubclass(kind, np.generic | float | int):
            self[kind] = None
        else:
            raise TypeError(
                f"expected a Tensor, an array or a number, got {kind.__name__}: "
                "make a Tensor of it with tb.tensor(...)"
            )
        return self[kind]


MODULES = _Modules({np.ndarray: np, float: None, int: None, bool: None})


def name_of(array: Array) -> str:
    """The backend that owns `array`: "numpy" or "cupy"."""
    return (MODULES[type(array)] or np).__name__


def module(name: str) -> ModuleType:
    """The array library called `name`; `BackendUnavailableError` says why it can't be had."""
    if name == "numpy":
        return np
    if name == "cupy":
        return _cupy()
    raise ValueError(f"unknown backend {name!r}: expected one of {', '.join(map(repr, NAMES))}")


def move(array: Array, name: str) -> Array:
    """`array` itself if `name` owns it already, otherwise a copy of it there."""
    xp = module(name)
    source = MODULES[type(array)] or np
    if source is xp:
        return array
    return xp.asarray(array) if source is np else source.asnumpy(array)


_default: ContextVar[str | None] = ContextVar("tinybn_backend", default=None)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """New tensors and layers of this block (and this thread) live on `name`."""
    module(name)
    token = _default.set(name)
    try:
        yield
    finally:
        _default.reset(token)


def default() -> str | None:
    """The backend that `use_backend` chose, or None outside of it."""
    return _default.get()


@functools.cache
def _cupy() -> ModuleType:
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise BackendUnavailableError(_import_failure(error)) from error
        raise BackendUnavailableError(
            "CuPy is not installed: run `pip install 'cupy-cuda13x[ctk]'` (NVIDIA driver 580.65 or "
            "newer) or `pip install 'cupy-cuda12x[ctk]'` (525.60 or newer)"
        ) from None
    except ImportError as error:
        raise BackendUnavailableError(_import_failure(error)) from error
    try:
        cupy.cuda.runtime.getDeviceCount()
        # Counting devices proves little: run a matrix product (cuBLAS) and a kernel (NVRTC).
        ones = cupy.ones((2, 2), dtype=np.float32)
        float((ones @ ones + 1).sum())
    except Exception as error:
        raise BackendUnavailableError(_cause(cupy.cuda.runtime, error)) from error
    MODULES[cupy.ndarray] = cupy
    return cupy


def _import_failure(error: ImportError) -> str:
    return f"CuPy is installed but can't be imported ({error}): install the wheel for your GPU"


def _cause(runtime: Any, error: Exception) -> str:
    """One sentence for what keeps an installed CuPy from running, with the cure."""
    status = getattr(error, "status", None)
    if status == 35:  # cudaErrorInsufficientDriver, also where there is no driver at all
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            return "CuPy finds no NVIDIA driver: install one (in a container: run with --gpus all)"
        other = " or install cupy-cuda12x instead" if 12000 <= driver < 13000 <= needed else ""
        return (
            f"the NVIDIA driver supports CUDA {_version(driver)}, but this CuPy needs "
            f"{_version(needed)}: update the driver{other}"
        )
    if status == 100:  # cudaErrorNoDevice
        return "CuPy finds a driver but no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    if isinstance(error, ImportError) or type(error).__name__ == "DynamicLibNotFoundError":
        return (
            f"CuPy finds a GPU but not CUDA's libraries ({error}): "
            "run `pip install 'cupy-cuda13x[ctk]'` (or 'cupy-cuda12x[ctk]')"
        )
    return f"CuPy can't run here ({type(error).__name__}: {error})"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
