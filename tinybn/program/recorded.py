"""Recorded arrays: the third backend. They hold no numbers, only the line that would make them.

A recorded array answers to NumPy's operators, functions and methods by writing down a line. It is a
cell: changed in place, it stands for another line from then on, and everybody who holds it sees the
change, as with NumPy. Only views can't be followed like that, so what has been viewed, or is one,
is not changed in place.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from tinybn.anomaly import user_line
from tinybn.program.line import Line

if TYPE_CHECKING:
    from tinybn.program.library import Library


class RecordingError(RuntimeError):
    """A step does something that can't be recorded; nothing has changed."""


def refused(message: str, where: str = "") -> RecordingError:
    """The error, which begins with the line of the user's code."""
    return RecordingError(f"{where or user_line()}: {message}")


VIEWS = ("reshape", "transpose", "broadcast_to", "getitem")


def needs_numbers(what: str) -> Any:
    """A method that refuses: it needs the numbers of an array that has none."""

    def refuse(self: Recorded, *_: Any, **__: Any) -> NoReturn:
        raise refused(
            f"{what} needs numbers, and a step that is being recorded has none: return the value "
            "from the step and look at it outside, or choose with tb.ops.where"
        )

    return refuse


class Recorded(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that stands for the result of a line. Each recording has a subclass of its own."""

    __slots__ = ("__weakref__", "line")
    library: ClassVar[Library]

    def __init__(self, line: Line) -> None:
        self.line = line
        self.library.recording.made.append(weakref.ref(self))

    def check_later(self, check: Callable[[Any], None]) -> None:
        """Make a check of the numbers, of which there are none now, at each run."""
        recording = self.library.recording
        if self.line.op != "input":
            raise refused("only an argument can be checked here: pass it as one")
        recording.checks.append((recording.inputs.index(self.line), check))

    shape = property(lambda self: self.line.shape)
    dtype = property(lambda self: self.line.dtype)
    ndim = property(lambda self: self.line.ndim)
    size = property(lambda self: self.line.size)
    itemsize = property(lambda self: self.line.dtype.itemsize)
    base = None  # what the engine asks of arrays that it gives away: this shares no memory

    __hash__ = object.__hash__
    __bool__ = needs_numbers("bool() (if, while, and, or, not)")
    __float__, __int__, __index__ = map(
        needs_numbers, ("float()", "int()", "an index or a range()")
    )
    __round__, __contains__ = map(needs_numbers, ("round()", "`in`"))
    item, tolist, tobytes = map(needs_numbers, (".item()", ".tolist()", ".tobytes()"))
    __array__, __dlpack__ = map(needs_numbers, ("a NumPy array (np.asarray)", "DLPack"))

    def __repr__(self) -> str:
        return f"<recorded {self.line.op}: {self.dtype} {self.shape}>"

    __format__ = needs_numbers("a formatted number")

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes (shape ())")
        return self.shape[0]

    def __iter__(self) -> Iterator[Recorded]:
        return (self[i] for i in range(len(self)))

    # NumPy's functions

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **how: Any) -> Any:
        out = how.pop("out", (None,))[0]
        if ufunc is np.add and method == "at" and not how:
            target, index, values = args
            return target.become("add_at", values, index=index)
        if method != "__call__" or how or ufunc.nout > 1:
            asked = f"numpy.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
            raise refused(f"{asked} with {how or 'this use'} is not recorded: use tb.ops")
        if out is None:
            return self.library.write(ufunc.__name__, *args)
        if not isinstance(out, Recorded):
            raise refused(f"a recorded array can't be written into a {type(out).__name__}")
        if out.line.kind:  # a number: `n += 1` makes another one
            return self.library.write(ufunc.__name__, *args)
        return out.become(ufunc.__name__, *args)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return getattr(self.library, function.__name__)(*args, **kwargs)

    def become(self, op: str, *args: Any, index: Any = None) -> Recorded:
        """Change in place: stand for another line from now on."""
        if self.line in self.library.recording.viewed or self.line.op in (*VIEWS, "input"):
            raise refused(
                "an argument, a parameter, a view or what has views is changed in place, which a "
                "recording can't follow: make a new array, such as a = a + b for a += b"
            )
        if index is None:
            line = self.library.write(op, *args).line
        else:
            line = self.library.indexed(op, self, index, *args).line
        if line.shape != self.shape:
            raise ValueError(f"a result of shape {line.shape} does not fit into {self.shape}")
        if line.dtype != self.dtype:
            line = self.library.write("astype", type(self)(line), dtype=self.dtype).line
        self.line = line
        return self

    def __getitem__(self, index: Any) -> Recorded:
        return self.library.indexed("getitem", self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.become("put", value, index=index)

    # its methods

    def _reduce(self, op: str, axis: Any, keepdims: bool, **static: Any) -> Recorded:
        given = range(self.ndim) if axis is None else axis
        axes = tuple(sorted(np.lib.array_utils.normalize_axis_tuple(given, self.ndim)))
        y = self.library.write(op, self, axis=axes, **static)
        return y if keepdims else y.reshape([n for i, n in enumerate(self.shape) if i not in axes])

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Recorded:
        if dtype is None:
            return self._reduce("sum", axis, keepdims)
        if np.dtype(dtype) == np.float64:
            return self._reduce("sum_wide", axis, keepdims)
        return self._reduce("sum_as", axis, keepdims, dtype=np.dtype(dtype))

    def mean(self, axis: Any = None, keepdims: bool = False) -> Recorded:
        total = self.sum(axis, keepdims=keepdims)
        return total / (self.size // total.size)

    def max(self, axis: Any = None, keepdims: bool = False) -> Recorded:
        return self._reduce("max", axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Recorded:
        return self._reduce("min", axis, keepdims)

    def dot(self, other: Any) -> Recorded:
        return self @ other

    def astype(self, dtype: Any, copy: bool = True) -> Recorded:
        if self.dtype == dtype:
            return self.copy() if copy else self
        return self.library.write("astype", self, dtype=np.dtype(dtype))

    def copy(self) -> Recorded:
        return type(self)(self.line)

    def reshape(self, *shape: Any) -> Recorded:
        given = shape[0] if len(shape) == 1 else shape
        lengths = [given] if isinstance(given, int) else list(given)
        if -1 in lengths:
            known = -math.prod(lengths)
            lengths[lengths.index(-1)] = self.size // known if known else 0
        if math.prod(lengths) != self.size:
            raise ValueError(f"cannot reshape array of shape {self.shape} into {tuple(given)}")
        return self.library.write("reshape", self, shape=tuple(lengths))

    def ravel(self) -> Recorded:
        return self.reshape(-1)

    def transpose(self, *axes: Any) -> Recorded:
        order = axes[0] if len(axes) == 1 else axes or None
        order = range(self.ndim)[::-1] if order is None else [a % self.ndim for a in order]
        return self.library.write("transpose", self, axes=tuple(order))

    T = property(transpose)

    def swapaxes(self, i: int, j: int) -> Recorded:
        order = list(range(self.ndim))
        order[i], order[j] = order[j], order[i]
        return self.transpose(order)

    def squeeze(self, axis: Any = None) -> Recorded:
        return self.reshape(np.broadcast_to(False, self.shape).squeeze(axis).shape)
