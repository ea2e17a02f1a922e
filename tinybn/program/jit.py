"""Compiling with Numba: what loops are made with, matrix products, and a cache on disk.

All compiled functions have one signature: a table, the same table as float64, and where in it the
row of the call begins.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

ARGUMENTS = types.CPointer(types.int64), types.CPointer(types.float64), types.int64
INNER: Any = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(f: Any, caching: bool) -> Any:
    """A function for C. (By error_model, a division by 0 is inf, as in NumPy.)"""
    return cfunc(types.void(*ARGUMENTS), cache=caching, error_model="numpy")(f)


# --- what loops are made with ---


def _pointer(kind: Any) -> Any:
    """A function from an address to a pointer to memory of its own: LLVM trusts a result that is
    marked `noalias`, and need not check whether stores change what is read next.
    """

    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            result, name = context.get_value_type(signature.return_type), f"pointer_to_{kind}"
            f = builder.module.globals.get(name)
            if f is None:
                word = ir.IntType(64)
                f = ir.Function(builder.module, ir.FunctionType(result, [word]), name)
                f.linkage = "internal"
                f.attributes.add("noinline")
                f.return_value.add_attribute("noalias")
                inside = ir.IRBuilder(f.append_basic_block())
                inside.ret(inside.inttoptr(f.args[0], result))
            found = builder.call(f, args)
            # No instructions, but now others know the memory, so that what is stored there matters.
            others = ir.FunctionType(ir.VoidType(), [result])
            builder.asm(others, "", "r", [found], side_effect=True)
            return found

        return types.CPointer(kind)(address), code

    return pointer


float32, float64 = _pointer(types.float32), _pointer(types.float64)
int64, uint8 = _pointer(types.int64), _pointer(types.uint8)


@njit(fastmath={"reassoc", "nsz"}, **INNER)
def plus(a: Any, b: Any) -> Any:
    """a + b in a sum whose order does not matter, so that it is added up in many lanes."""
    return a + b


def _extremum(name: str) -> Any:
    """The larger (or smaller) of two floats, or NaN if one is: LLVM has it in vectors."""

    @intrinsic
    def pick(context: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = args[0].type
            two = ir.FunctionType(kind, [kind, kind])
            f = builder.module.declare_intrinsic(f"llvm.{name}", [kind], two)
            return builder.call(f, args, fastmath=("nsz",))

        return a(a, b), code

    return pick


larger, smaller = _extremum("maximum"), _extremum("minimum")


f, i = np.float32, np.int32


@njit(fastmath={"contract"}, **INNER)
def exp_float32(x: Any) -> Any:
    """e ** x to 1 ULP, as the C library's has no vectors: 2 ** n · e ** r, and a polynomial for r.

    Source: Moshier, Cephes (expf.c, tanhf.c).
    """
    y = min(max(x, f(-104)), f(88.72283))
    n = np.floor(y * f(1.44269504) + f(0.5))
    r = y - n * f(0.693359375) + n * f(2.12194440e-4)
    p = f(1.9875691500e-4) * r + f(1.3981999507e-3)
    p = (p * r + f(8.3334519073e-3)) * r + f(4.1665795894e-2)
    p = (p * r + f(1.6666665459e-1)) * r + f(5.0000001201e-1)
    half = i(n) >> i(1)  # twice, as 2 ** n may be too large or too small
    y = p * r * r + r + f(1)
    y *= i((half + i(127)) << i(23)).view(f)
    y *= i((i(n) - half + i(127)) << i(23)).view(f)
    return x if x != x else f(np.inf) if x > f(88.722835) else y


@njit(fastmath={"contract"}, **INNER)
def tanh_float32(x: Any) -> Any:
    """tanh(x) to 2 ULP: a polynomial near 0, else 1 - 2 / (e ** 2x + 1)."""
    z = x * x
    p = (f(-5.70498872745e-3) * z + f(2.06390887954e-2)) * z - f(5.37397155531e-2)
    p = ((p * z + f(1.33314422036e-1)) * z - f(3.33332819422e-1)) * z * x + x
    large = f(1) - f(2) / (exp_float32(f(2) * abs(x)) + f(1))
    return p if z < f(0.390625) else large if x > f(0) else -large


@intrinsic
def call(context: Any, address: Any, given: Any) -> Any:
    """Call the function at an address with what a tuple holds."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = [builder.extract_value(args[1], n) for n in range(len(given))]
        kind = ir.FunctionType(ir.VoidType(), [v.type for v in values])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(address, given), code


RUN = """\
    for j in range(t[k]):
        call(t[k + 1 + 2 * j], (t, c, t[k + 2 + 2 * j]))"""
"""Calls one function after another: their number, addresses and rows."""

DOT = """\
    a, b, out = {0}(t[t[k]]), {0}(t[t[k + 1]]), {0}(t[t[k + 2]])
    n, m, p = t[k + 4], t[k + 5], t[k + 6]
    order, turn_a, turn_b = i(101), i(t[k + 7]), i(t[k + 9])
    left, right = (np.{0}(1), a, t[k + 8]), (b, t[k + 10])
    call(t[k + 3], (order, turn_a, turn_b, n, m, p, *left, *right, np.{0}(0), out, m))"""
"""cblas_sgemm or cblas_dgemm for (n, p) @ (p, m); 112: stored transposed, 111: not."""


@cache
def blas() -> dict[str, int]:
    """The addresses of matrix products in NumPy's own OpenBLAS, if that is where we look."""
    for file in (Path(np.__file__).parents[1] / "numpy.libs").glob("libscipy_openblas64_*"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(file))
            kinds = {
                "float32": library.scipy_cblas_sgemm64_,
                "float64": library.scipy_cblas_dgemm64_,
            }
            return {kind: ctypes.cast(f, ctypes.c_void_p).value or 0 for kind, f in kinds.items()}
    return {}


# --- compiling, with a cache ---

VERSION = Path(__file__).read_text("utf-8") + numba.__version__ + np.__version__
CACHES = {"win32": ("LOCALAPPDATA", "~/AppData/Local"), "darwin": ("", "~/Library/Caches")}


def folder() -> Path:
    """Where compiled functions are kept: TINYBN_CACHE, or the user's folder for caches."""
    variable, default = CACHES.get(sys.platform, ("XDG_CACHE_HOME", "~/.cache"))
    base = Path(os.environ.get(variable) or os.path.expanduser(default))
    return Path(os.environ.get("TINYBN_CACHE") or base / "tinybn")


@cache
def load(body: str) -> int:
    """The address of a function with this body; compiled, if it is not on disk."""
    text = f"from tinybn.program.jit import *\n\n\ndef nest(t, c, k):\n{body}\n"
    name = f"nest_{hashlib.sha256((text + VERSION).encode()).hexdigest()[:20]}"
    path = folder() / f"{name}.py"  # Numba's cache knows functions by the files that they are in
    module: Any = ModuleType(name)
    sys.modules[name] = module
    exec(compile(text, path, "exec"), vars(module))  # noqa: S102, our own text
    with contextlib.suppress(OSError, RuntimeError):  # is there a folder that may be written to?
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent)
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.utime(temporary, (0, 0))  # if two processes write it, both write the same
            os.replace(temporary, path)
        module.compiled = compiled(module.nest, caching=True)
        return module.compiled.address
    module.compiled = compiled(module.nest, caching=False)
    return module.compiled.address
