"""Communicators: the ranks that run one program together, and how they exchange arrays.

A rank is a process with a number. All ranks make the same calls in the same order. Each message
carries a mark made of its number and its meaning, so ranks that make different calls notice it at
once, or within seconds where MPI would wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinybn.backend import MODULES, Array, move
from tinybn.distributed.board import Board

yield_core = getattr(os, "sched_yield", lambda: time.sleep(0))

SPIN = 0.002
"""Seconds of waiting after which a rank sleeps between two looks: at once if cores are short."""
GRACE = 1.0
"""Seconds of waiting after which a rank looks at what the others do."""
SENT_AS = {np.dtype(np.float16): np.dtype(np.float32), np.dtype(bool): np.dtype(np.uint8)}
"""Dtypes that MPI lacks, or that hold no mark."""
KINDS = ("all_reduce", "all_gather", "broadcast", "leave")


class DistributedError(RuntimeError):
    """The ranks do not do the same, or one of them is gone. The message names it."""


class Communicator:
    """What ranks offer each other; this one is alone, needs no MPI and sends nothing.

    Attributes:
        rank: the number of this rank, from 0.
        size: the number of ranks.
        traffic: what this rank has sent so far, as a Counter of "messages" and "bytes". A message
            is one collective call; its bytes are those that this rank hands to MPI.
    """

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.traffic: Counter[str] = Counter(messages=0, bytes=0)

    def all_reduce(self, array: Array, what: str = "an array") -> Array:
        """Σ over the ranks of an array that has the same shape and dtype on each."""
        return array

    def all_gather(self, array: Array, what: str = "an array") -> Array:
        """The arrays of all ranks, of one shape and dtype, stacked along a new first axis."""
        return array.reshape((1, *array.shape))

    def broadcast(self, content: bytes, what: str = "bytes") -> bytes:
        """The bytes of rank 0."""
        return content

    def gather(self, content: bytes, what: str = "bytes") -> list[bytes]:
        """The bytes of every rank, in their order."""
        return [content]

    def __deepcopy__(self, memo: Any) -> Communicator:
        return self  # the copy of a model talks to the same ranks

    def __repr__(self) -> str:
        return f"rank {self.rank} of {self.size}"


ALONE = Communicator()
"""One rank, without MPI."""


class Ranks(Communicator):
    """The ranks that mpiexec started; `connect` makes one."""

    def __init__(self, mpi: Any, patience: float, gpu_aware: bool) -> None:
        super().__init__()
        world = mpi.COMM_WORLD
        self.rank, self.size = world.rank, world.size
        self.patience, self.gpu_aware = patience, gpu_aware
        self._mpi = mpi
        # A channel per kind: MPI might otherwise match calls of two kinds, and hand out nonsense.
        self._channels = {kind: world.Dup() for kind in KINDS}
        self._board = Board(mpi, world)
        self._spin = SPIN if len(self._board.pids) <= (os.cpu_count() or 1) else 0.0

    def all_reduce(self, array: Array, what: str = "an array") -> Array:
        call, mark = self._announce("all_reduce", array, what)
        whole = array.dtype.kind in "iub"  # sums of small integers overflow
        xp, buffer = self._packed(array.astype(np.int64) if whole else array, mark)
        channel = self._channels["all_reduce"]
        self._wait(channel.Iallreduce(self._mpi.IN_PLACE, buffer), call, buffer.nbytes)
        if buffer[-1] != mark * self.size:
            raise self._different(call)
        return xp.asarray(buffer[:-1]).reshape(array.shape).astype(array.dtype, copy=False)

    def all_gather(self, array: Array, what: str = "an array") -> Array:
        call, mark = self._announce("all_gather", array, what)
        xp, buffer = self._packed(array, mark)
        rows = np.empty((self.size, buffer.size), buffer.dtype)
        rows = rows if isinstance(buffer, np.ndarray) else xp.asarray(rows)
        channel = self._channels["all_gather"]
        self._wait(channel.Iallgather(buffer, rows), call, buffer.nbytes)
        if (rows[:, -1] != mark).any():
            raise self._different(call)
        found = xp.asarray(rows[:, :-1]).reshape((self.size, *array.shape))
        return found.astype(array.dtype, copy=False)

    def broadcast(self, content: bytes, what: str = "bytes") -> bytes:
        size = int(self.all_gather(np.array(len(content)), f"the size of {what}")[0])
        buffer = np.empty(size, np.uint8)
        if self.rank == 0:
            buffer[:] = np.frombuffer(content, np.uint8)
        call, _ = self._announce("broadcast", buffer, what)
        self._wait(self._channels["broadcast"].Ibcast(buffer, 0), call, size)
        return buffer.tobytes()

    def gather(self, content: bytes, what: str = "bytes") -> list[bytes]:
        sizes = self.all_gather(np.array(len(content)), f"the size of {what}")
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: len(content)] = np.frombuffer(content, np.uint8)
        rows = self.all_gather(padded, what)
        return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]

    def _announce(self, kind: str, array: Array, what: str) -> tuple[str, int]:
        """Write on the board which call comes next. Returns it, and its mark."""
        if hasattr(array, "check_later"):  # it is recorded (see program/) and holds no numbers
            raise RuntimeError(
                f"{kind} of {what}: a step that exchanges numbers between ranks can't be compiled: "
                "run it without tb.compile, or compile only what lies between the exchanges"
            )
        number = self.traffic["messages"] + 1
        call = f"{kind} of {what}, {array.dtype} {array.shape}"
        self._board.write(number, "in", call)
        largest = 250 if array.dtype.itemsize == 1 else 8190  # 2048 times this fits into a float32
        return call, zlib.crc32(f"{number} {call}".encode()) % largest + 1

    def _packed(self, array: Array, mark: int) -> tuple[Any, Array]:
        """The array's library, and a vector that MPI may read and write: its numbers, the mark."""
        xp: Any = MODULES[type(array)]
        dtype = SENT_AS.get(array.dtype, array.dtype)
        buffer = xp.empty(array.size + 1, dtype)
        buffer[:-1] = array.reshape(-1)
        buffer[-1] = mark
        if xp is np:
            return xp, buffer
        if not self.gpu_aware:
            return xp, move(buffer, "numpy")  # through the host
        xp.cuda.get_current_stream().synchronize()  # MPI knows nothing of streams
        return xp, buffer

    def _wait(self, request: Any, call: str, size: int) -> None:
        """Wait for a message. A rank that waits leaves its core to others, and heeds signals."""
        number = self.traffic["messages"] + 1
        start = time.monotonic()
        look = start + GRACE
        try:
            while not request.Test():
                now = time.monotonic()
                if now < start + self._spin:
                    yield_core()
                    continue
                time.sleep(5e-5)
                if now > look:
                    look = now + GRACE / 4
                    if fault := self._board.fault(number, call, now - start > self.patience):
                        raise DistributedError(f"waiting in {call} (message {number}): {fault}")
        except self._mpi.Exception as error:
            raise DistributedError(f"{call} (message {number}): MPI says {error}") from error
        self.traffic.update(messages=1, bytes=size)
        self._board.write(number, "after", call)

    def _different(self, call: str) -> DistributedError:
        others = self._board.read_all(self.rank)
        return DistributedError(
            f"the ranks exchange different things: this one does {call} (message "
            f"{self.traffic['messages']}); {others or 'the others something else'}"
        )

    def leave(self) -> None:
        """Wait until all ranks have come to the end."""
        self._board.write(self.traffic["messages"], "left", "")
        self._wait(self._channels["leave"].Ibarrier(), "leave", 0)
        self._board.close()

    def fail(self, error: BaseException) -> None:
        """Say why this rank ends, and end all of them."""
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        text = f"tinybn: rank {self.rank} of {self.size} failed: {reason}\n"
        text += "".join(traceback.format_exception(error))
        with contextlib.suppress(Exception):  # all at once: other ranks may end this one meanwhile
            sys.stdout.flush()
            os.write(2, text.encode(errors="replace"))
            self._board.write(self.traffic["messages"], "failed", reason)
        self._mpi.COMM_WORLD.Abort(1)
        os._exit(1)  # Abort may return before mpiexec acts


@contextlib.contextmanager
def connect(*, patience: float = 600.0, gpu_aware: bool = False) -> Iterator[Communicator]:
    """Join the ranks that `mpiexec -n 4 python script.py` started; alone, a rank of size 1.

    An exception that leaves the block ends all ranks, after a message that names this one. So does
    a rank that is killed, that leaves early, or whose calls differ from those of the others.

    Args:
        patience: the number of seconds to wait for a rank that is still computing.
        gpu_aware: hand CuPy arrays to MPI as they are, for an MPI that was built for it. Otherwise
            they go through the host.

    Raises:
        ModuleNotFoundError: mpi4py is not installed.
    """
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "tb.distributed needs mpi4py and an MPI: run `pip install 'tinybn[mpi]'`"
        ) from error
    if MPI.COMM_WORLD.size == 1:
        yield Communicator()
        return
    ranks = Ranks(MPI, patience, gpu_aware)
    try:
        try:
            yield ranks
        except SystemExit as end:
            if end.code:
                raise
        ranks.leave()
    except BaseException as error:
        ranks.fail(error)
