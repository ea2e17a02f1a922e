"""Building blocks of compiled loops. Imported only to compile, because Numba starts slowly.

Every compiled function takes a table `t` of addresses and lengths, and `k`, where its row begins.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

OPTIONS: Any = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""A division by 0 is inf, as in NumPy; nothing converts to or from Python objects."""


def llvm_of(text: str) -> llvm.ModuleRef:
    """The LLVM code of the function `nest(t, k)` that the text defines."""
    space = dict(globals())
    exec(text, space)  # noqa: S102, our own text
    signature = types.CPointer(types.int64), types.int64
    compiled = njit(signature, **OPTIONS)(space["nest"])
    return llvm.parse_assembly(compiled.inspect_llvm(signature))


def _pointer(kind: Any) -> Any:
    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(address), code

    return pointer


float32, float64 = _pointer(types.float32), _pointer(types.float64)
int64, bool = _pointer(types.int64), _pointer(types.uint8)  # a bool is a byte


@intrinsic
def call(context: Any, address: Any, given: Any) -> Any:
    """Call the C function at an address, with the values of a tuple as arguments."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = [builder.extract_value(args[1], n) for n in range(len(given))]
        kind = ir.FunctionType(ir.VoidType(), [v.type for v in values])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(address, given), code


@njit(fastmath={"reassoc", "nsz"}, **OPTIONS)
def plus(a: Any, b: Any) -> Any:
    """a + b in a sum whose order does not matter, so that LLVM can vectorize it."""
    return a + b


@intrinsic
def larger(context: Any, a: Any, b: Any) -> Any:
    """The larger of two floats, or NaN if either is: LLVM's own, which it can vectorize."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(args[0].type, [args[0].type] * 2)
        f = builder.module.declare_intrinsic("llvm.maximum", [args[0].type], kind)
        return builder.call(f, args, fastmath=("nsz",))

    return a(a, b), code


# Unlike the C library's, these exp and tanh vectorize: exp(x) = 2 ** n · exp(r), with a Taylor
# series for exp(r) - 1.

f, i = np.float32, np.int32


@njit(fastmath={"contract"}, **OPTIONS)
def _split(x: Any) -> Any:
    """n and exp(r) - 1, where x = n · log 2 + r and r is small."""
    n = np.floor(x * f(1.442695) + f(0.5))
    r = (x - n * f(0.693359375)) + n * f(2.1219444e-4)
    series = f(1 / 24) + r * (f(1 / 120) + r * (f(1 / 720) + r * f(1 / 5040)))
    return i(n), r + r * r * (f(1 / 2) + r * (f(1 / 6) + r * series))


@njit(**OPTIONS)
def _two_to(n: Any) -> Any:
    return i((n + i(127)) << i(23)).view(f)


@njit(fastmath={"contract"}, **OPTIONS)
def exp_float32(x: Any) -> Any:
    """exp(x) to 2 ULP."""
    n, e = _split(min(max(x, f(-104)), f(89)))
    half = n >> i(1)  # 2 ** n may be too large or too small
    return (e * _two_to(half) + _two_to(half)) * _two_to(n - half) if x == x else x


@njit(fastmath={"contract"}, **OPTIONS)
def tanh_float32(x: Any) -> Any:
    """tanh(x) to 2 ULP: e / (e + 2) for e = exp(2x) - 1."""
    n, e = _split(f(2) * min(max(x, f(-10)), f(10)))
    e = e * _two_to(n) + (_two_to(n) - f(1))
    return f(e / (e + np.float64(2))) if x == x else x
