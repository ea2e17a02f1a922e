"""A program as a CUDA graph: captured once, and then launched as a whole.

A graph repeats its kernels with the addresses and numbers of the moment when it was captured. So
arguments are copied to fixed places, new state is written over the old, and numbers that change
from step to step, such as the learning rate, lie in arrays on the device. The first run is an
ordinary one, which compiles the kernels; the second captures.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinybn.backend import module
from tinybn.program.cublas import matmul
from tinybn.program.line import Line, names_for
from tinybn.program.passes import exact
from tinybn.program.place import Place
from tinybn.program.recorded import refused
from tinybn.program.source import Program, named, referring, right_hand_side
from tinybn.program.step import STEP, Step

VIEWS = {"input", "reshape", "transpose", "broadcast_to", "getitem", "asarray", "constant"}
"""Operations whose results may share memory with something else."""

MANY = 16


class Text:
    """A program as two Python functions.

    Attributes:
        source: both of them. `numbers` computes the program's numbers on the host; `step` launches
            its kernels.
        loaded: the numbers that `numbers` returns for `step`, each with the dtype in which arrays
            meet it. (It also returns the outputs that are numbers.)
        constants: arrays that never change, by the name that `step` uses.
    """

    def __init__(self, program: Program, homes: dict[int, int]) -> None:
        self.names = named(program)
        self.loaded: dict[tuple[Line, np.dtype], str] = {}
        self.constants: dict[str, np.ndarray] = {}
        plain = referring(self.names)
        host = [f"{plain(v)} = {right_hand_side(v, plain)}" for v in program.lines if v.kind]
        lines = [self._line(v) for v in program.lines if not v.kind]
        results = []
        for k, v in enumerate(program.outputs):
            text = "None" if v.kind else self._reference(v, v.dtype)
            if v.op in VIEWS and not v.kind:  # what is written below must not change it
                lines.append(f"out_{k} = np.array({text})")
                text = f"out_{k}"
            results.append(text)
        lines += [f"{self.names[program.inputs[i]]}[...] = {results[k]}" for k, i in homes.items()]
        results = ["None" if k in homes else text for k, text in enumerate(results)]
        inputs = [self.names[v] for v in program.inputs]
        returned = [plain(v) if v.kind else "None" for v in program.outputs]
        loaded = [plain(v) for v, _ in self.loaded]
        host.append(f"return [{', '.join(loaded)}], [{', '.join(returned)}]")
        lines.append(f"return [{', '.join(results)}]")
        self.source = "\n    ".join([f"def numbers({', '.join(inputs)}):", *host]) + "\n\n\n"
        parameters = ", ".join([*inputs, *self.loaded.values()])
        self.source += "\n    ".join([f"def step({parameters}):", *lines]) + "\n"

    def _line(self, v: Line) -> str:
        promoted = [
            0.0 if a.promoted is float else 0 if a.promoted is int else a.dtype for a in v.inputs
        ]
        dtype = np.result_type(*promoted) if promoted else v.dtype
        if v.op == "matmul":
            text = f"matmul({', '.join(self._reference(a, dtype) for a in v.inputs)})"
        else:
            text = right_hand_side(v, lambda a: self._reference(a, dtype))
        return f"{self.names[v]} = {text}"

    def _reference(self, a: Line, dtype: np.dtype) -> str:
        """The name of a line; for a number, the array that holds it on the device."""
        if a.op == "constant":
            if not a.shape:
                return referring(self.names)(a)
            name = f"constant_{len(self.constants)}"
            self.constants[name] = a.static["value"]
            return name
        if not a.kind:
            return self.names[a]
        return self.loaded.setdefault((a, dtype), f"{self.names[a]}_{dtype.name}")


class Captured:
    """A program of CuPy arrays, ready to run as a CUDA graph.

    Attributes:
        source: what is captured, as Python.
        captures: how many times: again whenever an array of the state has been replaced.
    """

    def __init__(self, step: Step) -> None:
        program = exact(step.program)
        text = Text(program, step.homes)
        self._xp: Any = module("cupy")
        self._inputs, self.source, self.captures = program.inputs, text.source, 0
        self._state = [isinstance(source, Place) for source in step.sources]
        self._values: list[Any] = [None] * len(program.inputs)
        space = names_for(self._xp) | {"matmul": matmul(self._xp)}
        space |= {name: self._xp.asarray(array) for name, array in text.constants.items()}
        exec(text.source, space)  # noqa: S102, our own text
        self._numbers: Callable[..., tuple[list[Any], list[Any]]] = space["numbers"]
        self._step: Callable[..., list[Any]] = space["step"]
        places: dict[np.dtype, list[int]] = defaultdict(list)
        for n, (_, dtype) in enumerate(text.loaded):
            places[dtype].append(n)
        self._loaded: list[Any] = [None] * len(text.loaded)
        self._packed = []
        for dtype, numbers in places.items():
            array = self._xp.empty(len(numbers), dtype)
            self._packed.append((array, numbers))
            for k, n in enumerate(numbers):
                self._loaded[n] = array[k]
        self._stream = self._xp.cuda.Stream(non_blocking=True)
        self._pool = self._xp.cuda.MemoryPool()
        self._graph: Any = None
        self._results: list[Any] | None = None

    def bind(self, i: int, value: Any) -> None:
        """Set input i to an array or a number, for all later runs."""
        line, known = self._inputs[i], self._values[i]
        if line.kind or self._state[i]:
            self._values[i] = value
            if not line.kind and value is not known:
                self._graph = None
            return
        if known is None:
            self._values[i] = known = self._xp.empty(line.shape, line.dtype)
        if isinstance(value, self._xp.ndarray):
            self._xp.copyto(known, value)
        else:
            known.set(np.ascontiguousarray(value, line.dtype))

    def run(self) -> list[Any]:
        """Launch the graph. Returns the outputs in order; None for each that has a home."""
        numbers, results = self._numbers(*self._values)
        for array, chosen in self._packed:
            array.set(np.array([numbers[n] for n in chosen], array.dtype))
        if self._results is None:
            with self._aside():
                self._results = self._step(*self._values, *self._loaded)
        else:
            if self._graph is None:
                self._capture()
            self._graph.launch()
        for k, y in enumerate(self._results):
            if y is not None:  # the next run writes there
                results[k] = y.copy()
        return results

    def _capture(self) -> None:
        with self._aside():
            self._stream.begin_capture()
            try:
                self._results = self._step(*self._values, *self._loaded)
                self._graph = self._stream.end_capture()
            except Exception as error:
                with contextlib.suppress(RuntimeError):  # it only says that the capture failed
                    self._stream.end_capture()
                raise refused(
                    f"the step can't be captured as a CUDA graph: {error}", STEP
                ) from error
        self.captures += 1
        if self.captures == MANY:
            warnings.warn(
                f"a step has been captured {MANY} times, since arrays that it reads are replaced "
                "between calls: pass them as arguments, or leave out backend='graph'",
                stacklevel=5,
            )

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """On a stream and with memory that nothing else uses: graphs write there later.

        The streams wait for each other; the host waits for neither.
        """
        current = self._xp.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._xp.cuda.using_allocator(self._pool.malloc), self._stream:
            yield
        current.wait_event(self._stream.record())
