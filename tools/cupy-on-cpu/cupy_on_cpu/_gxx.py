"""The C++ compiler, g++."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

OLDEST = 12  # the first g++ with _Float16 on x86-64


class UnavailableError(RuntimeError):
    """CuPy cannot run here; the message says why and what to do."""


@dataclass(frozen=True)
class Gxx:
    """A g++ that is new enough."""

    path: str
    version: str

    @classmethod
    def find(cls) -> "Gxx":
        """The compiler that the environment variable CUPY_ON_CPU_CXX names, or else g++."""
        name = os.environ.get("CUPY_ON_CPU_CXX", "g++")
        path = shutil.which(name)
        if path is None:
            raise UnavailableError(f"CuPy on the CPU needs {name} (Debian: apt-get install g++)")
        version = cls(path, "").run("--version").stdout.partition("\n")[0]
        major = re.search(r" (\d+)\.\d+", version)
        if major is None or int(major[1]) < OLDEST:
            raise UnavailableError(f"CuPy on the CPU needs g++ {OLDEST} or newer, not {version!r}")
        return cls(path, version)

    def run(self, *arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
        """Run it; the return code is the caller's business."""
        command = [self.path, *arguments]
        return subprocess.run(command, capture_output=True, text=True, errors="replace")

    def check(self, *arguments: str | os.PathLike[str]) -> None:
        """Run it; UnavailableError if it fails."""
        result = self.run(*arguments)
        if result.returncode != 0:
            raise UnavailableError(f"g++ cannot compile cupy-on-cpu:\n{result.stderr}")
