"""Lines: the statements of a program.

A line applies a NumPy function to the results of other lines: `x_hat = d / s`. The only definition
of an operation is its text in `EXPRESSIONS`: a program is printed as these texts, and what is
printed is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tinybn.backend import MODULES

EXPRESSIONS: dict[str, str] = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "floor_divide": "{0} // {1}",
    "power": "{0} ** {1}",
    "negative": "-{0}",
    "equal": "{0} == {1}",
    "not_equal": "{0} != {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "matmul": "{0} @ {1}",
    "where": "np.where({0}, {1}, {2})",
    "astype": "{0}.astype({dtype})",
    "sum": "{0}.sum({axis}, keepdims=True)",
    "sum_wide": "{0}.sum({axis}, keepdims=True, dtype=np.float64)",
    "sum_as": "{0}.sum({axis}, keepdims=True, dtype={dtype})",
    "max": "{0}.max({axis}, keepdims=True)",
    "min": "{0}.min({axis}, keepdims=True)",
    "reshape": "{0}.reshape({shape})",
    "transpose": "{0}.transpose({axes})",
    "broadcast_to": "np.broadcast_to({0}, {shape})",
    "full": "np.full({shape}, {value}, {dtype})",
    "concatenate": "np.concatenate([{all}], {axis})",
    "arange": "np.arange({n}, dtype={dtype})",
    "asarray": "np.asarray({0})",
    "getitem": "{0}[{index}]",
    "put": "put({0}, {index}, {1})",
    "add_at": "add_at({0}, {index}, {1})",
}
"""The source of each operation, by name. All other ufuncs are written np.name(…)."""

REDUCTIONS = ("sum", "sum_wide", "sum_as", "max", "min")


class Origin(NamedTuple):
    """Where a line comes from.

    Attributes:
        section: "forward", "backward" or "update".
        layer: the full name of the layer and its repr, such as ("1", "BatchNorm(16)").
        name: the full name of the result, such as "1.x_hat".
        rule: the op and input of the gradient rule that wrote the line, such as ("divide", "a").
        user: the file and line of the user's code.
    """

    section: str = "forward"
    layer: tuple[str, str] | None = None
    name: str = ""
    rule: tuple[str, str] | None = None
    user: str = ""


NOWHERE = Origin()


@dataclass(eq=False, slots=True)
class Line:
    """One operation of a program. Two lines are equal only if they are the same object.

    Attributes:
        op: a name in EXPRESSIONS or the name of a ufunc; "input"; or "constant".
        inputs: the lines that it reads.
        static: what is known without running the program (axis, shape, …); a constant's "value".
        shape: the shape of the result.
        dtype: the dtype of the result.
        kind: float, int or bool if the result is a Python number, which has the shape () and
            promotes no dtype; None if it is an array.
        origin: where the line comes from.
    """

    op: str
    inputs: tuple[Line, ...]
    static: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: Any
    kind: type | None = None
    origin: Origin = NOWHERE

    def __post_init__(self) -> None:
        self.dtype = np.dtype(self.dtype)

    @property
    def promoted(self) -> Any:
        """What NumPy promotes with other operands: a number's kind (but not bool), or a dtype."""
        return self.dtype if self.kind in (None, bool) else self.kind

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def reading(self, inputs: tuple[Line, ...]) -> Line:
        """The same operation on other lines of the same shapes and dtypes."""
        return replace(self, inputs=inputs)

    def key(self) -> tuple[Any, ...]:
        """Equal for lines that compute the same from the same lines."""
        static = tuple((name, _hashable(value)) for name, value in self.static.items())
        return self.op, self.inputs, static, self.shape, self.dtype, self.kind

    def __repr__(self) -> str:
        kind = self.kind.__name__ if self.kind else f"{self.dtype} {self.shape}"
        return f"<{self.op}: {kind}>"


def _hashable(value: Any) -> Any:
    array = isinstance(value, np.ndarray)
    return (value.tobytes(), value.shape, value.dtype) if array else repr(value)


def constant(value: Any) -> Line:
    """A number (Python's has a kind, NumPy's a dtype), or an array that never changes."""
    kind = type(value) if type(value) in (float, int) else None
    dtype = kind or np.asarray(value).dtype
    return Line("constant", (), {"value": value}, np.shape(value), dtype, kind)


