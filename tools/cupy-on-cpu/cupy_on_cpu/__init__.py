"""Run CuPy on a machine without a GPU.

    import cupy_on_cpu

    cupy_on_cpu.enable()
    import cupy

The wheel cupy-rocm-7-0 is linked to AMD's HIP runtime. This package builds a stand-in for that
runtime and loads it before CuPy: "device" memory is then ordinary memory, g++ compiles the kernels,
and every launch, copy and synchronisation is counted.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from . import _build, _kernels
from ._gxx import Gxx, UnavailableError

__all__ = [
    "Counts",
    "UnavailableError",
    "check_machine",
    "count",
    "enable",
    "enable_unless_gpu",
    "enabled",
    "thread_order",
]

_WHEEL = "cupy-rocm-7-0"
_VERSION = "14.2.0"  # another one may expect other symbols, headers or numbers
_OTHER_WHEELS = ("cupy", "cupy-cuda12x", "cupy-cuda13x")
_ADVICE = f"to run on the CPU, pip install {_WHEEL}=={_VERSION} where no other CuPy is installed"
_AMD_DRIVER = Path("/dev/kfd")

# In the order of enum Counter in src/counters.h.
_COUNTERS = ("launch", "blas", "fill", "h2d", "d2h", "d2d", "sync", "malloc", "graph")

_runtime: ctypes.CDLL | None = None
_keep_alive: list[object] = []


def check_machine() -> Gxx:
    """The compiler; UnavailableError says what this machine lacks."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnavailableError("CuPy on the CPU needs Linux on x86-64")
    return Gxx.find()


def enable() -> None:
    """Make the next `import cupy` run on the CPU. Raises UnavailableError."""
    global _runtime
    if _runtime is not None:
        return
    gxx = check_machine()
    if "cupy" in sys.modules:
        raise UnavailableError("cupy_on_cpu.enable() must come before the first `import cupy`")
    cupy = _find_cupy()
    build = _build.build(cupy, gxx)
    try:
        # When CuPy asks for a library by its soname, the dynamic linker takes one that is loaded
        # already. The runtime comes first: the others use its symbols.
        loaded = {
            library: ctypes.CDLL(str(build.library(library)), mode=ctypes.RTLD_GLOBAL)
            for library in reversed(_build.LIBRARIES)
        }
    except OSError as error:
        hint = "if that is because files there may not be executed, set CUPY_ON_CPU_CACHE"
        raise UnavailableError(f"cannot load {error}; {hint}") from error
    compiler = _kernels.KernelCompiler(gxx, build.include, build.kernels)
    _keep_alive.append(_kernels.connect(loaded[_build.HIPRTC], compiler))

    os.environ["ROCM_HOME"] = str(build.rocm)
    os.environ["PATH"] = f"{build.rocm / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["CUPY_CACHE_DIR"] = str(build.root / "cupy")  # stays empty, but must be writable:
    os.environ["CUPY_CACHE_IN_MEMORY"] = "1"  # _kernels.py has the cache on disk
    os.environ["CUPY_ACCELERATORS"] = ""  # they are precompiled for AMD GPUs
    _runtime = loaded[_build.RUNTIME]


def enabled() -> bool:
    """Whether CuPy runs on the CPU in this process."""
    return _runtime is not None


def enable_unless_gpu() -> None:
    """enable(), unless CuPy has a GPU or is made for another kind of GPU."""
    if _version(_WHEEL) is not None and not _AMD_DRIVER.exists():
        enable()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _find_cupy() -> Path:
    """The folder of the package cupy, from the one wheel and version that this supports."""
    others = [name for name in _OTHER_WHEELS if _version(name) is not None]
    if others:
        raise UnavailableError(f"{others[0]} is installed, which only runs on a GPU: {_ADVICE}")
    version = _version(_WHEEL)
    spec = importlib.util.find_spec("cupy")
    if version is None or spec is None or not spec.submodule_search_locations:
        raise UnavailableError(f"CuPy is not installed: {_ADVICE}")
    if version != _VERSION:
        raise UnavailableError(f"{_WHEEL} is version {version}, not {_VERSION}: {_ADVICE}")
    return Path(spec.submodule_search_locations[0])


# ---- Counting


class Counts(dict[str, int]):
    """Counts by name.

    `launch` counts kernels, except those of the BLAS library; `blas`, calls of that library;
    `fill`, memory set to a value; `h2d`, `d2h` and `d2d`, copies from host to device, back, and on
    the device; `sync`, waits of the host for the device; `malloc`, requests of CuPy's memory pool;
    `graph`, launches of whole graphs, whose kernels and copies count as well.
    """

    launches: dict[str, int]
    """The launches of each kernel, by name."""


def _counters() -> dict[str, int]:
    values = (ctypes.c_long * len(_COUNTERS)).in_dll(_library(), "cupy_on_cpu_counters")
    return dict(zip(_COUNTERS, values, strict=True))


def _launches() -> dict[str, int]:
    library = _library()
    size = library.cupy_on_cpu_launches(None, ctypes.c_size_t(0)) + 1
    buffer = ctypes.create_string_buffer(size)
    library.cupy_on_cpu_launches(buffer, ctypes.c_size_t(size))
    lines = [line.partition(" ") for line in buffer.value.decode().splitlines()]
    return {name: int(count) for count, _, name in lines}


@contextlib.contextmanager
def count() -> Iterator[Counts]:
    """Count what happens in this block; read the result after it."""
    counts = Counts()
    before, launches_before = _counters(), _launches()
    try:
        yield counts
    finally:
        counts.update({name: n - before[name] for name, n in _counters().items()})
        changes = {name: n - launches_before.get(name, 0) for name, n in _launches().items()}
        counts.launches = {name: n for name, n in changes.items() if n > 0}


# ---- Running kernels


@contextlib.contextmanager
def thread_order(order: str) -> Iterator[None]:
    """Run the blocks and threads of a kernel "forward" or in "reverse" in this block.

    A kernel whose result depends on it lacks a barrier or has a race.
    """
    if order not in ("forward", "reverse"):
        raise ValueError(f"order must be 'forward' or 'reverse', not {order!r}")
    library = _library()
    before = library.cupy_on_cpu_reverse_order()
    library.cupy_on_cpu_set_reverse_order(order == "reverse")
    try:
        yield
    finally:
        library.cupy_on_cpu_set_reverse_order(before)


def _library() -> ctypes.CDLL:
    if _runtime is None:
        raise RuntimeError("cupy_on_cpu.enable() has not been called")
    return _runtime
