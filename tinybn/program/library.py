"""The array library of recorded arrays: the `xp` of every op while a step is recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybn.backend import MODULES
from tinybn.program.line import Line, Ref, apply, constant
from tinybn.program.recorded import Recorded, needs_numbers, refused

if TYPE_CHECKING:
    from tinybn.program.recording import Recording

VIEWS = ("reshape", "transpose", "broadcast_to", "getitem")


class Library:
    """NumPy's functions for recorded arrays. Array methods and ufuncs serve as functions, too.

    Its `__name__` is the backend that it records for, so that code that tells NumPy from CuPy by
    the name records what it would do on that backend.
    """

    def __init__(self, recording: Recording, backend: str) -> None:
        self.recording = recording
        self.__name__ = backend
        self.ndarray: Any = type("Recorded", (Recorded,), {"library": self, "__slots__": ()})

    def __getattr__(self, name: str) -> Any:
        if hasattr(Recorded, name):
            return getattr(Recorded, name)
        if isinstance(known := getattr(np, name, None), np.ufunc | type | float):
            return known  # a ufunc comes back to `Recorded.__array_ufunc__`
        raise refused(f"numpy.{name} is not recorded: use tb.ops, or do it outside the step")

    # lines

    def write(self, op: str, *inputs: Any, **static: Any) -> Any:
        """Write a line, and return an array that refers to it."""
        recording = self.recording
        lines = [self.lift(a) for a in inputs]
        line = apply(op, *lines, origin=recording.here(), **static)
        if op in VIEWS and lines[0].op != "constant":
            recording.viewed.update((lines[0], line))
        recording.lines.append(line)
        return self.ndarray(line)

    def lift(self, a: Any) -> Line:
        """The line of an array or a number."""
        if isinstance(a, Recorded):
            if a.library.recording is not self.recording:
                raise refused("an array of another recording, which has ended, is used")
            return a.line
        if isinstance(a, float | int):
            return constant(a)
        if isinstance(a, np.generic) or MODULES.get(type(a)) is not None:
            return self.recording.captured(a).line
        raise refused(f"a {type(a).__name__} can't be recorded: expected an array or number")

    def indexed(self, op: str, array: Any, index: Any, *values: Any) -> Any:
        """Write getitem, put or add_at, with the arrays in the index as further inputs."""
        index = index if isinstance(index, tuple) else (index,)
        if op == "getitem" and all(
            i is None or i is ... or (isinstance(i, slice) and i == slice(None)) for i in index
        ):
            return array.reshaped(array.hollow[index])
        inputs, parts = [array, *values], []
        for part in index:
            if isinstance(part, list | np.ndarray | Recorded):
                inputs.append(np.asarray(part) if isinstance(part, list) else part)
                if inputs[-1].dtype == bool:
                    raise refused("how much a mask selects depends on numbers: use tb.ops.where")
                part = Ref(len(inputs) - 1)
            parts.append(part)
        return self.write(op, *inputs, index=tuple(parts))

    # making arrays

    def asarray(self, a: Any, dtype: Any = None) -> Any:
        """A recorded array on this backend."""
        if not isinstance(a, Recorded):
            a = self.recording.captured(a if hasattr(a, "shape") else np.asarray(a, dtype))
        if a.library is not self or a.line.kind:
            a = self.write("asarray", a)
        return a if dtype is None else a.astype(dtype, copy=False)

    def array(self, a: Any, dtype: Any = None) -> Any:
        return self.asarray(a, dtype).copy()

    def full(self, shape: Any, value: Any, dtype: Any = None) -> Any:
        if not isinstance(value, Recorded):
            value = np.asarray(value, dtype)[()]
        y = self.broadcast_to(value, shape)
        return y if dtype is None else y.astype(dtype, copy=False)

    def full_like(self, a: Any, value: Any, dtype: Any = None) -> Any:
        return self.full(a.shape, value, dtype or a.dtype)

    def _filled(self, shape: Any, dtype: Any = float, *, value: int) -> Any:
        return self.full(shape, value, dtype)

    def _filled_like(self, a: Any, dtype: Any = None, *, value: int) -> Any:
        return self.full_like(a, value, dtype)

    zeros, ones = partialmethod(_filled, value=0), partialmethod(_filled, value=1)
    zeros_like = partialmethod(_filled_like, value=0)
    ones_like = partialmethod(_filled_like, value=1)

    def arange(self, n: int, dtype: Any = np.int64) -> Any:
        return self.write("arange", n=n, dtype=np.dtype(dtype))

    def drawn(self, draw: Callable[[], np.ndarray], shape: tuple[int, ...], dtype: Any) -> Any:
        """An input of the program that the host draws again before each run."""
        like = np.broadcast_to(np.zeros((), dtype), shape)
        return self.asarray(self.recording.input("drawn", draw, like))

    def move(self, a: Any, backend: str) -> Any:
        """Move to a GPU. Moving back is refused, because it would wait for the GPU."""
        if backend == "numpy":
            return self.asnumpy(a)
        if backend not in self.recording.libraries:
            raise refused(f"nothing else that the step uses is on {backend}: move it outside")
        return self.recording.libraries[backend].asarray(a)

    asnumpy = staticmethod(needs_numbers(".numpy(), or moving a Tensor to the host,"))

    # functions

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return self.write("where", condition, a, b)

    def clip(self, a: Any, low: Any, high: Any) -> Any:
        return np.minimum(np.maximum(a, low), high)

    def broadcast_to(self, a: Any, shape: Any) -> Any:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        return self.write("broadcast_to", a, shape=shape)

    def expand_dims(self, a: Any, axis: Any) -> Any:
        return a.reshaped(np.expand_dims(a.hollow, axis))

    def concatenate(self, arrays: Any, axis: int = 0) -> Any:
        return self.write("concatenate", *arrays, axis=axis)
