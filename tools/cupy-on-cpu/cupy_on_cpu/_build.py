"""Builds the stand-in libraries, once for each version of everything that goes into them."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import _kernels
from ._gxx import Gxx, UnavailableError

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Library:
    soname: str
    prefix: str  # of the names of its functions
    missing: int  # what a function that is not implemented returns
    sources: tuple[str, ...] = ()


# Everything the wheel is linked to, and hipRTC, which it opens by name. The error numbers are those
# of the public headers of ROCm 7.0; profiler marks (roctracer, roctx) succeed by doing nothing.
RUNTIME = Library(
    "libamdhip64.so.7",
    "hip",
    801,  # hipErrorNotSupported
    ("runtime.cpp", "graph.cpp", "block.cpp", "fiber.cpp"),
)
HIPRTC = Library("libhiprtc.so.7", "hiprtc", 11, ("hiprtc.cpp",))  # HIPRTC_ERROR_INTERNAL_ERROR
LIBRARIES = (  # the runtime comes last: other libraries' names begin with its prefix
    HIPRTC,
    Library("libhipblas.so.3", "hipblas", 7, ("blas.cpp",)),  # HIPBLAS_STATUS_NOT_SUPPORTED
    Library("libhipfft.so.0", "hipfft", 14),  # HIPFFT_NOT_IMPLEMENTED
    Library("libhiprand.so.1", "hiprand", 999),  # HIPRAND_STATUS_INTERNAL_ERROR
    Library("libhipsparse.so.4", "hipsparse", 10),  # HIPSPARSE_STATUS_NOT_SUPPORTED
    Library("librocblas.so.5", "rocblas_", 2),  # rocblas_status_not_implemented
    Library("librocfft.so.0", "rocfft_", 2),
    Library("librocsolver.so.0", "rocsolver_", 2),  # rocblas_status_not_implemented
    Library("libroctracer64.so.4", "roctracer_", 0),
    Library("libroctx64.so.4", "roctx", 0),
    RUNTIME,
)

_LIBRARY_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
_EXPORTS = "cupy_on_cpu_*;"

# CuPy puts these before the kernels it generates.
_CUPY_HEADERS = (
    "cupy/complex.cuh",
    "cupy/carray.cuh",
    "cupy/atomics.cuh",
    "cupy/math_constants.h",
    "cupy/hip_workaround.cuh",
)

# CuPy asks hipcc for its include directories, and for nothing else.
_HIPCC = """\
#!/bin/sh
echo '#include <...> search starts here:' >&2
echo " $(dirname "$0")/../include" >&2
echo 'End of search list.' >&2
"""


@dataclass(frozen=True)
class Build:
    root: Path

    @property
    def rocm(self) -> Path:
        """Looks like a ROCm installation."""
        return self.root / "rocm"

    @property
    def include(self) -> Path:
        return self.rocm / "include"

    @property
    def generated(self) -> Path:
        return self.root / "generated"

    @property
    def kernels(self) -> Path:
        return self.root / "kernels"

    def library(self, library: Library) -> Path:
        return self.rocm / "lib" / library.soname


def build(cupy: Path, gxx: Gxx) -> Build:
    """The libraries for the CuPy in the folder `cupy`, from the cache if possible."""
    cache = _cache_folder()
    finished = Build(cache / _key(cupy, gxx))
    if finished.root.exists():
        return finished
    with open(cache / "lock", "wb") as lock, tempfile.TemporaryDirectory(dir=cache) as scratch:
        # The lock saves a second process the work; the rename is safe even where locks are not.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.root.exists():
            new = Build(Path(scratch, "new"))
            _build_into(new, cupy, gxx)
            try:
                new.root.rename(finished.root)
            except OSError:
                if not finished.root.exists():
                    raise
    return finished


# ---- The cache


def _cache_folder() -> Path:
    """The first of these folders in which files can be created."""
    chosen = os.environ.get("CUPY_ON_CPU_CACHE")
    if chosen:
        candidates = [Path(chosen)]
    else:
        candidates = [
            Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "cupy-on-cpu"),
            Path(tempfile.gettempdir(), f"cupy-on-cpu-{os.getuid()}"),
        ]
    problems = []
    for candidate in candidates:
        try:
            folder = candidate.expanduser().absolute()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():  # its files would run as this user
                raise PermissionError(f"{folder} belongs to somebody else")
            tempfile.TemporaryFile(dir=folder).close()
            return folder
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
            problems.append(str(error))
    raise UnavailableError(
        "cupy-on-cpu has nowhere to build; CUPY_ON_CPU_CACHE can name a folder: "
        + "; ".join(problems)
    )


def _key(cupy: Path, gxx: Gxx) -> str:
    """A key that changes whenever another build is needed."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.*")):
        if path.suffix in {".py", ".cpp", ".h"}:
            digest.update(f"{path.relative_to(_PACKAGE)}\n".encode() + path.read_bytes())
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:  # -march=native
        flags = next((line for line in cpuinfo if line.startswith("flags")), "")
    digest.update(f"{gxx}\n{flags}\n{cupy}\n".encode())
    return digest.hexdigest()[:16]


