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

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np

from tinybn.tensor import Tensor, tick

SMALL = 4096
"""Elements. Larger parameters go alone: copying them would cost what the overhead does."""

TOGETHER = 2**14
"""Elements of a pack, more or less: a larger one gains no time, and its temporaries cost pages."""

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
    """Small parameters alike in their dtypes and in the number of steps that they have made.

    members: their numbers. names: what is remembered of each. scratch: room for their values and
    gradients during a step.
    """

    def __init__(
        self,
        members: Sequence[int],
        params: Sequence[Tensor],
        states: Sequence[State],
        names: Sequence[str],
        scratch: np.ndarray,
    ) -> None:
        arrays = [params[i]._data for i in members]
        ends = list(accumulate((a.size for a in arrays), initial=0))
        self.members = members
        self.step: int = states[members[0]]["step"]
        self.p, self.g = scratch[:, : ends[-1]]
        self.memory = [
            np.concatenate([states[i][name] for i in members], axis=None) for name in names
        ]
        self.parts = []
        for i, array, (start, end) in zip(members, arrays, pairwise(ends), strict=True):
            value, gradient, *views = (
                flat[start:end].reshape(array.shape) for flat in (self.p, self.g, *self.memory)
            )
            memory = list(zip(names, views, strict=True))
            states[i].update(memory)
            self.parts.append((i, array, value, gradient, memory))

    def holds(self, params: Sequence[Tensor], states: Sequence[State]) -> bool:
        """Whether the members are what they were, and have gradients."""
        for i, array, _, _, memory in self.parts:
            p, state = params[i], states[i]
            if p._data is not array or p.grad is None or state.get("step") != self.step:
                return False
            g = p.grad._data
            if g.shape != array.shape or g.dtype != array.dtype:
                return False
            for name, view in memory:
                if state.get(name) is not view:
                    return False
        return True

    def update(
        self, params: Sequence[Tensor], states: Sequence[State], update: Callable[..., None]
    ) -> None:
        """One step of all, if the pack holds."""
        for i, array, value, gradient, _ in self.parts:
            value[...] = array
            gradient[...] = params[i].grad._data  # type: ignore[union-attr]
        self.step += 1
        update(self.p, self.g, self.step, *self.memory)
        now = tick()
        for i, array, value, _, _ in self.parts:
            array[...] = value
            params[i]._changed = now
            states[i]["step"] = self.step


def packs(
    numbers: Iterable[int],
    params: Sequence[Tensor],
    states: Sequence[State],
    names: Sequence[str],
) -> list[Pack]:
    """Those of the parameters with these numbers that fit together, together."""
    alike = defaultdict(list)
    size: Counter[Any] = Counter()
    for i in numbers:
        a, state = params[i]._data, states[i]
        # What NumPy makes of 0-d arrays are scalars, whose functions give other last bits.
        if type(a) is np.ndarray and a.ndim > 0 and a.size <= SMALL and a.flags.carray:
            kind = state["step"], a.dtype, *(state[name].dtype for name in names)
            size[kind] += a.size
            alike[kind, size[kind] // TOGETHER].append(i)
    groups = {key: members for key, members in alike.items() if len(members) > 1}
    if not groups or _tied(params):
        return []
    width = max(sum(params[i].size for i in members) for members in groups.values())
    scratch = {kind[1]: np.empty((2, width), kind[1]) for kind, _ in groups}  # one per dtype
    return [
        Pack(members, params, states, names, scratch[kind[1]])
        for (kind, _), members in groups.items()
    ]


def _tied(params: Sequence[Tensor]) -> bool:
    """Whether two share memory: then one is to be updated after the other."""
    arrays = [p._data for p in params if type(p._data) is np.ndarray]
    bounds = sorted(map(np.lib.array_utils.byte_bounds, arrays))
    return any(end > start for (_, end), (start, _) in pairwise(bounds))
