"""Small parameters together: an optimizer updates many by one call, as one flat array.

Updating a small array costs the overhead of Python and NumPy, not arithmetic. So the values and the
gradients of many are copied into two flat arrays, what is remembered of them lives in flat arrays,
of which each parameter's memory is a view, and `update` is called once. It must be elementwise, and
has to say so (see `elementwise`); then the numbers are those of one call each, to the last bit.

Parameters keep their own arrays, so nobody can tell the difference. (As views of one flat array
they would not have to be copied; but whoever held a parameter's array before would be left with an
old one, and two optimizers of one model would take the parameters from each other.)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from operator import is_, itemgetter
from typing import Any, TypeAlias, TypeVar

import numpy as np

from tinybn.tensor import Tensor, tick

SMALL = 4096
"""Larger parameters go alone: copying them would cost what the overhead does."""
TOGETHER = 2**15
"""At most so many elements at once: more gain no time, and cost memory for the copies."""

State: TypeAlias = dict[str, Any]
Update = TypeVar("Update", bound=Callable[..., None])


def elementwise(update: Update) -> Update:
    """Declare that an optimizer's `update` treats each element by itself (a decorator).

    That is, it looks at no shape, norm or position, and so may get many parameters as one array.
    It is said of this method: another `update`, in a subclass, has to say it anew.
    """
    update.elementwise = True  # type: ignore[attr-defined]
    return update


class Pack:
    """Small parameters that are in the same step, alike in their dtypes."""

    def __init__(
        self,
        members: Sequence[int],
        params: Sequence[Tensor],
        states: Sequence[State],
        names: Sequence[str],
        scratch: np.ndarray,
    ) -> None:
        """Of the parameters with the numbers `members`; names: what is remembered of each."""
        self.members = members
        self.pick: Callable[[Any], tuple[Any, ...]] = itemgetter(*members)
        arrays = [p._data for p in self.pick(params)]
        self.shapes = [a.shape for a in arrays]
        self.p, self.g = scratch[:, : sum(a.size for a in arrays)]
        self.parts = list(zip(arrays, self._parts(self.p), self._parts(self.g), strict=True))
        self.memory = []
        self.views = []
        for name in names:
            old = [state[name] for state in self.pick(states)]
            self.memory.append(np.concatenate(old, axis=None))
            views = self._parts(self.memory[-1])
            for state, view in zip(self.pick(states), views, strict=True):
                state[name] = view
            self.views.append((itemgetter(name), views))

    def _parts(self, flat: np.ndarray) -> list[np.ndarray]:
        """Each member's part of a flat array, in its shape."""
        ends = list(accumulate(map(math.prod, self.shapes)))
        parts = np.split(flat, ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def step(
        self, params: Sequence[Tensor], states: Sequence[State], update: Callable[..., None]
    ) -> bool:
        """Update the members. False, and nothing is done, if they are not what they were."""
        params, states = self.pick(params), self.pick(states)
        step, dtype = states[0].get("step"), self.p.dtype
        try:
            for name, views in self.views:
                if not all(map(is_, map(name, states), views)):
                    return False
            for p, state, (array, value, gradient) in zip(params, states, self.parts):  # noqa: B905
                g = p.grad._data
                if (
                    p._data is not array
                    or g.shape != value.shape
                    or g.dtype != dtype
                    or state["step"] != step
                ):
                    return False
                value[...] = array
                gradient[...] = g
        except AttributeError:  # a gradient is missing: if all are, there is nothing to do
            return all(p.grad is None for p in params)
        except KeyError:
            return False
        step += 1
        update(self.p, self.g, step, *self.memory)
        now = tick()
        for p, state, (array, value, _) in zip(params, states, self.parts):  # noqa: B905
            array[...] = value
            p._changed = now
            state["step"] = step
        return True


class Packing:
    """Which parameters of an optimizer are updated together, and which alone."""

    def __init__(self) -> None:
        self.packs: list[Pack] = []
        self.alone: Sequence[int] = ()
        self.count = 0

    def step(
        self, params: Sequence[Tensor], states: Sequence[State], update: Callable[..., None]
    ) -> Sequence[int]:
        """Update those that are together; returns the numbers of the others."""
        if len(params) != self.count:
            self.packs, self.alone, self.count = [], range(len(params)), len(params)
        held = [pack for pack in self.packs if pack.step(params, states, update)]
        if len(held) < len(self.packs):
            together = {i for pack in held for i in pack.members}
            self.packs = held
            self.alone = [i for i in range(len(params)) if i not in together]
        return self.alone

    def form(self, params: Sequence[Tensor], states: Sequence[State], names: Sequence[str]) -> None:
        """Pack what has just been updated alone, as far as it fits together."""
        alike = defaultdict(list)
        for i in self.alone:
            if (kind := _kind(params[i], states[i], names)) is not None:
                alike[kind].append(i)
        for kind, numbers in alike.items():
            batches = [b for b in _batches(numbers, params) if len(b) > 1 and _apart(b, params)]
            if batches:
                size = max(sum(params[i].size for i in batch) for batch in batches)
                scratch = np.empty((2, size), kind[1])
                self.packs += [Pack(batch, params, states, names, scratch) for batch in batches]
                self.alone = sorted({*self.alone}.difference(*batches))


def _kind(p: Tensor, state: State, names: Sequence[str]) -> tuple[Any, ...] | None:
    """What parameters must have in common to be packed; None of one that has to go alone."""
    a = p._data
    if type(a) is not np.ndarray or a.size > SMALL or p.grad is None:
        return None
    # What NumPy makes of 0-d arrays are scalars, with functions of their own: other last bits.
    if not (a.ndim and a.flags.carray):
        return None
    return state["step"], a.dtype, *(state[name].dtype for name in names)


def _batches(numbers: Sequence[int], params: Sequence[Tensor]) -> Iterator[list[int]]:
    """Parts of `numbers`, one after the other, of at most TOGETHER elements."""
    batch: list[int] = []
    size = 0
    for i in numbers:
        size += params[i].size
        if size > TOGETHER:
            yield batch
            batch, size = [], params[i].size
        batch.append(i)
    yield batch


def _apart(numbers: Sequence[int], params: Sequence[Tensor]) -> bool:
    """Whether no two of these share memory: each would be updated from the same old values."""
    bounds = sorted(np.lib.array_utils.byte_bounds(params[i]._data) for i in numbers)
    return all(end <= start for (_, end), (start, _) in pairwise(bounds))