def is_elementwise(op: str) -> bool:
    """Whether each element of the result comes from one element of each input."""
    ufunc = isinstance(getattr(np, op, None), np.ufunc) and op != "matmul"
    return ufunc or op in ("where", "astype")


def apply(op: str, *inputs: Line, origin: Origin = NOWHERE, **static: Any) -> Line:
    """The line that applies `op`, with the shape and dtype that NumPy gives it.

    To find these, NumPy runs the operation on broadcast zeros, which take no memory and no time.
    Reductions keep the axes that they reduce, with length 1.
    """
    shapes = [a.shape for a in inputs]
    if elementwise := is_elementwise(op):
        shapes = [() for _ in inputs]
    elif op in REDUCTIONS:
        axes = {a % len(shapes[0]) for a in static["axis"]}
        shapes = [tuple(min(n, 1) if i in axes else n for i, n in enumerate(shapes[0]))]
    elif op == "matmul" and all(len(s) > 1 for s in shapes) and shapes[0][-1] == shapes[1][-2]:
        shapes = [(*shapes[0][:-1], 0), (*shapes[1][:-2], 0, shapes[1][-1])]
    zeros = [
        a.kind(1) if a.kind else np.broadcast_to(np.zeros((), a.dtype), shape)
        for a, shape in zip(inputs, shapes, strict=True)
    ]
    with np.errstate(all="ignore"):
        value = evaluate(op, zeros, static)
    like = np.asarray(value)
    shape = np.broadcast_shapes(*[a.shape for a in inputs]) if elementwise else like.shape
    numbers = all(a.kind for a in inputs) and not isinstance(value, np.ndarray)
    kind = type(like.item()) if numbers else None
    return Line(op, inputs, static, shape, like.dtype, kind, origin)


def evaluate(op: str, given: Sequence[Any], static: Mapping[str, Any]) -> Any:
    """The result of an operation on these arrays and numbers."""
    names = [f"a{i}" for i in range(len(given))]
    return _function(", ".join(names), expression(op, names, static))(*given)


@lru_cache(1000)
def _function(names: str, text: str) -> Any:
    return eval(f"lambda {names}: {text}", names_for(np))  # noqa: S307, it is our own text


def expression(op: str, names: list[str], static: Mapping[str, Any]) -> str:
    """The operation as NumPy source, given the names of its inputs."""
    if op == "constant":
        return literal(static["value"])
    pattern = EXPRESSIONS.get(op, f"np.{op}({{all}})")
    texts = {key: literal(value, names) for key, value in static.items()}
    axis = static.get("axis")
    if isinstance(axis, tuple) and len(axis) == 1:
        texts["axis"] = str(axis[0])
    return pattern.format(*names, all=", ".join(names), **texts)


class Ref(int):
    """In an index: the place of the input with this number."""


def literal(value: Any, names: list[str] | tuple[str, ...] = ()) -> str:
    """A static value as source."""
    if isinstance(value, Ref):
        return names[value]
    if isinstance(value, tuple):
        return f"({', '.join(literal(v, names) for v in value)}{',' * (len(value) == 1)})"
    if isinstance(value, list):
        return f"[{', '.join(literal(v, names) for v in value)}]"
    if value is Ellipsis:
        return "..."
    if isinstance(value, np.dtype):
        return f"np.{value.name}"
    if isinstance(value, np.generic):
        return f"np.{value.dtype.name}({literal(value.item())})"
    if isinstance(value, np.ndarray):
        array = f"np.array({literal(value.tolist())}, np.{value.dtype.name})"
        return array if value.size else f"{array}.reshape({value.shape})"
    if isinstance(value, float) and not np.isfinite(value):
        return {"inf": "np.inf", "-inf": "-np.inf", "nan": "np.nan"}[repr(value)]
    return repr(value)


def put(a: Any, index: Any, values: Any) -> Any:
    """A copy of a with `values` at `index`."""
    a = a.copy()
    a[index] = values
    return a


def add_at(a: Any, index: Any, values: Any) -> Any:
    """A copy of a with `values` added at `index`; values for the same element add up."""
    a = a.copy()
    MODULES[type(a)].add.at(a, index, values)  # type: ignore[union-attr]
    return a


def names_for(xp: Any) -> dict[str, Any]:
    """The names that the source of a program uses, for arrays of the library xp."""
    return {"np": xp, "put": put, "add_at": add_at}