# ---- The build


def _build_into(new: Build, cupy: Path, gxx: Gxx) -> None:
    shutil.copytree(_PACKAGE / "include", new.include)
    hipcc = new.rocm / "bin" / "hipcc"
    for folder in (hipcc.parent, new.library(RUNTIME).parent, new.generated, new.kernels):
        folder.mkdir()
    hipcc.write_text(_HIPCC, encoding="utf-8")
    hipcc.chmod(0o755)
    includes = "".join(f"#include <{header}>\n" for header in (_kernels.PRELUDE, *_CUPY_HEADERS))
    (new.include / _kernels.CUPY_PRELUDE).write_text(includes, encoding="utf-8")

    functions = _wheel_functions(cupy)

    def build_library(library: Library) -> None:
        _build_library(new, library, functions[library], gxx)

    def precompile(prelude: str) -> None:
        header = new.include / prelude
        includes = (f"-I{new.include}", f"-I{cupy / '_core' / 'include'}")
        gxx.check(*_kernels.FLAGS, *includes, "-x", "c++-header", header, "-o", f"{header}.gch")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(precompile, prelude)
            for prelude in (_kernels.PRELUDE, _kernels.CUPY_PRELUDE)
        ]
        jobs += [pool.submit(build_library, library) for library in reversed(LIBRARIES)]
    for job in jobs:
        job.result()


def _wheel_functions(cupy: Path) -> dict[Library, dict[str, str]]:
    """The functions that the wheel expects of each library, with their symbol versions."""
    packages = [cupy.with_name(name) for name in ("cupy", "cupy_backends", "cupyx")]
    modules = [module for package in packages for module in package.rglob("*.so")]
    command = ["nm", "--dynamic", "--undefined-only", *map(str, modules)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions: dict[Library, dict[str, str]] = {library: {} for library in LIBRARIES}
    for name, version in re.findall(r" U (_*(?:hip|roc)\w+)(?:@(\S+))?", listing):
        for library in LIBRARIES:
            if name.lstrip("_").startswith(library.prefix):
                functions[library][name] = version
                break
    return functions


def _build_library(new: Build, library: Library, functions: dict[str, str], gxx: Gxx) -> None:
    """Compiles the library's sources, and a stub for each function that they do not define."""
    stubs = new.generated / f"{library.soname}.cpp"
    stubs.write_text(_stubs(library, functions), encoding="utf-8")
    script = new.generated / f"{library.soname}.map"
    script.write_text(_version_script(library, functions), encoding="utf-8")
    sources = [_PACKAGE / "src" / name for name in library.sources]
    linking = (f"-Wl,-soname,{library.soname}", f"-Wl,--version-script={script}")
    output = ("-o", new.library(library))
    gxx.check(*_LIBRARY_FLAGS, f"-I{new.include}", *sources, stubs, *linking, *output)


def _stubs(library: Library, functions: Iterable[str]) -> str:
    lines = ['extern "C" int cupy_on_cpu_missing(const char* function, int status);']
    for name in functions:
        result = f'cupy_on_cpu_missing("{name}", {library.missing})' if library.missing else "0"
        lines.append(f'extern "C" __attribute__((weak)) int {name}() {{ return {result}; }}')
    return "\n".join(lines) + "\n"


def _version_script(library: Library, functions: dict[str, str]) -> str:
    """Exports each function under the version that the wheel asks for."""
    by_version = defaultdict(list)
    for name, version in functions.items():
        if version:
            by_version[version].append(name)
    if not by_version:
        return f"{{ global: {library.prefix}*; {_EXPORTS} local: *; }};\n"
    nodes = [f"{v} {{ global: {'; '.join(names)}; }};\n" for v, names in by_version.items()]
    return "".join(nodes) + f"cupy_on_cpu {{ global: {_EXPORTS} local: *; }};\n"
