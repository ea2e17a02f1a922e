"""The array library of recorded arrays: the `xp` of every op while a step is being recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybn.backend import MODULES
from tinybn.program.line import Line, Ref, apply, constant
from tinybn.program.recorded import VIEWS, Recorded, needs_numbers, refused

if TYPE_CHECKING:
    from tinybn.program.recording import Recording


class Library:
    """NumPy's functions for recorded arrays; what makes an array makes a recorded one.

    `__name__` is that of the backend whose arrays are stood for, so code that tells NumPy from CuPy
    by that name records what it would do.
    """

    def __init__(self, recording: Recording, backend: str) -> None:
        self.recording = recording
        self.__name__ = backend
        self.ndarray: Any = type("Recorded", (Recorded,), {"library": self, "__slots__": ()})

    def __getattr__(self, name: str) -> Any:
        known = getattr(Recorded, name, None) or getattr(np, name, None)
        if hasattr(Recorded, name) or isinstance(known, np.ufunc | type | float):
            return known  # a ufunc comes back to `Recorded.__array_ufunc__`
        raise refused(f"numpy.{name} is not recorded: use tb.ops, or do it outside the step")

    # lines

    def write(self, op: str, *inputs: Any, **static: Any) -> Any:
        """Write down a line, and return the array that stands for its result."""
        recording = self.recording
        lines = [self.lift(a) for a in inputs]
        line = apply(op, *lines, origin=recording.here(), **static)
        if op in VIEWS:
            recording.viewed.update((lines[0], line))
        recording.lines.append(line)
        return self.ndarray(line)

    def lift(self, a: Any) -> Line:
        """The line that an array or a number stands for."""
        if isinstance(a, Recorded):
            if a.library.recording is not self.recording:
                raise refused("an array of another recording, which has ended, is used")
            return a.line
        if isinstance(a, float | int):
            return constant(a, self.recording.here())
        if isinstance(a, np.generic) or MODULES.get(type(a)) is not None:
            return self.recording.captured(a)
        raise refused(f"a {type(a).__name__} can't be recorded: expected an array or number")

    def indexed(self, op: str, array: Any, index: Any, *values: Any) -> Any:
        """getitem, put or add_at, with the arrays in the index as further inputs."""
        index = index if isinstance(index, tuple) else (index,)
        if op == "getitem" and all(
            i is None or i is ... or (isinstance(i, slice) and i == slice(None)) for i in index
        ):
            return array.reshape(np.broadcast_to(False, array.shape)[index].shape)
        inputs, parts = [array, *values], []
        for part in index:
            if isinstance(part, list | np.ndarray | Recorded):
                inputs.append(np.asarray(part) if isinstance(part, list) else part)
                if inputs[-1].dtype == bool:
                    raise refused("how much a mask selects depends on numbers: use tb.ops.where")
                parts.append(Ref(len(inputs) - 1))
            else:
                parts.append(part)
        return self.write(op, *inputs, index=tuple(parts))

    # making arrays

    def full(self, shape: Any, value: Any, dtype: Any = None) -> Any:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if isinstance(value, Recorded):
            return self.broadcast_to(value, shape)
        dtype = np.asarray(value).dtype if dtype is None else np.dtype(dtype)
        return self.write("full", shape=shape, value=value, dtype=dtype)

    def zeros(self, shape: Any, dtype: Any = float) -> Any:
        return self.full(shape, 0, dtype)

    def ones(self, shape: Any, dtype: Any = float) -> Any:
        return self.full(shape, 1, dtype)

    def zeros_like(self, a: Any, dtype: Any = None) -> Any:
        return self.full(a.shape, 0, dtype or a.dtype)

    def ones_like(self, a: Any, dtype: Any = None) -> Any:
        return self.full(a.shape, 1, dtype or a.dtype)

    def full_like(self, a: Any, value: Any, dtype: Any = None) -> Any:
        return self.full(a.shape, value, dtype or a.dtype)

    def arange(self, n: int, dtype: Any = np.int64) -> Any:
        return self.write("arange", n=n, dtype=np.dtype(dtype))

    def asarray(self, a: Any, dtype: Any = None) -> Any:
        """Recorded, and on this backend."""
        if not isinstance(a, Recorded):
            array = np.asarray(a, dtype)
            number = isinstance(a, float | int)
            line = constant(array[()], self.recording.here()) if number else self.lift(array)
            library = self if line.op == "constant" else self.recording.libraries["numpy"]
            a = library.ndarray(line)
        if a.library is not self:
            a = self.write("asarray", a)
        return a if dtype is None else a.astype(dtype, copy=False)

    def array(self, a: Any, dtype: Any = None) -> Any:
        return self.asarray(a, dtype).copy()

    def drawn(self, draw: Callable[[], np.ndarray], shape: tuple[int, ...], dtype: Any) -> Any:
        """What the host draws anew at each run: an input of the program."""
        like = np.broadcast_to(np.zeros((), dtype), shape)
        return self.asarray(self.recording.input("drawn", draw, like))

    def move(self, a: Any, backend: str) -> Any:
        """To a GPU; the way back waits for it, and is refused."""
        libraries = self.recording.libraries
        return libraries[backend].asarray(a) if backend in libraries else self.asnumpy(a)

    asnumpy = staticmethod(needs_numbers(".numpy(), or moving a Tensor to the host,"))

    # functions

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return self.write("where", condition, a, b)

    def clip(self, a: Any, low: Any, high: Any) -> Any:
        return np.minimum(np.maximum(a, low), high)

    def broadcast_to(self, a: Any, shape: Any) -> Any:
        return self.write("broadcast_to", a, shape=tuple(shape))

    def expand_dims(self, a: Any, axis: Any) -> Any:
        return a.reshape(np.expand_dims(np.broadcast_to(False, a.shape), axis).shape)

    def concatenate(self, arrays: Any, axis: int = 0) -> Any:
        return self.write("concatenate", *arrays, axis=axis)
