"""Matrix products that a stream capture can hold.

CuPy refuses to call cuBLAS while a stream is being captured (as of version 14), although cuBLAS can
be captured. So this calls `cublasGemmEx` itself, with a handle and a workspace of its own.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

# From cublas_api.h and library_types.h
NONE, TRANSPOSED = 0, 1
TYPES = {
    "float32": (0, 68, np.float32),
    "float64": (1, 70, np.float64),
    "float16": (2, 68, np.float32),
}
"""By dtype: the cudaDataType, the cublasComputeType, and the type of alpha and beta."""
DEFAULT_ALGORITHM = -1

WORKSPACE = 32 << 20
"""Bytes, as NVIDIA recommends for Hopper; other GPUs use less."""


def matmul(xp: Any) -> Callable[[Any, Any], Any]:
    """The function that a captured step multiplies matrices with."""
    if xp.cuda.runtime.is_hip:  # there, CuPy captures products
        return operator.matmul
    version = xp.cuda.runtime.runtimeGetVersion() // 1000
    xp.ones((1, 1)) @ xp.ones((1, 1))  # loads the library
    return Products(xp, ctypes.CDLL(f"libcublas.so.{version}"))


class Products:
    """`a @ b` for matrices of one floating-point dtype."""

    def __init__(self, xp: Any, library: Any) -> None:
        self._xp, self._library = xp, library
        self._handle = ctypes.c_void_p()
        self._check("cublasCreate_v2", ctypes.byref(self._handle))
        self._workspace = xp.empty(WORKSPACE, np.uint8)

    def __call__(self, a: Any, b: Any) -> Any:
        if a.ndim != 2 or b.ndim != 2 or a.dtype != b.dtype or a.dtype.name not in TYPES:
            raise NotImplementedError(
                f"matmul({a.dtype} {a.shape}, {b.dtype} {b.shape}): only products of two "
                f"matrices of one dtype ({', '.join(TYPES)}) can be captured"
            )
        (m, k), n = a.shape, b.shape[1]
        y = self._xp.zeros((m, n), a.dtype) if 0 in (m, n, k) else self._xp.empty((m, n), a.dtype)
        if y.size and k:
            self._multiply(a, b, y)
        return y

    def _multiply(self, a: Any, b: Any, y: Any) -> None:
        """y = a @ b. cuBLAS goes through columns first, so it computes yᵀ = bᵀ aᵀ."""
        stream = self._xp.cuda.get_current_stream().ptr
        self._check("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))  # first: it resets
        self._check(
            "cublasSetWorkspace_v2",
            self._handle,
            ctypes.c_void_p(self._workspace.data.ptr),
            ctypes.c_size_t(WORKSPACE),
        )
        code, compute, scalar = TYPES[a.dtype.name]
        one, zero = (np.array(value, scalar) for value in (1, 0))
        (m, n), k = y.shape, a.shape[1]
        (a, turned_a, rows_a), (b, turned_b, rows_b) = map(self._operand, (a, b))
        self._check(
            "cublasGemmEx",
            self._handle,
            *(turned_b, turned_a, n, m, k),
            ctypes.c_void_p(one.ctypes.data),
            *(ctypes.c_void_p(b.data.ptr), code, rows_b),
            *(ctypes.c_void_p(a.data.ptr), code, rows_a),
            ctypes.c_void_p(zero.ctypes.data),
            *(ctypes.c_void_p(y.data.ptr), code, n),
            *(compute, DEFAULT_ALGORITHM),
        )

    def _operand(self, a: Any) -> tuple[Any, int, int]:
        """A matrix, whether cuBLAS has to transpose it, and its leading dimension."""
        if a.flags.f_contiguous and not a.flags.c_contiguous:
            return a, TRANSPOSED, a.shape[0]
        return self._xp.ascontiguousarray(a), NONE, a.shape[1]

    def _check(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise RuntimeError(f"{function} failed with the status {status} of cuBLAS")
