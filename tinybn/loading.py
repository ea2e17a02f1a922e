"""What every `load_state_dict` does: check all values first, and then set all of them or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tinybn.backend import move, name_of
from tinybn.tensor import Tensor


def assign(changes: Iterable[tuple[Any, str, Any]]) -> None:
    """Set attributes (owner, name, value): all of them or, after an error or Ctrl-C, none."""
    changes = list(changes)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
    except BaseException:
        for owner, name, value in before:
            if getattr(owner, name) is not value:
                setattr(owner, name, value)
        raise


def fit(
    state: Mapping[str, Any],
    own: Mapping[str, Any],
    problems: Iterable[str] = (),
    convert: bool = True,
) -> dict[str, Any]:
    """Convert the values of a state dict to what an object holds under the same names.

    Args:
        state: the state dict.
        own: by name, a Tensor or an array, whose shape, dtype and backend the value gets, or a
            number. Floating-point values may have another precision.
        problems: what the caller already found wrong, such as a missing name.
        convert: whether floating-point arrays get the dtype, or just have to fit into it.

    Returns:
        Arrays and Python numbers, for the names that `state` and `own` share.

    Raises:
        ValueError: there are problems, an unexpected name, or values that do not fit.
    """
    values: dict[str, Any] = {}
    problems = [*problems, *(f"unexpected: {name}" for name in state.keys() - own.keys())]
    for name, like in own.items():
        if name not in state:
            continue
        try:
            value, shape = np.asarray(state[name]), np.shape(like)
        except (TypeError, ValueError) as error:  # a ragged list, or an array on a GPU
            problems.append(f"{name}: {error}")
            continue
        if value.shape != shape:
            problems.append(f"{name}: expected shape {shape}, got {value.shape}")
        elif isinstance(like, int | float | np.generic):
            if value.dtype.kind not in ("b" if isinstance(like, bool | np.bool_) else "fiu"):
                problems.append(f"{name}: expected numbers, got dtype {value.dtype}")
            elif type(like) is int and not (value >= 0 and float(value).is_integer()):
                problems.append(f"{name}: expected a count, got {value}")
            else:
                values[name] = type(like)(value)
        elif not _fits(value.dtype, like.dtype):
            problems.append(f"{name}: expected numbers, {like.dtype}, got dtype {value.dtype}")
        else:
            with np.errstate(over="ignore"):
                new = value.astype(like.dtype)
            changed = new != value if new.dtype.kind != "f" else np.isinf(new) & ~np.isinf(value)
            if changed.any():
                problems.append(f"{name}: {value[changed].flat[0]} is too large for {like.dtype}")
            backend = like.backend if isinstance(like, Tensor) else name_of(like)
            as_saved = not convert and value.dtype.kind == "f"
            values[name] = move(value.copy() if as_saved else new, backend)
    if problems:
        raise ValueError("load_state_dict changed nothing: " + "; ".join(sorted(problems)))
    return values


def _fits(dtype: np.dtype, like: np.dtype) -> bool:
    """Whether an array may become one of another precision; nothing else is converted."""
    same = (dtype.kind == "b") == (like.kind == "b")
    return dtype.kind in "fiub" and same and np.can_cast(dtype, like, "same_kind")
