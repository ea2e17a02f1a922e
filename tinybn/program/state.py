"""What a step can reach: the models, optimizers, Tensors, arrays and numbers that it refers to.

Python lets a function read and change anything. A program must not freeze a value by mistake, and
must not lose a change. Every value that the code of the step can reach (through its closure, the
globals and attributes that it names, and what these refer to) is therefore one of these:

state      arrays, and numbers that change from step to step: inputs and outputs of the program.
captured   arrays in tuples, where nothing can replace them: inputs. If their numbers change, the
           step is recorded again.
settings   everything else (flags, sizes, the list of layers). If one changes between two calls, the
           step is recorded again. A step that changes one itself raises RecordingError.
"""

from __future__ import annotations

import gc
import random
import types
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinybn.nn.module import Module
from tinybn.optim import Optimizer
from tinybn.program.names import attributes_of, by_user, names_in, operators, parts_of
from tinybn.program.place import COMPUTED, NOTHING, Place, contents, is_array, items, same, size
from tinybn.program.recorded import refused
from tinybn.tensor import Tensor


class State:
    """Everything that a step can reach.

    arrays: places of arrays, and of gradients, which may be None. numbers: places of learning rates
    and counts. captured: places of arrays in tuples, and the arrays. settings: places, and what
    they hold. tensors, paths: names of Tensors and layers, by id.
    """

    def __init__(self, step: Callable[..., Any], named: Iterable[Any] = ()) -> None:
        self.arrays: list[Place] = []
        self.numbers: list[Place] = []
        self.captured: list[tuple[Place, Any]] = []
        self.settings: list[tuple[Place, Any]] = []
        self.tensors: dict[int, str] = {}
        self.paths: dict[int, str] = {}
        self._optimizers: list[Optimizer] = []
        self._memories: list[tuple[str, Any]] = []  # of optimizers' parameters
        self._containers: list[tuple[str, Any]] = []
        self._seen: dict[Any, Any] = {}  # places and objects
        self._words = {"forward", "update"}  # and every name in the code of what is called
        self._objects: list[tuple[str, Any]] = []  # their attributes matter if the code names them
        self._enter("step", step)
        for i, thing in enumerate(named):
            self._enter(f"argument {i}", thing)
        self._visit_attributes()
        for optimizer in self._optimizers:
            self._enter_optimizer(optimizer)
        self._visit_attributes()

    def _visit(self, place: Place, number: bool = False) -> None:
        """Decide what a place is. number: whether a number there is state, not a setting."""
        if place.id in self._seen:
            return
        self._seen[place.id] = place  # keeps its owner alive, so that its id stays unique
        value = place.get()
        if is_array(value) and (isinstance(place.owner, tuple) or place.key in COMPUTED):
            self.captured.append((place, value))
            self._fix(place.name, value, contents)
        elif is_array(value) or place.is_gradient:
            self.arrays.append(place)
        elif number and isinstance(value, int | float | np.generic) and type(value) is not bool:
            self.numbers.append(place)
        elif value is not NOTHING or isinstance(place.owner, dict):
            if not isinstance(place.owner, tuple):  # in a tuple, nothing can change
                self.settings.append((place, value))
            self._enter(place.name, value)

    def _enter(self, name: str, value: Any) -> None:
        """Visit what an object refers to."""
        if id(value) in self._seen or isinstance(value, np.ufunc):
            return
        self._seen[id(value)] = value
        static = isinstance(value, type | types.ModuleType)
        user = by_user(value if static else type(value))
        attributes = None if static else getattr(value, "__dict__", None)
        if user or attributes is not None:
            self._objects.append((name, value))
        if user and not static:
            self._words |= operators(type(value))
            self._fix(f"the class of {name}", value, type)
        if attributes is not None:
            self._hold(f"the attributes of {name}", attributes)
        if isinstance(value, Tensor):
            self.tensors[id(value)] = name
            self._visit(Place(name, value, "_data"))
            self._visit(Place(f"d_{name}", value, "grad"))
            self._visit(Place(f"{name}.requires_grad", value, "_tracked"))
        elif isinstance(value, Module):
            self._enter_module(name, value)
        elif isinstance(value, Optimizer):
            self._optimizers.append(value)
        elif isinstance(value, dict | list | deque | tuple | set | frozenset):
            if not isinstance(value, tuple | frozenset):
                self._hold(name, value, items if isinstance(value, dict | set) else size)
            parts = tuple(value) if isinstance(value, set | frozenset) else value
            for key in parts if isinstance(parts, dict) else range(len(parts)):
                self._visit(Place(f"{name}[{key!r}]", parts, key))
        elif isinstance(value, types.FunctionType):
            self._enter_function(value)
        elif isinstance(value, types.MappingProxyType):
            self._enter(name, gc.get_referents(value)[0])
        elif isinstance(value, bytearray | array):
            self._fix(name, value, bytes)
        elif isinstance(value, np.ndarray):  # of strings, for instance
            self._fix(name, value, contents)
            self._enter(name, tuple(value.flat) if value.dtype.hasobject else ())
        elif hasattr(value, "__next__") and not user:
            raise refused(
                f"the step refers to an iterator, {name}: call next() outside, and pass what it "
                "gives as an argument",
                "a recorded step",
            )
        elif hasattr(value, "__wrapped__"):  # a compiled step
            self._visit(Place(name, value, "__wrapped__"))
        elif type(value).__module__.startswith("tinybn."):  # a Schedule, for instance
            for key in attributes or ():
                self._visit(Place(f"{name}.{key}", attributes, key))
        else:
            for place in parts_of(name, value):
                self._visit(place)

    def _hold(self, name: str, container: Any, key: Any = size) -> None:
        """Note that a container must keep its size, or its items."""
        self._containers.append((name, container))
        self._fix(name, container, key)

    def _fix(self, name: str, owner: Any, key: Any) -> None:
        """Something COMPUTED must stay the same."""
        self.settings.append((Place(name, owner, key), key(owner)))

    def _enter_function(self, function: types.FunctionType) -> None:
        """Visit the variables that a user's function mentions."""
        if (function.__module__ or "").partition(".")[0] in ("tinybn", "numpy"):
            return
        code = function.__code__
        words, variables = names_in(code)
        self._words |= words
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._visit(Place(name, cell, "cell_contents"))
        for name in sorted(variables):
            self._visit(Place(name, function.__globals__, name))
        for place in parts_of(function.__name__, function):
            self._visit(place)

    def _enter_module(self, name: str, module: Module) -> None:
        """Visit a model's state. Its names include the model's only if there are several models."""
        path = self.paths.setdefault(id(module), name if self.paths else "")
        prefix = f"{path}." if path else ""
        for child_name, child in module.children():
            self.paths.setdefault(id(child), prefix + child_name)
        self._visit(Place(f"{prefix}training", module, "training"))
        for key in vars(module):
            if key != "training":
                self._visit(Place(prefix + key, vars(module), key), number=key in module.buffers)

    def _enter_optimizer(self, optimizer: Optimizer) -> None:
        """Visit an optimizer's learning rate, parameters and memory."""
        self._visit(Place("lr", vars(optimizer), "lr"), number=True)
        for i, (p, memory) in enumerate(zip(optimizer.params, optimizer.state, strict=True)):
            self._enter(f"p{i}", p)
            self._seen[id(memory)] = memory
            self._memories.append((self.tensors[id(p)], memory))
        for place in self.remembered():
            self._visit(place, number=True)
        for key in vars(optimizer):
            self._visit(Place(key, vars(optimizer), key))

    def _visit_attributes(self) -> None:
        """Visit the attributes that the code names, until no new code is found.

        A log that a trainer keeps, but the step never mentions, may thus grow from step to step.
        """
        count = 0
        while count < len(self._seen):
            count = len(self._seen)
            for name, thing in [*self._objects]:
                for place in attributes_of(name, thing, self._words):
                    self._visit(place)

    def remembered(self) -> Iterator[Place]:
        """Where optimizers keep their memory now."""
        for name, memory in self._memories:
            for key in memory:
                yield Place(f"{name}.{key}", memory, key)

    def fixed(self) -> list[tuple[Place, Any]]:
        """What must not change between calls: settings, and which memory and gradients exist."""
        places = [Place(name, memory, size) for name, memory in self._memories]
        places += [place for place in self.arrays if place.get() is None]
        return [*self.settings, *((place, place.get()) for place in places)]

    @contextmanager
    def restored(self) -> Iterator[Callable[[], str | None]]:
        """Put everything back afterwards. Yields a function that names a changed setting."""
        state = *self.arrays, *self.numbers
        tensors = [place.owner for place in self.arrays if isinstance(place.owner, Tensor)]
        times = [Place("", tensor, "_changed") for tensor in tensors]
        values = [*((place, place.get()) for place in (*state, *times)), *self.settings]
        containers = [(name, c, c.copy()) for name, c in (*self._containers, *self._memories)]

        def changed() -> str | None:
            known = {place.id for place in state}
            found = [place.name for place, value in self.settings if not same(place.get(), value)]
            found += [
                name
                for name, now, old in containers
                if isinstance(now, dict)
                for key in old
                if (id(now), key) not in known and not same(now.get(key), old[key])
            ]
            return found[0] if found else None

        try:
            yield changed
        finally:
            for _, container, old in containers:
                container.clear()
                ordered = isinstance(container, list | deque)
                (container.extend if ordered else container.update)(old)
            for place, value in values:
                if value is NOTHING:
                    place.owner.pop(place.key, None)
                elif place.key not in COMPUTED and place.get() is not value:
                    place.set(value)

    def generators(self) -> Iterator[tuple[Callable[[], Any], Callable[[Any], None]]]:
        """Functions that get and set the state of each random number generator."""
        yield random.getstate, random.setstate
        yield np.random.get_state, np.random.set_state
        for value in self._seen.values():
            if isinstance(value, np.random.Generator):
                bits = Place("", value.bit_generator, "state")
                yield bits.get, bits.set
            elif isinstance(value, random.Random):
                yield value.getstate, value.setstate
