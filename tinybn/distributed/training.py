"""Data-parallel training: shards of each batch, synchronised norms, averaged gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tinybn.backend import MODULES, Array
from tinybn.distributed.communicator import Communicator
from tinybn.init import RandomState
from tinybn.tensor import Tensor, wrap

BUCKET = 4 << 20
"""The number of bytes in a bucket of gradients, unless a single gradient is larger."""


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
