"""Compile the source of loops to machine code: once with Numba, then kept on disk."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

CPU = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
KERNELS = Path(__file__).with_name("kernels.py").read_text("utf-8")
VERSION = (*CPU, KERNELS, version("numba"), version("llvmlite"))
"""Everything besides its text that decides the machine code of a function."""

RUN = """\
    for j in range(t[k]):
        call(t[k + 1 + 2 * j], (t, t, t, t[k + 2 + 2 * j]))"""
"""Calls functions one after another. Its row: how many, then the address and row of each."""

DOT = """\
    a, b, out = {0}(t[t[k]]), {0}(t[t[k + 1]]), {0}(t[t[k + 2]])
    n, m, p = t[k + 4], t[k + 5], t[k + 6]
    order, turn_a, turn_b = np.int32(101), np.int32(t[k + 7]), np.int32(t[k + 9])
    left, right = (np.{0}(1), a, t[k + 8]), (b, t[k + 10])
    call(t[k + 3], (order, turn_a, turn_b, n, m, p, *left, *right, np.{0}(0), out, m))"""
"""cblas_sgemm or cblas_dgemm for (n, p) @ (p, m); 112 means that a factor is stored transposed."""


def folder() -> Path:
    """Where machine code is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("TINYBN_CACHE") or Path(cache) / "tinybn")


@cache
def load(body: str) -> int:
    """The address of the C function `nest(unused, unused, t, k)` with this body."""
    text = f"def nest(t, k):\n{body}\n"
    name = "nest_" + _digest(repr((text, VERSION)).encode()).hex()[:20]
    path = folder() / f"{name}.o"
    try:
        digest, code = (kept := path.read_bytes())[:32], kept[32:]
    except OSError:
        digest, code = b"", b""
    if digest != _digest(code):  # missing or damaged
        code = _compiled(text, name)
        _keep(path, _digest(code) + code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address(name)


_engines: list[Any] = []
"""They own the memory that holds the machine code."""


def _digest(code: bytes) -> bytes:
    return hashlib.sha256(code).digest()


@cache
def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = CPU
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu, features, opt=3, jit=True, codemodel="jitdefault")


def _compiled(text: str, name: str) -> bytes:
    """The object file of a function."""
    from tinybn.program.kernels import llvm_of

    module = llvm_of(text)
    (function,) = (
        f for f in module.functions if not f.is_declaration and f.linkage == llvm.Linkage.external
    )
    function.name = name
    return _target().emit_object(module)


def _keep(path: Path, code: bytes) -> None:
    """Write a file atomically, because other processes may read it."""
    with contextlib.suppress(OSError):  # the folder may be read-only
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(code)
            os.replace(temporary, path)
        except OSError:  # a full disk
            os.unlink(temporary)


@cache
def product(dtype: str) -> int:
    """The address of the matrix product of NumPy's own OpenBLAS; 0 where NumPy has none."""
    name = {"float32": "scipy_cblas_sgemm64_", "float64": "scipy_cblas_dgemm64_"}[dtype]
    for file in (Path(np.__file__).parents[1] / "numpy.libs").glob("libscipy_openblas64_*"):
        with contextlib.suppress(OSError, AttributeError):
            return ctypes.cast(getattr(ctypes.CDLL(str(file)), name), ctypes.c_void_p).value or 0
    return 0
