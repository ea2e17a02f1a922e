"""Putting everything back as it was before a step was recorded."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from tinybn.program.place import Place
from tinybn.program.state import State


def places_of(state: State) -> Iterator[Place]:
    """Where arrays are that a step may change: Tensors, their gradients, optimizers' memory."""
    for name, tensor in state.tensors.values():
        yield Place(name, tensor, "_data")
        yield Place(f"d_{name}", tensor, "grad")
    yield from state.memory


@contextmanager
def everything_restored(state: State) -> Iterator[None]:
    """Afterwards all that the step reaches is as it was, whatever happens."""
    held = [(place, place.get()) for place in (*places_of(state), *state.numbers)]
    changed = [(tensor, tensor._changed) for _, tensor in state.tensors.values()]
    memories = [memory for optimizer in state.optimizers for memory in optimizer.state]
    known = [c for _, c, _ in (*state.containers, *state.attributes)]
    dicts: list[Any] = [*memories, *(c for c in known if isinstance(c, dict | set))]
    lists: list[Any] = [c for c in known if isinstance(c, list | deque)]
    before: list[tuple[Any, Any]] = [(c, c.copy()) for c in (*dicts, *lists)]
    try:
        yield
    finally:
        for container, items in before:
            container.clear()
            (container.update if isinstance(container, dict | set) else container.extend)(items)
        for place, value in (*held, *state.settings):
            if place.get() is not value:
                place.set(value)
        for tensor, time in changed:
            tensor._changed = time


def generators(state: State) -> list[tuple[Callable[[], Any], Callable[[Any], None]]]:
    """How to get and set the state of everything that draws random numbers."""
    found: list[Any] = [
        (random.getstate, random.setstate),
        (np.random.get_state, np.random.set_state),
    ]
    for _, value in state.settings:
        if isinstance(value, np.random.Generator):
            bits = value.bit_generator
            found.append((partial(getattr, bits, "state"), partial(setattr, bits, "state")))
        elif isinstance(value, random.Random):
            found.append((value.getstate, value.setstate))
    return found
