"""What all ranks hold: one start state, equal states, and checkpoints that rank 0 writes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinybn import checkpoint
from tinybn.distributed.communicator import Communicator, DistributedError


def broadcast(comm: Communicator, **parts: Any) -> None:
    """Give all ranks the state that rank 0 has, and check that they have it.

    Args:
        parts: models, optimizers and other objects with a `state_dict`, by name.

    Raises:
        ValueError: a part of this rank does not fit that of rank 0.
    """
    state = checkpoint.join(**parts)
    content = comm.broadcast(_packed(state) if comm.rank == 0 else b"", "the start state")
    if comm.rank > 0:
        checkpoint.restore(_unpacked(content), **parts)
    agree(comm, checkpoint.join(**parts))


def agree(comm: Communicator, state: Mapping[str, Any]) -> None:
    """Check that all ranks hold the same state, by a hash of its names and bits.

    Raises:
        DistributedError: they don't. The message names a rank and an entry.
    """
    hashes = {name: _hash(value) for name, value in state.items()}
    whole = hashlib.sha256("".join(f"{n}\0{h}\n" for n, h in hashes.items()).encode()).digest()
    if len({*comm.gather(whole, "the hash of the state")}) == 1:
        return
    listing = "\n".join(f"{name}\0{h}" for name, h in hashes.items()).encode()
    lists = [text.decode() for text in comm.gather(listing, "the hashes of all entries")]
    entries = [dict(line.split("\0") for line in text.split("\n") if line) for text in lists]
    for rank, found in enumerate(entries):
        for name in entries[0] | found:
            if found.get(name) != entries[0].get(name):
                raise DistributedError(
                    f"rank {rank} has another {name} than rank 0: broadcast the start state, and "
                    "let all ranks make the same steps (a BatchNorm without sync= has running "
                    "statistics of its own on each rank: average_buffers makes them equal)"
                )
    raise DistributedError("the ranks hold the same state in another order")


def save(
    comm: Communicator,
    path: checkpoint.PathLike,
    own: Mapping[str, Any] | None = None,
    **parts: Any,
) -> None:
    """Let rank 0 write a checkpoint of what all ranks share, and of what each has of its own.

    Args:
        own: objects with a `state_dict` that differ between ranks, such as random generators.
        parts: objects that are in the same state on all ranks, which is checked.

    Raises:
        DistributedError: the states differ.
        OSError: rank 0 can't write the file. An older one is still there.
    """
    state = checkpoint.join(**parts)
    agree(comm, state)
    contents = comm.gather(_packed(checkpoint.join(**own or {})), "the ranks' own states")
    if comm.rank == 0:
        each = {f"rank{i}": _unpacked(content) for i, content in enumerate(contents)}
        checkpoint.save(path, state | checkpoint.join(**each, ranks={"size": comm.size}))
    comm.broadcast(b"", "the news that a checkpoint is written")


def load(
    comm: Communicator,
    path: checkpoint.PathLike,
    own: Mapping[str, Any] | None = None,
    **parts: Any,
) -> None:
    """Restore what `save` wrote: rank 0 reads the file, and all ranks go on bit for bit.

    Raises:
        ValueError: the file does not fit, or was saved by another number of ranks.
    """
    content = _packed(checkpoint.load(path)) if comm.rank == 0 else b""
    state = _unpacked(comm.broadcast(content, "a checkpoint"))
    if (size := int(state.get("ranks/size", 0))) != comm.size:
        raise ValueError(f"{path} was saved by {size} ranks, and can't be loaded by {comm.size}")
    checkpoint.restore(state, **parts)
    if own:
        checkpoint.restore(checkpoint.part(state, f"rank{comm.rank}"), **own)


def _packed(state: Mapping[str, Any]) -> bytes:
    """Arrays by name as bytes, without pickling."""
    content = io.BytesIO()
    np.savez(content, **{f"/{name}": value for name, value in state.items()})
    return content.getvalue()


def _unpacked(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name[1:]: archive[name] for name in archive.files}


def _hash(value: Any) -> str:
    array = np.asarray(value, order="C")
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()
