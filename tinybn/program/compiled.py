"""`compile(step)`: the same function, recorded once for each kind of argument, run as a program.

The first call with arguments of a kind runs as always, so that errors are normal errors and an odd
last batch costs nothing; the second is recorded. A call then checks that nothing which was read
while recording has changed, points the program to the arrays of this call, and runs it.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinybn.backend import module, name_of
from tinybn.modes import current_mode
from tinybn.program.passes import exact, relaxed
from tinybn.program.place import Place
from tinybn.program.recorded import Recorded
from tinybn.program.run import Run, bare
from tinybn.program.source import Program, function
from tinybn.program.state import State
from tinybn.program.step import Step, record
from tinybn.program.tree import flatten
from tinybn.tensor import Tensor

LOCK = threading.RLock()
"""One for all compiled steps, as they may share models."""

MANY = 16
"""Recordings of one step; more are worth a warning, and the oldest are forgotten."""


class Compiled:
    """What `compile` makes of a step: it is called like the step.

    recordings: how many times the step has been recorded.
    """

    def __init__(self, step: Callable[..., Any], state: Any, backend: str) -> None:
        functools.update_wrapper(self, step)
        self.step, self.state, self.backend = step, state, backend
        self.runs: dict[Any, list[Run]] = {}
        self.recordings = 0

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        mode = current_mode()
        key = (mode, *map(_kind, args), *[(k, _kind(v)) for k, v in keywords.items()])
        leaves = _leaves(args, keywords)
        with LOCK:  # also for an eager call: while one thread records, models hold no numbers
            found = self.runs.get(key)
            if found is None:
                watched = mode.anomaly or mode.report or mode.outputs  # these want to see each op
                if not watched and not any(isinstance(bare(a), Recorded) for a in leaves):
                    self.runs[key] = []
                return self.step(*args, **keywords)
            for run in found:
                if run.holds():
                    return run(leaves)
            return self._record(found, args, keywords, leaves)(leaves)

    def source(self) -> str:
        """The loops of the latest recording, as Python; or the program, where NumPy runs it."""
        runs = [run for found in self.runs.values() for run in found]
        if not runs:
            raise ValueError("nothing is recorded yet: call it twice with arguments of one kind")
        return runs[-1].machine.source

    def _record(self, found: list[Run], args: Any, keywords: Any, leaves: Any) -> Run:
        state = State(self.step, self.state)
        backend = _backend_of(state, leaves)
        step = record(self.step, args, keywords, state, backend)
        self.recordings += 1
        if self.recordings == MANY:
            warnings.warn(
                f"{self.step.__name__} has been recorded {MANY} times, since shapes or settings "
                "keep changing: pad the batches, or leave this step uncompiled",
                stacklevel=4,
            )
        del found[: -MANY + 1]
        found.append(Run(step, state, *machine(step, backend, self.backend)))
        return found[-1]


class OnNumPy:
    """The printed program, run as it is: on NumPy without Numba, and on CuPy."""

    def __init__(self, program: Program, xp: Any) -> None:
        self.source = str(program)
        self.function = function(program, xp)
        self.read = [program.inputs.index(line) for line in program.parameters()]
        self.given: list[Any] = [None] * len(program.inputs)

    def bind(self, i: int, value: Any) -> None:
        self.given[i] = value

    def run(self) -> tuple[Any, ...]:
        results = self.function(*[self.given[i] for i in self.read])
        return tuple(np.asarray(r) if isinstance(r, np.generic) else r for r in results)


def machine(step: Step, backend: str, wanted: str) -> tuple[Any, dict[int, int]]:
    """What runs a recorded step, and the inputs to whose memory it writes outputs, by number."""
    if (backend, wanted) == ("numpy", "numba") and _has_numba():
        from tinybn.program.machine import Machine

        inputs, outputs = step.program.inputs, step.program.outputs
        number = {place.id: i for i, place in enumerate(step.sources) if isinstance(place, Place)}
        homes = {
            i: number[target.id]
            for i, target in enumerate(step.targets)
            if isinstance(target, Place)
            and not outputs[i].kind
            and target.id in number
            and outputs[i].shape == inputs[number[target.id]].shape
            and outputs[i].dtype == inputs[number[target.id]].dtype
        }
        return Machine(relaxed(step.program), homes), homes
    return OnNumPy(exact(step.program), module(backend)), {}


@functools.cache
def _has_numba() -> bool:
    if importlib.util.find_spec("numba"):
        return True
    warnings.warn(
        "compiled steps run on NumPy, without loops of their own, since Numba is not installed: "
        "pip install 'tinybn[compile]'",
        stacklevel=6,
    )
    return False


def _leaves(args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """The arrays and numbers in the arguments."""
    if not keywords and not any(isinstance(arg, NESTED) for arg in args):
        return args
    leaves: list[Any] = []
    flatten((args, keywords), leaves)
    return leaves


NESTED = tuple, list, dict


def _kind(leaf: Any) -> Any:
    """What of an argument decides which program fits."""
    kind = type(leaf)
    if kind is np.ndarray:
        return leaf.shape, leaf.dtype
    if kind is Tensor:
        array = leaf._data
        return kind, leaf._tracked, array.shape, array.dtype, type(array)
    if isinstance(leaf, tuple | list):
        return kind, *map(_kind, leaf)
    if isinstance(leaf, dict):
        return kind, *[(key, _kind(value)) for key, value in leaf.items()]
    if hasattr(leaf, "shape"):
        return kind, leaf.shape, leaf.dtype
    return leaf if leaf is None or isinstance(leaf, bool | str) else kind


def _backend_of(state: State, leaves: list[Any]) -> str:
    arrays = [t._data for _, t in state.tensors.values()] + [bare(a) for a in leaves]
    names = {name_of(a) for a in arrays if hasattr(a, "shape")}
    return "cupy" if "cupy" in names else "numpy"


def compile(
    step: Callable[..., Any] | None = None,
    *,
    state: Iterable[Any] = (),
    backend: str = "numba",
) -> Any:
    """`step`, recorded and compiled: a function that does the same, faster (also a decorator).

        @tb.compile
        def step(x, labels):
            optimizer.zero_grad()
            loss = tb.ops.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            return loss

    step: takes and returns arrays, Tensors, numbers, and tuples, lists and dicts of these. It may
        change the Tensors, models and optimizers that it refers to, and nothing else.
    state: models and optimizers that can't be found from the code of the step.
    backend: "numba" (fused loops; without Numba, one warning, and "numpy") or "numpy" (the printed
        program, which equals the step bit for bit). On CuPy arrays, the printed program on CuPy.

    The first call for arguments of each kind (shapes, dtypes, modes) runs the step as it is, the
    second records it; a change of what the step read (training, requires_grad, which layers there
    are, …) records it again. Results agree with the step's but for rounding: gradients to some ULP
    of their largest terms. What can't be recorded raises RecordingError, with the line that does
    it, and nothing has changed; nor has it after any other error in a call that is recorded. What
    is returned is new, but for Tensors of the models and arguments that are returned as they are.
    """
    if backend not in ("numba", "numpy"):
        raise ValueError(f"compile: expected backend 'numba' or 'numpy', got {backend!r}")
    if step is None:
        return functools.partial(compile, state=state, backend=backend)
    if not callable(step):
        raise TypeError(f"compile: expected a function, got {type(step).__name__}")
    return Compiled(step, tuple(state), backend)


def program(
    step: Callable[..., Any],
    *args: Any,
    passes: Callable[[Program], Program] = exact,
    **keywords: Any,
) -> Program:
    """What `step(*args, **keywords)` does to arrays, as a program; nothing is run or changed.

    passes: what is done with the lines that were written down (see passes.py): `exact` leaves out
    what changes nothing, `relaxed` also shortens sums, `without_dead` keeps the most.
    """
    leaves: list[Any] = []
    flatten((args, keywords), leaves)
    state = State(step)
    return passes(record(step, args, keywords, state, _backend_of(state, leaves)).program)
