"""NumPy or CuPy: which library owns an array, moving arrays, and which of them can be used.

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

from tinybn import diagnosis

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


_HOST_DEVICES = (1, 3, 11)  # kDLCPU, kDLCUDAHost, kDLROCMHost of DLPack's dlpack.h


def from_dlpack(data: Any) -> Array:
    """Another library's array, where it is, without a copy; TypeError if it can't be exported."""
    xp = module("numpy" if data.__dlpack_device__()[0] in _HOST_DEVICES else "cupy")
    try:
        return xp.from_dlpack(data)
    except (BufferError, RuntimeError, ValueError) as error:
        raise TypeError(f"a Tensor can't be made of this {type(data).__name__}: {error}") from error


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


def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MiB of what is freed, and not give it back to the system.

    A training step frees what it asked for, and the next one asks for it again. Every page that had
    gone back is then made anew, which takes longer than to fill it with numbers. glibc keeps twice
    the size of the largest block below 32 MiB that it ever freed (mallopt(3), M_TRIM_THRESHOLD), so
    it is enough to free one of that size; nothing is written to it. Elsewhere this does nothing.
    """
    np.empty(2**25 - 2**16, np.uint8)


def problems() -> dict[str, str | None]:
    """Per backend, why it can't be used here and what to do about it; None if it can."""
    found: dict[str, str | None] = {}
    for name in NAMES:
        try:
            module(name)
            found[name] = None
        except BackendUnavailableError as error:
            found[name] = str(error)
    return found


@functools.cache
def _cupy() -> ModuleType:
    reason: str | None = None
    cause: Exception | None = None
    try:
        import cupy
    except ImportError as error:
        reason, cause = diagnosis.import_failure(error), error
    if reason is None:
        try:
            cupy.cuda.runtime.getDeviceCount()
            # Counting devices proves little: run a matrix product (cuBLAS) and a kernel (NVRTC).
            ones = cupy.ones((2, 2), dtype=np.float32)
            float((ones @ ones + 1).sum())
        except Exception as error:
            reason, cause = diagnosis.run_failure(cupy.cuda.runtime, error), error
    if reason is not None:
        if len(diagnosis.packages()) > 1:
            reason = diagnosis.two_packages(reason)
        raise BackendUnavailableError(reason) from cause
    MODULES[cupy.ndarray] = cupy
    return cupy
