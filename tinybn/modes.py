"""Modes: what ops do besides computing.

Each mode is a context manager and a decorator, and affects only the thread that enters it.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeVar

from tinybn.parameters import name_of

P = ParamSpec("P")
T = TypeVar("T")


class Mode(NamedTuple):
    """The current mode of a thread.

    Attributes:
        record: ops record themselves.
        fused: fused ops run their closed forms, not their compositions.
        anomaly: ops look for NaN and inf.
        backend: the backend of new Tensors, or None to leave it to their data.
        report, outputs: the callbacks of `watch`.
        blocks: the enclosing blocks, outermost first. Must stay the last attribute.
    """

    record: bool = True
    fused: bool = True
    anomaly: bool = False
    backend: str | None = None
    report: Callable[[Any], None] | None = None
    outputs: Callable[[Any, Any], None] | None = None
    blocks: tuple[Block, ...] = ()

    def within(self, block: Block) -> Mode:
        """The mode in a block in this mode."""
        return self._replace(**block.changes, blocks=(*self.blocks, block))


class Block:
    """What one block changes, and whether it goes on."""

    __slots__ = ("changes", "held")

    def __init__(self, **changes: Any) -> None:
        self.changes = changes
        self.held: Callable[[], object] | None = None
        """Returns None once the `with` statement is over. None: it lasts until somebody ends it."""


_mode: ContextVar[Mode] = ContextVar("tinybn_mode", default=Mode())  # noqa: B039, it is immutable
_next: ContextVar[Block | None] = ContextVar("tinybn_next", default=None)
set_mode: Callable[[Mode], object] = _mode.set


def current_mode() -> Mode:
    """The mode here, after forgetting the blocks that are over."""
    mode = _mode.get()
    for block in mode.blocks:
        if block.held and block.held() is None:
            mode = _mode_in([b for b in mode.blocks if not b.held or b.held() is not None])
            set_mode(mode)
            break
    return mode


def _mode_in(blocks: Iterable[Block]) -> Mode:
    mode = Mode()
    for block in blocks:
        mode = mode.within(block)
    return mode


class _Exit:
    """The `__exit__` of `in_mode`: another one for each `with` statement, which alone holds it.

    An interrupt can stop an `__exit__` in Python before its first line, but it can't keep the
    statement from dropping what it holds. So a block is over when its `__exit__` is gone.
    """

    def __get__(self, manager: in_mode | None, owner: type) -> Callable[..., None]:
        if manager is None:
            return lambda manager, *error: manager.__exit__(*error)
        block = Block(**manager.changes)
        leave = functools.partial(_leave, block)
        block.held = weakref.ref(leave)
        _next.set(block)
        return leave


def _leave(block: Block, *_: object) -> None:
    """End the block or, if it never began, the newest like it that was begun by hand."""
    blocks = current_mode().blocks
    same = [b for b in blocks if b is block] or [
        b for b in blocks if b.changes == block.changes and not b.held
    ]
    set_mode(_mode_in(b for b in blocks if b not in same[-1:]))


class in_mode:  # noqa: N801, it is used like a function
    """Run a block, or a function that it decorates, in another `Mode`.

    Blocks may end in any order. One object may begin several blocks, even in several threads.
    What copies the context, such as an asyncio task, stays in a block until that ends.
    """

    __exit__ = _Exit()

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def __enter__(self) -> None:
        block = _next.get()  # from looking up `__exit__`, unless this is called by hand
        _next.set(None)
        if block is None or block.changes != self.changes or not (block.held and block.held()):
            block = Block(**self.changes)
        set_mode(current_mode().within(block))

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"a mode can't decorate the generator {name_of(function)!r}, which runs in pieces: "
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


def no_grad() -> in_mode:
    """Ops in this block record nothing: their outputs do not require grad."""
    return in_mode(record=False)


def use_fused(wanted: bool = True) -> in_mode:
    """Fused ops in this block run their closed forms or, if not `wanted`, their compositions."""
    if not isinstance(wanted, bool):
        raise TypeError(
            f"use_fused: expected True or False, got {name_of(wanted)}; a decorator needs "
            "parentheses, @use_fused(False)"
        )
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
