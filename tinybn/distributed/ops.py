"""Sums and stacks over ranks, as differentiable ops.

Think of one loss: the sum of the losses of all ranks. Each rank computes its own, calls backward,
and gets the gradient of that sum. A sum over ranks y = Σ xᵣ is then read by all ranks, each of
which has a gradient of y, and the gradient of every xᵣ is the sum of these. So the rule of
all_reduce is all_reduce, and derivatives of any order follow. All ranks must make the same calls.
"""

from __future__ import annotations

from typing import Any

from tinybn.backend import Array
from tinybn.distributed.communicator import Communicator
from tinybn.op import primitive

__all__ = ["all_gather", "all_reduce"]


@primitive(lambda g, comm: all_reduce(g, comm=comm))
def all_reduce(xp: Any, a: Array, *, comm: Communicator) -> Array:
    """Σ a over the ranks. Its shape and dtype must be the same on each."""
    return comm.all_reduce(a)


@primitive(lambda g, comm: all_reduce(g, comm=comm)[comm.rank])
def all_gather(xp: Any, a: Array, *, comm: Communicator) -> Array:
    """The arrays a of all ranks, of one shape and dtype, stacked along a new first axis."""
    return comm.all_gather(a)
