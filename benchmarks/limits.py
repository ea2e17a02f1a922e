"""Why a step takes the time it takes: what the floor has to do, at the rates of this machine.

Three things take time in a step by hand: the matrix products (measured: the contestant `products`),
the elementwise calls' way over memory (bytes over bandwidth), and Python and NumPy around each call
(calls times the cost of one). What is to be done is counted on a step that really runs; the rates
are measured by contestants of their own, which take turns with the floor and tinybn:

    square             a large square product: the best rate of NumPy's matmul
    add                a += b, where a and b fill as much memory as the step: its cache's bandwidth
    floor, no data     the floor's step with layers of one unit: the same calls, and hardly any data
    tinybn, no data    tinybn's step with layers of one unit
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from benchmarks import memory, mlp
from benchmarks.floor import Floor, optimizer_by_hand
from tinybn import autodiff

GAUGES = ("square", "add", "floor, no data", "tinybn, no data")
RIVALS = ("floor", "tinybn", "products", *GAUGES)
SIDE = 512


def make(
    rival: str, sizes: list[int], batch: int, optimizer: str
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """The work of a contestant, and what was counted in it."""
    if rival == "square":
        a = np.ones((SIDE, SIDE), np.float32)
        return lambda: a @ a, {"flops": 2 * SIDE**3}
    if rival == "add":
        return _add(sizes, batch, optimizer)
    if rival.endswith(", no data"):
        one_unit = [1] * (len(sizes) - 1) + [2]
        return mlp.make(rival.removesuffix(", no data"), one_unit, 4, optimizer)
    work, facts = mlp.make(rival, sizes, batch, optimizer)
    if rival == "floor":
        facts |= count(sizes, batch, optimizer)
    if rival == "tinybn":
        nodes = set()
        with autodiff.watch(lambda contribution: nodes.add(contribution.node)):
            work()
        facts["ops"] = len(nodes)
    return work, facts


def _add(sizes: list[int], batch: int, optimizer: str) -> tuple[Callable[[], Any], dict[str, Any]]:
    weights, [(x, labels), *_] = mlp.weights_and_batches(sizes, batch)
    size = int(memory.traced(lambda: Floor(weights, optimizer).step(x, labels))) // 8
    a, b = np.zeros((2, size), np.float32)
    return lambda: np.add(a, b, out=a), {"bytes": 3 * a.nbytes}


class Counted(np.ndarray):
    """An array that counts the NumPy calls on itself and on all that is computed from it.

    calls, of them products of two matrices, and their flops; and of all other calls the bytes of
    the arrays that they read and write.
    """

    total: ClassVar[Counter[str]] = Counter()

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (), **static: Any
    ) -> Any:
        """The same call on bare arrays."""
        if out:
            static["out"] = tuple(map(np.asarray, out))
        bare = [np.asarray(a) if isinstance(a, np.ndarray) else a for a in inputs]
        result = getattr(ufunc, method)(*bare, **static)
        if ufunc is np.matmul and bare[0].ndim == bare[1].ndim == 2:
            self.total.update(calls=1, products=1, flops=2 * result.size * bare[0].shape[1])
        else:
            self.total.update(calls=1, bytes=_nbytes(*bare, result))
        return out[0] if out else counted(result)

    def __getitem__(self, key: Any) -> Any:
        result = super().__getitem__(key)
        self._count_indexing(key, result)
        return result

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self._count_indexing(key, value)

    def _count_indexing(self, key: Any, value: Any) -> None:
        """A view moves nothing; index arrays are read, and elements are read and written."""
        indices = _nbytes(*key) if isinstance(key, tuple) else 0
        self.total.update(calls=1, bytes=indices and indices + 2 * _nbytes(value))


def _nbytes(*values: Any) -> int:
    return sum(a.nbytes for a in values if isinstance(a, np.ndarray))


def counted(value: Any) -> Any:
    """Arrays, and lists of them, as such that count; anything else as it is."""
    if isinstance(value, list):
        return [counted(a) for a in value]
    return value.view(Counted) if isinstance(value, np.ndarray) else value


def count(sizes: list[int], batch: int, optimizer: str) -> dict[str, int]:
    """The calls, products, flops and bytes (of the calls but the products) of the floor's step."""
    weights, [(x, labels), *_] = mlp.weights_and_batches(sizes, batch)
    floor = Floor(weights, optimizer)
    vars(floor).update({name: counted(value) for name, value in vars(floor).items()})
    floor.update = optimizer_by_hand(optimizer, [floor.flat])
    Counted.total.clear()
    floor.step(counted(x), labels)
    return dict(Counted.total)


def explain(row: dict[str, Any]) -> dict[str, float]:
    """What a race says: rates, and the seconds that follow, in seconds, bytes and flops.

    All from the best of a contestant's turns: a limit is what the machine can do, and times in its
    slow phases, which come and go between two turns, can't be added up.
    """
    facts, seconds = row["facts"], row["best"]
    floor = facts["floor"]
    bandwidth = facts["add"]["bytes"] / seconds["add"]
    call = seconds["floor, no data"] / floor["calls"]
    other_calls = floor["calls"] - floor["products"]  # the products' own are in their time
    parts = {
        "products": seconds["products"],
        "dispatch": other_calls * call,
        "memory": floor["bytes"] / bandwidth,
    }
    ops = facts["tinybn"]["ops"]
    no_data = seconds["tinybn, no data"] - seconds["floor, no data"]
    return {
        "rate": floor["flops"] / seconds["products"],
        "peak": facts["square"]["flops"] / seconds["square"],
        "call": call,
        "other_calls": other_calls,
        "bandwidth": bandwidth,
        **parts,
        "explained": sum(parts.values()),
        "op": (seconds["tinybn"] - seconds["floor"]) / ops,
        "op_no_data": no_data / ops,
    }
