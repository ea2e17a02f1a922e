"""Recorded arrays: they hold no numbers, only the line that would compute them.

A recorded array answers NumPy's operators, functions and methods by writing a line. It is mutable:
an in-place change makes it refer to another line, and every holder of the array sees the change, as
in NumPy. Views can't follow such a change, so views, and arrays with views, refuse it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partialmethod
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from tinybn.anomaly import user_line
from tinybn.program.line import Line
from tinybn.tensor import Tensor

if TYPE_CHECKING:
    from tinybn.program.library import Library


class RecordingError(RuntimeError):
    """A step does something that can't be recorded. The message names the line of the user's code.

    Nothing has changed when it is raised.
    """


def refused(message: str, where: str = "") -> RecordingError:
    """The error, whose message begins with the line of the user's code."""
    return RecordingError(f"{where or user_line()}: {message}")


def needs_numbers(what: str) -> Any:
    """A method that raises, because it needs the numbers of an array that has none."""

    def method(self: Recorded, *_: Any, **__: Any) -> NoReturn:
        raise refused(
            f"{what} needs numbers, and a step that is being recorded has none: return the value "
            "from the step and look at it outside, or choose with tb.ops.where"
        )

    return method


class Operators(np.lib.mixins.NDArrayOperatorsMixin):
    """NumPy's operators. They leave `array + tensor` to the Tensor, as those of arrays do."""

    __slots__ = ()


