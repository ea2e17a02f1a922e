"""Modes: what ops do besides computing.

Each mode is a context manager and a decorator, and affects only the thread that enters it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Mode(NamedTuple):
    """The current mode of a thread.

    Attributes:
        record: ops record themselves.
        fused: fused ops run their closed forms, not their compositions.
        anomaly: ops look for NaN and inf.
        report, outputs: the callbacks of `watch`.
        blocks: what each enclosing block changes, outermost first. Must stay the last attribute.
    """

    record: bool = True
    fused: bool = True
    anomaly: bool = False
    report: Callable[[Any], None] | None = None
    outputs: Callable[[Any, Any], None] | None = None
    blocks: tuple[dict[str, Any], ...] = ()


_mode: ContextVar[Mode] = ContextVar("tinybn_mode", default=Mode())  # noqa: B039, it is immutable
current_mode: Callable[[], Mode] = _mode.get
set_mode: Callable[[Mode], object] = _mode.set


class in_mode:  # noqa: N801, it is used like a function
    """Run a block, or a function that it decorates, in another `Mode`.

    Blocks may end in any order. One object may begin several blocks, even in several threads.
    """

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def __enter__(self) -> None:
        before = current_mode()
        try:
            set_mode(before._replace(**self.changes, blocks=(*before.blocks, self.changes)))
        except BaseException:  # an interrupt right after it was set
            set_mode(before)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._leave()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        blocks = current_mode().blocks
        for i in reversed(range(len(blocks))):
            if blocks[i] is self.changes:
                set_mode(_mode_in(blocks[:i] + blocks[i + 1 :]))
                return

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"a mode can't decorate the generator {function.__name__!r}, which runs in pieces: "
                "write `with` inside it"
            )
        changes = self.changes
        decorated: Any
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def decorated(*args: P.args, **kwargs: P.kwargs) -> Any:
                with in_mode(**changes):
                    return await function(*args, **kwargs)
        else:

            @functools.wraps(function)
            def decorated(*args: P.args, **kwargs: P.kwargs) -> Any:
                with in_mode(**changes):
                    return function(*args, **kwargs)

        return decorated


def _mode_in(blocks: tuple[dict[str, Any], ...]) -> Mode:
    mode = Mode(blocks=blocks)
    for changes in blocks:
        mode = mode._replace(**changes)
    return mode


def no_grad() -> in_mode:
    """Ops in this block record nothing: their outputs do not require grad."""
    return in_mode(record=False)


def use_fused(wanted: bool = True) -> in_mode:
    """Fused ops in this block run their closed forms or, if not `wanted`, their compositions."""
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
        report: a function that receives each `Contribution` (see walk.py) to a gradient; or None.
        outputs: a function that receives the node and the array of each recorded output, right
            after the call; or None.
    """
    return in_mode(report=report, outputs=outputs)
