"""Compile every kernel of tinybn with NVIDIA's compiler, NVRTC, which needs no GPU.

    make nvrtc

CuPy writes the source of a kernel when it is launched. Here the same functions of CuPy, which are
private, so that the version is pinned, write it for float16, float32 and float64 without a launch.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

import cupy
import numpy as np
from cupy._core import core
from cupy._core._kernel import _ArgInfo, _decide_params_type, _get_elementwise_kernel_code
from cupy._core._reduction import _ReductionKernel_get_cached_function_code
from cupy_backends.cuda.libs import nvrtc

import tinybn as tb  # noqa: F401, it declares the kernels
from tinybn.kernels import KERNELS

ARCHITECTURES = (75, 80, 90, 100, 120)
DTYPES = ("float16", "float32", "float64")
INTEGERS = {"L": np.dtype(np.int64)}
"""Type variables of labels; those of all other arrays are floating-point."""


def source(kernel: Any, dtype: np.dtype, ndim: int, contiguous: bool) -> str:
    """What CuPy would compile for arrays of that dtype."""
    wide = np.result_type(dtype, np.float32)

    def of(param: Any) -> np.dtype | None:
        if param.dtype is not None:
            return None
        return INTEGERS.get(param.ctype, wide if param.ctype == "A" else dtype)

    groups = kernel.in_params, kernel.out_params
    ins, outs, types = _decide_params_type(*groups, *(tuple(map(of, group)) for group in groups))
    arrays = [
        _ArgInfo(1, cupy.ndarray, t, ndim, contiguous, True)
        if p.dtype is None
        else _ArgInfo(0, None, t, 0, True, True)
        for p, t in zip(kernel.in_params + kernel.out_params, (*ins, *outs), strict=True)
    ]
    indexers = {p.name for p in kernel.params} - {p.name for p in groups[0] + groups[1]}
    infos = (*arrays, *(_ArgInfo(2, None, None, ndim, True, True) for name in sorted(indexers) if name.endswith("ind")))
    print(kernel.name, kernel.params, indexers, types)
    if isinstance(kernel, cupy.ElementwiseKernel):
        return _get_elementwise_kernel_code(
            infos, types, kernel.params, kernel.operation, kernel.name, kernel.preamble
        )
    return _ReductionKernel_get_cached_function_code(
        kernel.nin, kernel.nout, kernel.params, infos, types, kernel.name, 512, kernel.reduce_type,
        kernel.identity, kernel.map_expr, kernel.reduce_expr, kernel.post_map_expr,
        kernel.preamble, kernel.options,
    )  # fmt: skip
if __name__ == "__main__":
    print(source(KERNELS["normalize"](cupy), np.dtype("f2"), 2, True))
    print(source(KERNELS["sums_of"](cupy), np.dtype("f2"), 2, True))
