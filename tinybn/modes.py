"""Modes: what ops do besides computing. Each is a context manager and a decorator, per thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple


class Mode(NamedTuple):
    """The mode of a thread.

    Attributes:
        record: ops record themselves.
        fused: fused ops run their closed forms, not their compositions.
        anomaly: ops look for NaN and inf.
        report, outputs: the callbacks of `watch`.
    """

    record: bool = True
    fused: bool = True
    anomaly: bool = False
    report: Callable[[Any], None] | None = None
    outputs: Callable[[Any, Any], None] | None = None


_mode: ContextVar[Mode] = ContextVar("tinybn_mode", default=Mode())  # noqa: B039, it is immutable
current_mode, set_mode, reset_mode = _mode.get, _mode.set, _mode.reset


class in_mode(contextlib.ContextDecorator):  # noqa: N801, it is used like a function
    """Run a block, or a function that it decorates, in another `Mode`."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def _recreate_cm(self) -> in_mode:
        return in_mode(**self.changes)  # a decorated function may call itself

    def __enter__(self) -> None:
        self.token = _mode.set(_mode.get()._replace(**self.changes))

    def __exit__(self, *_: object) -> None:
        _mode.reset(self.token)


def no_grad() -> in_mode:
    """Ops in this block record nothing: their outputs do not require grad."""
    return in_mode(record=False)


def use_fused(wanted: bool = True) -> in_mode:
    """Fused ops in this block run their closed forms, or else their compositions."""
    return in_mode(fused=wanted)


def detect_anomaly() -> in_mode:
    """Stop at the first NaN or inf, forward or backward. Slow: for debugging.

    Raises:
        FloatingPointError: an output or a gradient has a NaN or inf. The message names the op and
            the line that called it.
    """
    return in_mode(anomaly=True)


def watch(
    report: Callable[[Any], None] | None, outputs: Callable[[Any, Any], None] | None = None
) -> in_mode:
    """Watch what this block records, and what its backward passes compute.

    Args:
        report: receives each `Contribution` (see walk.py) that a backward pass adds to a gradient.
        outputs: receives the node and the array of each recorded output, right after the call.
    """
    return in_mode(report=report, outputs=outputs)
