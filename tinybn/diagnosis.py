"""Why CuPy does not run: for each cause, one sentence that says what to do."""

from __future__ import annotations

from typing import Any

_INSTALL = (
    "run `pip install 'cupy-cuda13x[ctk]'` (NVIDIA driver 580.65 or newer) or "
    "`pip install 'cupy-cuda12x[ctk]'` (525.60 or newer)"
)


def packages() -> list[str]:
    """The installed CuPy packages. If there are several, they overwrite each other's files."""
    import importlib.metadata  # it takes a third of the time to import tinybn

    names = {str(d.name).lower() for d in importlib.metadata.distributions()}
    return sorted(n for n in names if n == "cupy" or n.startswith(("cupy-cuda", "cupy-rocm")))


def import_failure(error: ImportError) -> str:
    """Why `import cupy` failed."""
    if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
        return f"CuPy is not installed: {_INSTALL}"
    cause = error.__cause__ or error  # CuPy wraps the cause in a page of text
    return (
        f"CuPy is installed but can't be imported ({cause}): install the package for your GPU "
        "(cupy-cuda13x, cupy-cuda12x or cupy-rocm-7-0), and for ROCm also ROCm itself"
    )


def run_failure(runtime: Any, error: Exception) -> str:
    """Why an imported CuPy cannot run a kernel. `runtime` is `cupy.cuda.runtime`."""
    status = getattr(error, "status", None)
    amd = getattr(runtime, "is_hip", False)
    if status == 35 and not amd:  # cudaErrorInsufficientDriver, also where there is no driver
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            return "CuPy finds no NVIDIA driver: install one (in a container: run with --gpus all)"
        other = " or install cupy-cuda12x instead" if 12000 <= driver < 13000 <= needed else ""
        return (
            f"the NVIDIA driver supports CUDA {version(driver)}, but this CuPy needs "
            f"{version(needed)}: update the driver{other}"
        )
    if status == 100:  # cudaErrorNoDevice, hipErrorNoDevice
        look = "rocm-smi and HIP_VISIBLE_DEVICES" if amd else "nvidia-smi and CUDA_VISIBLE_DEVICES"
        return f"CuPy finds a driver but no GPU: check {look}"
    if isinstance(error, ImportError) or type(error).__name__ == "DynamicLibNotFoundError":
        cure = "install ROCm" if amd else "run `pip install 'cupy-cuda13x[ctk]'` (or cuda12x)"
        return f"CuPy finds a GPU but not the libraries it needs ({_line(error)}): {cure}"
    return f"CuPy can't run here ({type(error).__name__}: {_line(error)})"


def two_packages(reason: str | None = None) -> str:
    """What to do about several `packages()`. They are probably why something else failed, too."""
    names = packages()
    because = f" ({reason})" if reason else ""
    return (
        f"{len(names)} CuPy packages are installed and overwrite each other: "
        f"run `pip uninstall {' '.join(names)}`, then install one of them{because}"
    )


def version(number: int) -> str:
    """A version number of CUDA as people write it: 12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _line(error: Exception) -> str:
    """The first line of the message of an error."""
    return next((line for line in str(error).splitlines() if line.strip()), "")
