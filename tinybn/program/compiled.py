"""`compile(step)`: the same function, recorded once for each kind of argument and run as a program.

The first call with arguments of a kind runs the step as it is: errors are ordinary errors, and an
odd last batch is never recorded. The second call records the step. Every later call checks that
nothing that the recording read has changed.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinybn.backend import name_of
from tinybn.modes import current_mode
from tinybn.program.choice import BACKENDS, machine
from tinybn.program.passes import exact
from tinybn.program.recorded import Recorded
from tinybn.program.run import Run
from tinybn.program.source import Program
from tinybn.program.state import State
from tinybn.program.step import fits, record
from tinybn.program.tree import bare, leaves_of
from tinybn.tensor import Tensor

LOCK = threading.RLock()
"""One lock for all compiled steps, since they may share models."""

if hasattr(os, "register_at_fork"):  # a child gets no lock that a thread of its parent holds
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release
    )

MANY, KINDS = 16, 64
"""A step recorded MANY times warns. It keeps that many for each of the KINDS used last."""

SIMPLE = {np.ndarray, Tensor, float, int}
"""Types of arguments that are not nested."""


class Compiled:
    """A compiled step; call it like the step.

    Attributes:
        recordings: how many times the step has been recorded.
    """

    def __init__(self, step: Callable[..., Any], state: Any, backend: str) -> None:
        functools.update_wrapper(self, step)
        self.step, self.state, self.backend = step, state, backend
        self.runs: dict[Any, list[Run]] = {}
        self.latest: Run | None = None
        self.recordings = 0

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        mode = current_mode()
        key = (*mode[:-1], *map(_kind, args), *[(k, _kind(v)) for k, v in keywords.items()])
        flat = not keywords and SIMPLE.issuperset(map(type, args))
        leaves = args if flat else leaves_of((args, keywords))
        with LOCK:  # also for an eager call: while one thread records, models hold no numbers
            found = self.runs.pop(key, None)
            if found is None:
                watched = mode.anomaly or mode.report or mode.outputs  # these need to see each op
                if not watched and not any(isinstance(bare(a), Recorded) for a in leaves):
                    self.runs[key] = []
                    if len(self.runs) > KINDS:
                        del self.runs[next(iter(self.runs))]
                return self.step(*args, **keywords)
            self.runs[key] = found  # the latest now
            for run in reversed(found):
                if run.fits():
                    if run is not found[-1]:  # the next call will probably need it, too
                        found.append(found.pop(found.index(run)))
                    return run(leaves)
            return self._record(found, args, keywords, leaves)(leaves)

    def source(self) -> str:
        """The latest recording as Python: its loops, or the program if NumPy runs it.

        Raises:
            ValueError: nothing has been recorded yet.
        """
        if self.latest is None:
            raise ValueError("nothing is recorded yet: call it twice with arguments of one kind")
        return self.latest.machine.source

    def _record(self, found: list[Run], args: Any, keywords: Any, leaves: Any) -> Run:
        state = State(self.step, self.state)
        backend = _backend_of(state, leaves)
        step = record(self.step, args, keywords, state, backend)
        self.recordings += 1
        if self.recordings == MANY:
            warnings.warn(
                f"{getattr(self.step, '__name__', 'the step')} has been recorded {MANY} times, "
                "since shapes or settings keep changing: pad the batches, or leave it uncompiled",
                stacklevel=4,
            )
        del found[: -MANY + 1]
        self.latest = Run(step, *machine(step, backend, self.backend))
        found.append(self.latest)
        return self.latest


def _kind(leaf: Any) -> Any:
    """What must be equal in two arguments for the same program to fit."""
    kind = type(leaf)
    if kind is Tensor:
        return kind, leaf._tracked, _kind(leaf._data)
    if hasattr(leaf, "shape"):
        return kind, leaf.shape, leaf.dtype
    if isinstance(leaf, tuple | list):
        return kind, *map(_kind, leaf)
    if isinstance(leaf, dict):
        return kind, *[(key, _kind(value)) for key, value in leaf.items()]
    value = leaf is None or isinstance(leaf, bool | str) or (kind is int and not fits(leaf))
    return leaf if value else kind


def _backend_of(state: State, leaves: list[Any]) -> str:
    arrays = [bare(a) for a in (*leaves, *(place.get() for place in state.arrays))]
    names = {name_of(a) for a in arrays if hasattr(a, "shape")}
    return "cupy" if "cupy" in names else "numpy"


def compile(
    step: Callable[..., Any] | None = None,
    *,
    state: Iterable[Any] = (),
    backend: str = "numba",
) -> Any:
    """Record and compile a training step. Also a decorator.

    The first call with arguments of one kind (shapes, dtypes, modes) runs the step as it is; the
    second records it. If anything that the step read has changed (training, requires_grad, the
    list of layers, …), it is recorded again.

    Args:
        step: takes and returns arrays, Tensors, numbers, and tuples, lists and dicts of these. It
            may change the Tensors, models and optimizers it refers to, but nothing else.
        state: models and optimizers that can't be found from the code of the step.
        backend: "numba" (fused loops; without Numba, one warning, and "numpy") or "numpy" (the
            printed program, which equals the step bit for bit). Steps on CuPy arrays run the
            printed program, or with "graph" a CUDA graph of it: one launch for all kernels.

    Returns:
        A `Compiled`, which does the same as the step, but faster. Results may differ by rounding:
        gradients by a few ULP of their largest terms. It returns new Tensors and arrays, except
        where the step returns its own arguments or Tensors of the models.

    Raises:
        RecordingError: at a call, if the step does something that can't be recorded. The message
            names the line. After this or any other error while recording, nothing has changed.

    Example:
        >>> model = tb.nn.MLP([2, 8, 2])
        >>> optimizer = tb.optim.SGD(model.parameters(), lr=0.1)
        >>> @tb.compile
        ... def step(x, labels):
        ...     optimizer.zero_grad()
        ...     loss = tb.ops.cross_entropy(model(x), labels)
        ...     loss.backward()
        ...     optimizer.step()
        ...     return loss
        >>> step(np.eye(2, dtype=np.float32), np.array([0, 1])).shape
        ()
    """
    if backend not in BACKENDS:
        expected = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"compile: expected backend to be one of {expected}, got {backend!r}")
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
    """Record what `step(*args, **keywords)` does to arrays, without running or changing anything.

    Args:
        step: a function, as for `compile`.
        *args: its arguments; only the shapes and dtypes of arrays matter.
        passes: what to do with the recorded lines (see passes.py): `exact` removes whatever changes
            no result, `relaxed` also shortens sums, and `without_dead` only removes lines that no
            output depends on.
        **keywords: its keyword arguments.

    Returns:
        The program: data (`lines`), and NumPy source when printed.

    Raises:
        RecordingError: the step does something that can't be recorded.

    Example:
        >>> print(tb.program(tb.ops.tanh, np.ones(3)))
        def step(a):
            # forward
            t1 = np.tanh(a)
        <BLANKLINE>
            return t1,
    """
    if not callable(step):
        raise TypeError(f"program: expected a function, got {type(step).__name__}")
    state = State(step)
    backend = _backend_of(state, leaves_of((args, keywords)))
    return passes(record(step, args, keywords, state, backend).program)
