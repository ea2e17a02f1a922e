"""Modes: blocks that end in any order, and that no interrupt leaves behind."""

import asyncio
import contextlib
import ctypes
import random
import sys
import threading
import time

import numpy as np
import pytest

import tinybn as tb
from tinybn.modes import Mode, current_mode, set_mode


def at_rest():
    """Whether no block is left, but for that of the backend that all tests run on."""
    mode = current_mode()
    return mode._replace(backend=None, blocks=()) == Mode() and len(mode.blocks) == bool(
        mode.backend
    )


def recording():
    return current_mode().record


def test_blocks_nest_and_end():
    with tb.no_grad():
        assert not recording()
        with tb.use_fused(False):
            assert (recording(), current_mode().fused) == (False, False)
        assert (recording(), current_mode().fused) == (False, True)
    assert at_rest()


def test_one_object_begins_several_blocks_also_in_threads():
    off = tb.no_grad()
    with off:
        with off:
            assert not recording()
        assert not recording()
    assert recording()
    entered, left = threading.Event(), threading.Event()

    def other():
        with off:
            entered.set()
            left.wait()
            seen.append(recording())
        seen.append(recording())

    seen = []
    thread = threading.Thread(target=other)
    with off:
        thread.start()
        entered.wait()
    assert recording()
    left.set()
    thread.join()
    assert seen == [False, True]


def test_a_generator_that_is_closed_inside_another_block_ends_its_own():
    def inside():
        with tb.no_grad():
            yield

    generator = inside()
    next(generator)
    with tb.use_fused(False):
        generator.close()
        assert (recording(), current_mode().fused) == (True, False)
    assert at_rest()


def test_a_mode_decorates_functions_and_coroutines_but_no_generators():
    @tb.no_grad()
    def plain(n):
        return recording() if n == 0 else (plain(n - 1), recording())

    assert plain(1) == (False, False)

    @tb.no_grad()
    async def waits():
        before = recording()
        await asyncio.sleep(0)
        return before, recording()

    async def both():
        return await asyncio.gather(waits(), waits()), recording()

    assert asyncio.run(both()) == ([(False, False)] * 2, True)
    with pytest.raises(TypeError, match=r"generator 'pieces'.*`with` inside"):

        @tb.no_grad()
        def pieces():
            yield 1

    assert at_rest()


def test_errors_end_a_block():
    for kind in (ValueError, KeyboardInterrupt):
        with contextlib.suppress(kind), tb.no_grad():
            raise kind
    assert at_rest()


def test_blocks_that_begin_and_end_by_hand():
    off = tb.no_grad()
    off.__enter__()
    with off:
        assert not recording()
    assert not recording()
    off.__exit__(None, None, None)
    assert recording()
    with contextlib.ExitStack() as stack:
        stack.enter_context(off)
        stack.enter_context(tb.use_fused(False))
        assert (recording(), current_mode().fused) == (False, False)
    assert at_rest()


def test_a_generator_that_ends_leaves_a_block_of_the_same_object_alone():
    off = tb.no_grad()

    def inside():
        with off:
            yield

    generator = inside()
    next(generator)
    with off:
        generator.close()
        assert not recording()
    assert recording()


class Stop(Exception):  # noqa: N818
    """What the interrupts raise."""


def interrupted(action, times, seconds, monkeypatch):
    """How often an interrupt hit a loop of `action`, and how often it left a mode behind.

    Another thread raises Stop in this one, as Ctrl-C would, at any moment. It locks nothing and
    raises only while `armed`, so nothing else is hit. As in a REPL, the tracebacks are kept.
    """
    armed, over = [False], [False]
    here = ctypes.c_ulong(threading.get_ident())
    random_numbers = random.Random(0)

    def interrupt():
        while not over[0]:
            if not armed[0]:
                time.sleep(0)
                continue
            moment = time.perf_counter() + random_numbers.random() * 60e-6
            while time.perf_counter() < moment:
                pass
            ctypes.pythonapi.PyThreadState_SetAsyncExc(here, ctypes.py_object(Stop))
            armed[0] = False

    monkeypatch.setattr(sys, "last_traceback", None, raising=False)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(2e-6)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    hits = left = 0
    end = time.monotonic() + seconds
    while hits < times and time.monotonic() < end:
        try:
            armed[0] = True
            while time.monotonic() < end + 5:
                action()
        except Stop as stop:
            sys.last_traceback = stop.__traceback__
        while armed[0] and time.monotonic() < end + 5:
            pass
        hits += 1
        if current_mode() != Mode():
            left += 1
            set_mode(Mode())
    over[0] = True
    thread.join()
    sys.setswitchinterval(interval)
    return hits, left


def nested():
    with tb.no_grad(), tb.use_fused(False), tb.use_backend("numpy"):
        pass


@tb.no_grad()
def decorated():
    pass


def backward():
    x = tb.tensor(np.ones(2), requires_grad=True)
    (x * x).sum().backward()


@pytest.mark.host("interrupts would hit CuPy, too")
@pytest.mark.parametrize("action", [nested, decorated, backward])
def test_no_interrupt_leaves_a_mode_behind(action, monkeypatch):
    hits, left = interrupted(action, 2000, 3.0, monkeypatch)
    assert hits > 100
    assert left == 0
