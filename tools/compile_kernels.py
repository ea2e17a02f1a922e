"""Compile every kernel of tinybn with NVIDIA's compiler, NVRTC, which needs no GPU.

    make nvrtc

CuPy writes the source of a kernel when it launches the kernel. This script calls the same functions
for float16, float32 and float64 without a launch. They are private, so pyproject.toml pins CuPy.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import cupy
import numpy as np
from cupy._core import _kernel, _reduction, core
from cupy_backends.cuda.libs import nvrtc

import tinybn as tb
from tinybn.on_cupy import KERNELS

ARCHITECTURES = (75, 80, 90, 100, 120)
DTYPES = ("float16", "float32", "float64")
ARRAY, INDEXER, SCALAR = 1, 2, 3  # kinds of arguments, in CuPy's numbering
INDEX = "typedef int IndexT;\n"
REDUCTION_PARAMS = (
    *_kernel._get_param_info("CIndexer _in_ind, CIndexer _out_ind", False),
    *_kernel._get_param_info("int32 _block_stride", True),
)


def source(kernel: Any, dtype: np.dtype, ndim: int, contiguous: bool) -> str:
    """What CuPy would compile for such arrays: labels are int64, and A is at least float32."""
    special = {"A": np.result_type(dtype, np.float32), "L": np.dtype(np.int64)}
    given = (
        tuple(special.get(p.ctype, dtype) if p.dtype is None else None for p in params)
        for params in (kernel.in_params, kernel.out_params)
    )
    ins, outs, types = _kernel._decide_params_type(kernel.in_params, kernel.out_params, *given)
    params = kernel.in_params + kernel.out_params
    arguments = [
        _kernel._ArgInfo(ARRAY, cupy.ndarray, t, ndim, contiguous, True)
        if p.dtype is None
        else _kernel._ArgInfo(SCALAR, t.type, t, 0, True, True)
        for p, t in zip(params, ins + outs, strict=True)
    ]
    index = _kernel._ArgInfo(INDEXER, None, None, ndim, True, True)
    if isinstance(kernel, cupy.ElementwiseKernel):
        return _kernel._get_elementwise_kernel_code(
            (*arguments, index), types, kernel.params, kernel.operation, kernel.name,
            kernel.preamble,
        )  # fmt: skip
    stride = _kernel._ArgInfo(SCALAR, np.int32, np.dtype(np.int32), 0, True, True)
    return _reduction._ReductionKernel_get_cached_function_code(
        kernel.nin, kernel.nout, params + REDUCTION_PARAMS, (*arguments, index, index, stride),
        types, kernel.name, 512, kernel.reduce_type, kernel.identity, kernel.map_expr,
        kernel.reduce_expr, kernel.post_map_expr, INDEX + kernel.preamble, kernel.options,
    )  # fmt: skip


def compiled(text: str, architecture: int) -> bytes:
    """Machine code, or a SyntaxError with the compiler's message."""
    options = (
        *core.assemble_cupy_compiler_options(()),
        "-ftz=true",
        f"-arch=sm_{architecture}",
        "--device-as-default-execution-space",
    )
    includes = "".join(f"#include <{header}>\n" for header in core._cupy_header_list)
    program = nvrtc.createProgram(includes + text, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        return nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError:
        raise SyntaxError(nvrtc.getProgramLog(program)) from None
    finally:
        nvrtc.destroyProgram(program)


def sources() -> Iterator[tuple[str, str]]:
    """A label and the source of every kernel, dtype and layout."""
    for name, make in KERNELS.items():
        for dtype in DTYPES:
            for ndim, contiguous in ((1, True), (3, False)):
                label = f"{name} of {dtype}, {ndim} axes"
                yield label, source(make(cupy), np.dtype(dtype), ndim, contiguous)


def main() -> int:
    """Print a line per architecture; 1 if anything did not compile."""
    print(
        f"tinybn {tb.__version__}, CuPy {cupy.__version__}, "
        f"NVRTC {'.'.join(map(str, nvrtc.getVersion()))}, no GPU needed"
    )
    programs, failed = list(sources()), 0
    for architecture in ARCHITECTURES:
        start, size = time.perf_counter(), 0
        for label, text in programs:
            try:
                size += len(compiled(text, architecture))
            except SyntaxError as error:
                failed += 1
                print(f"{label}, sm_{architecture}: {error}", file=sys.stderr)
        seconds = time.perf_counter() - start
        print(f"sm_{architecture}: {len(programs)} programs, {size} bytes, {seconds:.1f} s")
    print(f"{failed} did not compile" if failed else f"all of {len(KERNELS)} kernels compile")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
