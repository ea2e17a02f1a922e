"""Compiles what CuPy hands to hipRTC: CUDA C++ source in, shared object out."""

import ctypes
import hashlib
import os
import re
import shlex
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._gxx import Gxx

FLAGS = (
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-fno-strict-aliasing",  # device code reinterprets memory freely
    "-fwhole-program",  # leaves out what no kernel uses
    "-w",
)
LINK_FLAGS = ("-shared", "-Wl,-Bsymbolic")  # a kernel's names win over those of the process

# The headers that stand before every program; a precompiled version of each lies beside it.
PRELUDE = "cupy_on_cpu/device.h"
CUPY_PRELUDE = "cupy_on_cpu/device_and_cupy.h"  # before the programs that include CuPy's headers

_KNOWN_OPTIONS = ("-I", "-D", "-U", "-std=")  # g++ does not know the others of a GPU's compiler

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LAUNCH_BOUNDS = r"(?:__launch_bounds__\s*\([^)]*\)\s*)?"
_KERNEL = rf"{_LAUNCH_BOUNDS}__global__\s+{_LAUNCH_BOUNDS}void\s+{_LAUNCH_BOUNDS}(\w+)\s*\("
_ANY_KERNEL = re.compile(_KERNEL)
_C_KERNEL = re.compile(rf'extern\s*"C"\s*{_KERNEL}')
_C_BLOCK = re.compile(r'extern\s*"C"\s*\{')


def c_kernels(source: str) -> list[str]:
    """The names of the kernels with C linkage, which the runtime finds by their plain names."""
    text = _COMMENT.sub(" ", source)
    names = _C_KERNEL.findall(text)
    for block in _C_BLOCK.finditer(text):
        names += _ANY_KERNEL.findall(_braced(text, block.end()))
    return names


def _braced(text: str, start: int) -> str:
    """The text between the brace that opens before `start` and the one that closes it."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return text[start:]


def translate(source: str) -> str:
    """The program for g++: the source, then the table in which the runtime finds its kernels."""
    lines = ['#line 1 "kernel.cu"', source]
    for name in c_kernels(source):
        lines += [
            f'#line 1 "{name}"',
            f'extern "C" __attribute__((externally_visible)) cupy_on_cpu::Kernel '
            f"cupy_on_cpu_kernel_{name} = "
            f'cupy_on_cpu::describe("{name}", cupy_on_cpu::run<&{name}>, &{name});',
        ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class KernelCompiler:
    """g++ and the cache folder of its outputs."""

    gxx: Gxx
    include: Path  # where the preludes are
    cache: Path

    def compile(self, program: str, options: list[str]) -> tuple[Path | None, str]:
        """The shared object (None if there are errors) and what the compiler said."""
        prelude = CUPY_PRELUDE if "#include <cupy/" in program else PRELUDE
        flags = [
            *FLAGS,
            *shlex.split(os.environ.get("CUPY_ON_CPU_CXXFLAGS", "")),
            *(option for option in options if option.startswith(_KNOWN_OPTIONS)),
            *("-include", str(self.include / prelude)),
        ]
        digest = hashlib.sha256("\0".join([*flags, program]).encode()).hexdigest()
        finished = self.cache / f"{digest}.so"
        if finished.exists():
            return finished, ""
        with tempfile.TemporaryDirectory(dir=self.cache) as scratch:
            source = Path(scratch, "kernel.cpp")
            source.write_text(program, encoding="utf-8")
            result = self.gxx.run(*flags, *LINK_FLAGS, "-o", source.with_suffix(".so"), source)
            if result.returncode != 0:
                return None, result.stderr
            source.rename(finished.with_suffix(".cpp"))  # for whoever wants to look at it
            source.with_suffix(".so").rename(finished)
        return finished, result.stderr


# int compiler(program, source, options, how_many)
_Compiler = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.c_int,
)


def connect(hiprtc: ctypes.CDLL, compiler: KernelCompiler) -> object:
    """Makes libhiprtc call `compiler`. The result must live as long as the library is in use."""
    hiprtc.cupy_on_cpu_set_code.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    hiprtc.cupy_on_cpu_set_log.argtypes = [ctypes.c_void_p, ctypes.c_char_p]

    @_Compiler  # type: ignore[untyped-decorator]
    def callback(program: int, source: bytes, options: Any, option_count: int) -> bool:
        try:
            text = translate(source.decode())
            code, log = compiler.compile(text, [o.decode() for o in options[:option_count]])
        except Exception:  # must not travel through C
            code, log = None, traceback.format_exc()
        hiprtc.cupy_on_cpu_set_log(program, log.encode())
        if code is not None:
            hiprtc.cupy_on_cpu_set_code(program, os.fsencode(code))
        return code is not None

    hiprtc.cupy_on_cpu_set_compiler(callback)
    return callback
