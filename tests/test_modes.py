"""Modes: blocks that end in any order, and that no interrupt leaves behind."""

import asyncio
import contextlib
import threading

import pytest

import tinybn as tb
from tinybn.modes import Mode, current_mode


def recording():
    return current_mode().record


def test_blocks_nest_and_end():
    with tb.no_grad():
        assert not recording()
        with tb.use_fused(False):
            assert (recording(), current_mode().fused) == (False, False)
        assert (recording(), current_mode().fused) == (False, True)
    assert current_mode() == Mode()


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
    assert current_mode() == Mode()


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

    assert current_mode() == Mode()


def test_errors_end_a_block():
    for kind in (ValueError, KeyboardInterrupt):
        with contextlib.suppress(kind), tb.no_grad():
            raise kind
    assert current_mode() == Mode()
