"""Errors that say what went wrong and where: in which op, or at the first NaN or inf."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tinybn.backend import described
from tinybn.tensor import Tensor


def explained(op: str, arrays: list[Any], static: dict[str, Any], error: Exception) -> Exception:
    """`error` with the name of the op and its arguments added to the message."""
    given = [described(a) for a in arrays]
    given += [f"{name}={described(value)}" for name, value in static.items()]
    kinds = (np.exceptions.AxisError, IndexError, ValueError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), TypeError)
    return kind(f"{op}({', '.join(given)}): {error}").with_traceback(error.__traceback__)


def check_output(op: str, output: Any, inputs: list[Any]) -> None:
    """Raise FloatingPointError if the output of this call of `op` has a NaN or inf."""
    if bad := _describe(output):
        given = [f"{b} in input {i}" for i, b in enumerate(map(_describe, inputs)) if b]
        cause = f"was given {' and '.join(given)}, and returned" if given else "made"
        raise FloatingPointError(f"{op!r} {cause} {bad} in its output; called at {user_line()}")


def check_gradient(op: str, i: int, gradient: Any, upstream: Any, line: str | None) -> None:
    """Raise FloatingPointError if the gradient of input `i` of `op` has a NaN or inf."""
    if bad := _describe(gradient):
        given = _describe(upstream)
        cause = f"was given {given} from the op after it, and made" if given else "made"
        place = f"called at {line}" if line else "called outside detect_anomaly()"
        raise FloatingPointError(
            f"the backward pass of {op!r} {cause} {bad} in the gradient of input {i}; {place}"
        )


def user_line() -> str:
    """The file and line of the caller outside tinybn and NumPy."""
    frame = sys._getframe(1)
    ours = ("tinybn", "numpy")
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ours:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _describe(value: Any) -> str:
    """The bad values of an array or Tensor, as in "3 NaN of 12 values"; "" if there are none."""
    array = value.data if isinstance(value, Tensor) else value
    if getattr(getattr(array, "dtype", None), "kind", "") != "f":
        return ""
    size = float((array * 0 != 0).sum())  # inf * 0 and NaN * 0 are NaN, and NaN != itself
    if not size:
        return ""
    nan = float((array != array).sum())
    kind = "NaN" if nan == size else "inf" if not nan else "NaN or inf"
    return f"{size:.0f} {kind} of {array.size} values of shape {array.shape}"