def _unless_tensor(operator: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: NotImplemented if isinstance(b, Tensor) else operator(a, b)


ARITHMETIC = "__add__", "__sub__", "__mul__", "__truediv__", "__floordiv__", "__pow__", "__matmul__"
COMPARISONS = "__lt__", "__le__", "__eq__", "__ne__", "__gt__", "__ge__"
for _name in ARITHMETIC + COMPARISONS:
    setattr(Operators, _name, _unless_tensor(getattr(Operators, _name)))


class Recorded(Operators):
    """An array that holds a line. Each recording has subclasses of its own, one per library."""

    __slots__ = ("__weakref__", "line")
    library: ClassVar[Library]

    def __init__(self, line: Line) -> None:
        self.line = line
        self.library.recording.made.append(weakref.ref(self))

    def check_later(self, check: Callable[[Any], None]) -> None:
        """Check the numbers at each run, because there are none now."""
        recording = self.library.recording
        if self.line.op != "input":
            raise refused("only an argument can be checked here: pass it as one")
        recording.checks.append((recording.inputs.index(self.line), check))

    shape = property(lambda self: self.line.shape)
    dtype = property(lambda self: self.line.dtype)
    ndim = property(lambda self: self.line.ndim)
    size = property(lambda self: self.line.size)
    hollow = property(lambda self: np.broadcast_to(False, self.shape))
    """An array of this shape that takes no memory. Its views tell the shapes of ours."""

    __hash__ = object.__hash__
    __bool__ = needs_numbers("bool() (if, while, and, or, not)")
    __float__, __int__ = map(needs_numbers, ("float()", "int()"))
    __index__, __round__ = map(needs_numbers, ("an index or a range()", "round()"))
    __contains__, __format__ = map(needs_numbers, ("`in`", "a formatted number"))
    __array__, __dlpack__ = map(needs_numbers, ("a NumPy array (np.asarray)", "DLPack"))
    item, tolist, tobytes = map(needs_numbers, (".item()", ".tolist()", ".tobytes()"))

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """What isinstance sees: float or int for a number, as in the step that is not recorded."""
        return self.line.kind or type(self)

    def __getattr__(self, name: str) -> NoReturn:
        if callable(getattr(np.ndarray, name, None)) and not name.startswith("__"):
            raise refused(f"an array's .{name}() is not recorded: use tb.ops")
        raise AttributeError(f"a recorded array has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<recorded {self.line.op}: {self.dtype} {self.shape}>"

    def __len__(self) -> int:
        return len(self.hollow)

    def __iter__(self) -> Iterator[Recorded]:
        return (self[i] for i in range(len(self)))

    # NumPy's functions

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **how: Any) -> Any:
        out = how.pop("out", (None,))[0]
        if ufunc is np.add and method == "at" and not how:
            target, index, values = args
            return target.become(self.library.indexed("add_at", target, index, values))
        if method != "__call__" or how or ufunc.nout > 1:
            asked = f"numpy.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
            raise refused(f"{asked} with {how or 'this use'} is not recorded: use tb.ops")
        result = self.library.write(ufunc.__name__, *args)
        if out is None or (isinstance(out, Recorded) and out.line.kind):  # n += 1 is a new number
            return result
        if not isinstance(out, Recorded):
            raise refused(f"a recorded array can't be written into a {type(out).__name__}")
        return out.become(result)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return getattr(self.library, function.__name__)(*args, **kwargs)

    # changes in place

    def become(self, new: Recorded) -> Recorded:
        """Refer to the line of `new` from now on, converted to this array's dtype."""
        if self.line in self.library.recording.viewed or self.line.op == "input":
            raise refused(
                "an argument, a parameter, a view or an array with views is changed in place, "
                "which a recording can't follow: make a new array, such as a = a + b for a += b"
            )
        if new.shape != self.shape:
            raise ValueError(f"a result of shape {new.shape} does not fit into {self.shape}")
        self.line = new.astype(self.dtype, copy=False).line
        return self

    def __getitem__(self, index: Any) -> Recorded:
        return self.library.indexed("getitem", self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.become(self.library.indexed("put", self, index, value))

    # NumPy's methods

    def astype(self, dtype: Any, copy: bool = True) -> Recorded:
        if self.dtype == dtype:
            return self.copy() if copy else self
        return self.library.write("astype", self, dtype=np.dtype(dtype))

    def copy(self) -> Recorded:
        return type(self)(self.line)

    def dot(self, other: Any) -> Recorded:
        return self @ other

    def _reduced(
        self, op: str, axis: Any = None, keepdims: bool = False, **static: Any
    ) -> Recorded:
        given = range(self.ndim) if axis is None else axis
        axes = tuple(sorted(np.lib.array_utils.normalize_axis_tuple(given, self.ndim)))
        y = self.library.write(op, self, axis=axes, **static)
        return y if keepdims else y.squeeze(axes)

    def argmax(self, axis: Any = None, keepdims: bool = False) -> Recorded:
        if axis is not None:
            return self._reduced("argmax", axis, keepdims)
        y = self.reshape(-1)._reduced("argmax", 0)
        return y.reshape((1,) * self.ndim) if keepdims else y

    max, min = partialmethod(_reduced, "max"), partialmethod(_reduced, "min")

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Recorded:
        if dtype is None:
            return self._reduced("sum", axis, keepdims)
        if dtype == np.float64:
            return self._reduced("sum_wide", axis, keepdims)
        return self._reduced("sum_as", axis, keepdims, dtype=np.dtype(dtype))

    def mean(self, axis: Any = None, keepdims: bool = False) -> Recorded:
        total = self.sum(axis, keepdims=keepdims)
        return total / (self.size // total.size)

    def reshaped(self, like: np.ndarray) -> Recorded:
        """The same elements in the shape of `like`, a view of `hollow`."""
        return self.library.write("reshape", self, shape=like.shape)

    def reshape(self, *shape: Any) -> Recorded:
        return self.reshaped(self.hollow.reshape(*shape))

    def ravel(self) -> Recorded:
        return self.reshape(-1)

    def squeeze(self, axis: Any = None) -> Recorded:
        return self.reshaped(self.hollow.squeeze(axis))

    def transpose(self, *axes: Any) -> Recorded:
        numbered = np.broadcast_to(False, tuple(range(self.ndim)))  # axis i has the length i
        return self.library.write("transpose", self, axes=numbered.transpose(*axes).shape)

    T = property(transpose)

    def swapaxes(self, i: int, j: int) -> Recorded:
        order = list(range(self.ndim))
        order[i], order[j] = order[j], order[i]
        return self.transpose(order)
