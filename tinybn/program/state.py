"""What a step reaches: the models, optimizers, Tensors, arrays and numbers that it refers to.

Python lets a function read and change anything. So that nothing is baked into a program by mistake
and nothing that the step changes is lost, whatever can be reached from its code (its closure, the
globals and attributes that it names, and what hangs on those) is one of these:

state      arrays, and numbers that change from step to step: input and output of the program
captured   arrays in tuples, which can't be replaced there: inputs; if one differs, recorded again
settings   all the rest (flags, sizes, which layers there are): read when the step is recorded. If
           one differs at a later call, it is recorded again. A step that changes one is refused.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from tinybn.nn.module import Module
from tinybn.optim import Optimizer
from tinybn.program.names import attributes_of, by_user, filled, operators, words_of
from tinybn.program.place import Place, contents, is_array, items_of, same
from tinybn.program.recorded import refused
from tinybn.tensor import Tensor


class State:
    """Everything that a step reaches.

    tensors: every Tensor, by name. memory: arrays, of optimizers and elsewhere. numbers: learning
    rates, counts of steps and of batches. captured: places of arrays in tuples, and their contents.
    settings: places, and what is there. containers: lists and dicts, and what is in them.
    attributes: those of objects, and their names. paths: layers' names by id.
    """

    def __init__(self, step: Callable[..., Any], named: Iterable[Any] = ()) -> None:
        self.tensors: dict[int, tuple[str, Tensor]] = {}
        self.memory: list[Place] = []
        self.numbers: list[Place] = []
        self.captured: list[tuple[Place, Any]] = []
        self.settings: list[tuple[Place, Any]] = []
        self.containers: list[tuple[str, Any, Any]] = []
        self.attributes: list[tuple[str, Any, Any]] = []
        self.optimizers: list[Optimizer] = []
        self.paths: dict[int, str] = {}
        self._seen: dict[int, Any] = {}
        self._arrays: set[Any] = set()
        self._words = {"forward", "update"}  # and every name in the code of what is called
        self._objects: list[tuple[str, Any]] = []  # of users' own classes
        self._visit(Place("step", [step], 0))
        for i, thing in enumerate(named):
            self._visit(Place(f"argument {i}", [thing], 0))
        self._visit_attributes()
        for optimizer in self.optimizers:
            self._visit_optimizer(optimizer)
        self._visit_attributes()

    def _visit(self, place: Place) -> None:
        value = place.get()
        if isinstance(value, Tensor):
            self._visit_tensor(place.name, value)
        elif is_array(value):
            if isinstance(place.owner, tuple):
                self.captured.append((place, contents(value)))
            elif place.id not in self._arrays:
                self._arrays.add(place.id)
                self.memory.append(place)
            return
        self.settings.append((place, value))
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, Module):
            self._visit_module(place.name, value)
        elif isinstance(value, Optimizer):
            self.optimizers.append(value)
        elif isinstance(value, set | frozenset | deque):
            self.containers.append((place.name, value, tuple(value)))
            for item in value:
                self._visit(Place(place.name, [item], 0))
        elif isinstance(value, list | tuple):
            self.containers.append((place.name, value, items_of(value)))
            for i in range(len(value)):
                self._visit(Place(f"{place.name}[{i}]", value, i))
        elif isinstance(value, dict):
            self.containers.append((place.name, value, tuple(value)))
            for key in value:
                self._visit(Place(f"{place.name}[{key!r}]", value, key))
        elif isinstance(value, functools.partial):
            self._visit(Place(place.name, value, "func"))
            self._visit(Place(place.name, value, "args"))
            self._visit(Place(place.name, value, "keywords"))
        elif isinstance(value, types.MethodType):
            self._visit(Place(place.name, value, "__func__"))
            self._visit(Place("self", value, "__self__"))
        elif isinstance(value, types.FunctionType):
            self._visit_function(value)
        elif hasattr(value, "__wrapped__"):  # a compiled step
            self._visit(Place(place.name, value, "__wrapped__"))
        elif isinstance(value, type | types.ModuleType):
            if by_user(value if isinstance(value, type) else value.__name__):
                self._objects.append((place.name, value))
        elif hasattr(value, "__next__") and not by_user(type(value)):
            raise refused(
                f"the step refers to an iterator, {place.name}: call next() outside, and pass what "
                "it gives as an argument",
                "a recorded step",
            )
        elif not hasattr(value, "__dict__"):
            pass
        elif type(value).__module__.startswith("tinybn."):  # a Schedule, for instance
            for key in vars(value):
                self._visit(Place(f"{place.name}.{key}", vars(value), key))
        elif not by_user(type(value)):
            self._objects.append((place.name, value))
        if by_user(type(value)):
            self._objects.append((place.name, value))
            self._words |= operators(type(value))
        if hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType):
            found = vars(value)
            self.attributes.append((f"the attributes of {place.name}", found, tuple(found)))

    def _visit_function(self, function: types.FunctionType) -> None:
        """The variables that a user's function refers to."""
        if (function.__module__ or "").partition(".")[0] in ("tinybn", "numpy"):
            return
        code = function.__code__
        words = set(words_of(code))
        self._words |= words
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if filled(cell):
                self._visit(Place(name, cell, "cell_contents"))
        for name in sorted(words & function.__globals__.keys()):
            self._visit(Place(name, function.__globals__, name))
        self._visit(Place(function.__name__, function, "__code__"))
        self._visit(Place(function.__name__, function, "__defaults__"))
        self._visit(Place(function.__name__, function, "__kwdefaults__"))
        self._objects.append((function.__name__, function))

    def _visit_module(self, name: str, module: Module) -> None:
        if id(module) not in self.paths:  # a model: its name leads only if there are several
            self.paths[id(module)] = name if self.paths else ""
        path = self.paths[id(module)]
        prefix = f"{path}." if path else ""
        for child_name, child in module.children():
            self.paths.setdefault(id(child), prefix + child_name)
        self.settings.append((Place(f"{prefix}training", module, "training"), module.training))
        attributes = vars(module)
        for key in attributes:
            place = Place(prefix + key, attributes, key)
            if key in module.buffers and isinstance(place.get(), int | float):
                self.numbers.append(place)
            elif key != "training":
                self._visit(place)
        for child_name, child in module.children():
            self._visit(Place(prefix + child_name, [child], 0))

    def _visit_tensor(self, name: str, tensor: Tensor) -> None:
        if id(tensor) not in self.tensors:
            self.tensors[id(tensor)] = name, tensor
            self.settings.append(
                (Place(f"{name}.requires_grad", tensor, "_tracked"), tensor._tracked)
            )

    def _visit_attributes(self) -> None:
        """Of users' own objects, what is named in the code: so a log that a trainer keeps, but that
        the step never mentions, can grow from step to step.
        """
        done: set[tuple[int, str]] = set()
        more = True
        while more:
            more = False
            for name, thing in list(self._objects):
                for word in sorted(self._words):
                    if (id(thing), word) in done:
                        continue
                    done.add((id(thing), word))
                    for place in attributes_of(f"{name}.{word}", thing, word):
                        self._visit(place)
                        more = True

    def _visit_optimizer(self, optimizer: Optimizer) -> None:
        attributes = vars(optimizer)
        self.numbers.append(Place("lr", attributes, "lr"))
        for i, p in enumerate(optimizer.params):
            self._visit_tensor(f"p{i}", p)
        for key in attributes:
            if key == "state":
                self.settings.append((Place(key, attributes, key), optimizer.state))
                self.containers.append((key, optimizer.state, tuple(optimizer.state)))
            elif key != "lr":
                self._visit(Place(key, attributes, key))
        for p, memory in zip(optimizer.params, optimizer.state, strict=True):
            for key in memory:
                place = Place(f"{self.name_of(p)}.{key}", memory, key)
                (self.numbers if isinstance(place.get(), int | float) else self.memory).append(
                    place
                )

    def attribute_changed(self, held: list[dict[str, Any]]) -> str | None:
        """Whose attributes are no longer those that were `held`, but for arrays and numbers."""
        known = {place.id for place in (*self.memory, *self.numbers)}
        for (name, now, _), old in zip(self.attributes, held, strict=True):
            for key, value in old.items():
                if not same(now[key], value) and (id(now), key) not in known:
                    return name
        return None

    def name_of(self, tensor: Tensor) -> str:
        return self.tensors[id(tensor)][0]

    def difference(self) -> str | None:
        """The name of a setting that is no longer what it was, if there is one."""
        for place, value in self.settings:
            try:
                now = place.get()
            except (AttributeError, LookupError, ValueError):  # it is gone
                return place.name
            if not same(now, value):
                return place.name
        for name, container, items in (*self.containers, *self.attributes):
            now = items_of(container)
            if len(now) != len(items) or not all(map(same, now, items)):
                return name
        for place, before in self.captured:
            if contents(place.get()) != before:
                return place.name
        return None
