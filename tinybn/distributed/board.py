"""The board: where each rank writes what it does, for others to read when they wait too long.

Writing is a copy into memory that the ranks of one machine share, not a message. Where the system
can tell, a process of its own watches the ranks and names the first that dies, because mpiexec then
kills the others before they could.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

LINE = 512
"""The number of bytes that a rank may write."""
BATCHES = "do all ranks have the same number of batches?"


class Board:
    """One line of text per rank of this machine: message, state, call.

    The state is "in" a call, "after" it, "left" or "failed".
    """

    def __init__(self, mpi: Any, world: Any) -> None:
        here = world.Split_type(mpi.COMM_TYPE_SHARED)
        self._window = mpi.Win.Allocate_shared(LINE, 1, comm=here)
        pairs = np.empty((here.size, 2), np.int64)
        here.Allgather(np.array([world.rank, os.getpid()]), pairs)
        self.pids = {int(rank): int(pid) for rank, pid in pairs}
        self._rank = world.rank
        self._lines = {
            rank: np.frombuffer(self._window.Shared_query(i)[0], np.uint8)
            for i, rank in enumerate(self.pids)
        }
        self.write(0, "after", "the start")
        here.Barrier()
        self._watcher = _watch(self.pids) if here.rank == 0 else None

    def write(self, number: int, state: str, call: str) -> None:
        """Replace the line of this rank."""
        text = f"{number}\t{state}\t{call}".encode()[:LINE]
        line = self._lines[self._rank]
        line[: len(text)] = np.frombuffer(text, np.uint8)
        line[len(text) :] = 0

    def _read(self, rank: int) -> tuple[int, str, str]:
        text = self._lines[rank].tobytes().rstrip(b"\0").decode(errors="replace")
        number, state, call = (*text.split("\t", 2), "", "")[:3]
        return (int(number) if number.isdigit() else 0), state, call

    def read_all(self, but: int) -> str:
        """What all other ranks of this machine do."""
        return "; ".join(self._described(rank) for rank in self._lines if rank != but)

    def _described(self, rank: int) -> str:
        number, state, call = self._read(rank)
        name = f"rank {rank} (pid {self.pids[rank]})"
        if state == "left":
            return f"{name} has left after {number} messages"
        if state == "failed":
            return f"{name} failed: {call}"
        return f"{name} is {state} {call} (message {number})"

    def fault(self, number: int, call: str, late: bool) -> str | None:
        """Why the message of this number will never come, or None if it still may."""
        for rank, pid in self.pids.items():
            if rank == self._rank:
                continue
            its_number, state, its_call = self._read(rank)
            if not _alive(pid):
                return f"rank {rank} (pid {pid}) has died"
            if state == "failed":
                return self._described(rank)
            if state == "left" and call != "leave":
                return f"{self._described(rank)}: {BATCHES}"
            if state == "in" and call == "leave":
                return f"this rank has left, but {self._described(rank)}: {BATCHES}"
            if state == "in" and (its_number, its_call) != (number, call) and its_number >= number:
                return f"{self._described(rank)}: all ranks must make the same calls"
        return f"its patience has ended; {self.read_all(self._rank)}" if late else None

    def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None and self._watcher.stdin is not None:
            with contextlib.suppress(OSError):
                self._watcher.stdin.write(b"end")
                self._watcher.stdin.close()
            self._watcher.wait()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _watch(pids: dict[int, int]) -> subprocess.Popen[bytes] | None:
    """Start watcher.py, where the system has what it needs."""
    if not hasattr(os, "pidfd_open"):  # Linux has it
        return None
    watcher = Path(__file__).with_name("watcher.py")
    arguments = [f"{rank}:{pid}" for rank, pid in pids.items()]
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", str(watcher), *arguments],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
