"""Plans: what the shapes and dtypes of a closed form's inputs decide, worked out once.

Training meets the same shapes in every step. Whether they fit, in which dtype to compute, how many
values a channel has: for a small array, asking anew would take longer than the arithmetic.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

REMEMBERED = 256


def planned(work_out: Callable[..., T]) -> Callable[..., T]:
    """Call `work_out(xp, arrays, *static)` once for all arrays of the same shapes and dtypes.

    It must look at nothing else of them, and return nothing of them. Errors are not remembered.
    """
    plans: dict[Any, T] = {}

    @functools.wraps(work_out)
    def plan(xp: Any, arrays: tuple[Any, ...], *static: Any) -> T:
        try:
            key = (xp, static, *[a if a is None else (a.shape, a.dtype) for a in arrays])
            return plans[key]
        except AttributeError:  # a number: whether that will do is for `work_out` to say
            return work_out(xp, arrays, *static)
        except KeyError:
            if len(plans) >= REMEMBERED:
                plans.clear()
            return plans.setdefault(key, work_out(xp, arrays, *static))

    return plan
