"""Data-parallel training: one start state, shards of each batch, averaged gradients, checkpoints."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tinybn import checkpoint
from tinybn.backend import MODULES, Array
from tinybn.distributed.communicator import Communicator, DistributedError
from tinybn.init import RandomState
from tinybn.tensor import Tensor, wrap

BUCKET = 4 << 20
"""The number of bytes in a bucket of gradients, unless a single gradient is larger."""


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


def synchronize(comm: Communicator, model: Any) -> None:
    """Let every BatchNorm in a model normalize over the batches of all ranks."""
    for module in model.modules():
        if hasattr(module, "sync"):
            module.sync = comm


def average_gradients(
    comm: Communicator, params: Iterable[Tensor], loss: Tensor | None = None, bucket: int = BUCKET
) -> Any:
    """Replace each gradient by its average over the ranks, in a few large messages.

    Each rank's loss is a mean over its part of the batch, times the `share` that `Shards` gives.
    Then the average is the gradient of the mean over the whole batch.

    Args:
        params: the parameters, in the same order on all ranks. Those without a gradient are left
            out, on all ranks alike.
        loss: a scalar that is averaged, too, at no extra message.
        bucket: the bytes of a message.

    Returns:
        The average of `loss`, without a history.
    """
    given = [p.grad for p in params if p.grad is not None]
    total = None if loss is None else wrap(loss.data.reshape(()))
    if total is not None:
        given.insert(0, total)
    if comm.size > 1:
        for number, tensors in enumerate(buckets(given, bucket)):
            xp: Any = MODULES[type(tensors[0].data)]
            flat = xp.concatenate([g.data.reshape(-1) for g in tensors])
            flat = comm.all_reduce(flat, f"gradients, bucket {number}") / comm.size
            ends = np.cumsum([g.size for g in tensors])
            for g, end in zip(tensors, ends, strict=True):
                g.data = flat[end - g.size : end].reshape(g.shape)
    return total


def buckets(tensors: Iterable[Tensor], size: int = BUCKET) -> list[list[Tensor]]:
    """Neighbours in groups of one dtype and up to `size` bytes; a larger one is alone."""
    groups: list[list[Tensor]] = []
    left, dtype = 0, None
    for t in tensors:
        if t.dtype != dtype or t.data.nbytes > left:
            groups.append([])
            left, dtype = size, t.dtype
        groups[-1].append(t)
        left -= t.data.nbytes
    return groups


def average_buffers(comm: Communicator, model: Any) -> None:
    """Replace floating-point buffers, such as running statistics, by their averages over the ranks.

    Only batch norm without `sync=` needs it, before evaluation and before `save`.
    """
    named = {name for name, _ in model.named_parameters()}
    state = model.state_dict()
    for name, value in state.items():
        if name not in named and value.dtype.kind == "f":
            state[name] = comm.all_reduce(value, name) / comm.size
    model.load_state_dict(state)


class Shards:
    """This rank's parts of the mini-batches of two arrays; each loop over it is one epoch.

    All ranks draw the same order from the seed, so that together they see each batch that one rank
    alone would see, and every example once an epoch. The parts of a batch differ in length by one
    or not at all. A last batch with fewer examples than ranks joins the one before it.

    Yields (x[i], y[i], share). The share is 1 for equal parts, and otherwise the length of this
    part times the number of ranks over the length of the batch: see `average_gradients`.

    Args:
        batch_size: the number of examples in a batch, on all ranks together.
        seed: draws the order of each epoch; the same on all ranks.
        drop_last: leave out a smaller last batch.

    Raises:
        ValueError: a batch has fewer examples than there are ranks.
    """

    def __init__(
        self,
        comm: Communicator,
        x: Array,
        y: Array,
        batch_size: int,
        *,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if len(x) != len(y):
            raise ValueError(f"x and y must have equal lengths, got {len(x)} and {len(y)}")
        if not comm.size <= batch_size or len(x) < (batch_size if drop_last else comm.size):
            raise ValueError(
                f"{len(x)} examples in batches of {batch_size} are too few for {comm.size} ranks "
                f"(drop_last={drop_last})"
            )
        self.comm, self.x, self.y = comm, x, y
        self.batch_size = batch_size
        starts = [*range(0, len(x), batch_size), len(x)]
        rest = starts[-1] - starts[-2]
        if drop_last and rest < batch_size:
            starts.pop()
        elif rest < comm.size:
            del starts[-2]
        self._starts = starts
        self._rng = np.random.default_rng(seed)
        self._random = RandomState(self._rng)
        self._order = np.arange(len(x))
        self._given = len(self)
        self._continue = False

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[tuple[Any, Any, float]]:
        if not self._continue or self._given >= len(self):
            self._order, self._given = self._rng.permutation(len(self.x)), 0
        self._continue = False
        for k in range(self._given, len(self)):
            batch = self._order[self._starts[k] : self._starts[k + 1]]
            own = np.array_split(batch, self.comm.size)[self.comm.rank]
            self._given = k + 1
            yield self.x[own], self.y[own], len(own) * self.comm.size / len(batch)

    def state_dict(self) -> dict[str, Any]:
        """The order of the epoch, the number of batches given, and the generator's state."""
        return {"order": self._order.copy(), "given": self._given, **self._random.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where other shards of the same data, in as many batches, were."""
        order, given = np.asarray(state["order"]), int(state["given"])
        if not np.array_equal(np.sort(order), np.arange(len(self.x))) or given > len(self):
            raise ValueError(
                f"load_state_dict changed nothing: expected an order of {len(self.x)} examples and "
                f"up to {len(self)} batches, got {order.shape} and {given}"
            )
        self._random.load_state_dict({"state": state["state"]})
        self._order, self._given, self._continue = order, given, True


def save(
    comm: Communicator, path: checkpoint.PathLike, own: Mapping[str, Any] | None = None, **parts: Any
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
    comm: Communicator, path: checkpoint.PathLike, own: Mapping[str, Any] | None = None, **parts: Any
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
