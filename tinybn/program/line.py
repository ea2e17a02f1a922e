"""Lines: what a program is made of.

A line applies one of NumPy's functions to the results of other lines: `x_hat = d / s`. What a
function is called, how it is written down, and so what it computes, is told in one place: the text
of `EXPRESSIONS`. The source of a program is made of these texts, and runs as it is printed.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    "concatenate": "np.concatenate([{all}], {axis})",
    "arange": "np.arange({n}, dtype={dtype})",
    "full": "np.full({shape}, {value}, {dtype})",
    "asarray": "np.asarray({0})",
    "getitem": "{0}[{index}]",
    "put": "put({0}, {index}, {1})",
    "add_at": "add_at({0}, {index}, {1})",
}
"""The source of every operation, by name; a ufunc that is missing is written np.name(…)."""

REDUCTIONS = ("sum", "sum_wide", "sum_as", "max", "min")


class Origin(NamedTuple):
    """Where a line comes from.

    section: "forward", "backward" or "update". layer: the layer's full name and what it is, such as
    ("1", "BatchNorm(16)"), if it is one. name: what its result is called there. rule: the op whose
    rule it is part of, and the name of the input whose gradient that gives, such as
    ("divide", "a"). user: the file and line of the user's code.
    """

    section: str = "forward"
    layer: tuple[str, str] | None = None
    name: str = ""
    rule: tuple[str, str] | None = None
    user: str = ""


class Line:
    """One operation: what it is, what it reads, and of what shape and dtype its result is.

    op: a name in EXPRESSIONS or of a ufunc; "input"; or "constant", whose static is its value.
    static: what is not computed (axis, shape, …). kind: float, int or bool, if the result is a
    Python number, which promotes no dtype (its shape is ()); None for an array.
    """

    __slots__ = ("dtype", "inputs", "kind", "op", "origin", "shape", "static")

    def __init__(
        self,
        op: str,
        inputs: tuple[Line, ...],
        static: Mapping[str, Any],
        shape: tuple[int, ...],
        dtype: Any,
        kind: type | None = None,
        origin: Origin = Origin(),  # noqa: B008, it is immutable
    ) -> None:
        self.op, self.inputs, self.static = op, inputs, static
        self.shape, self.dtype, self.kind = shape, np.dtype(dtype), kind
        self.origin = origin

    @property
    def promoted(self) -> Any:
        """What decides, with other operands, a result's dtype. NumPy has no kind for bools."""
        return self.dtype if self.kind in (None, bool) else self.kind

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def reading(self, inputs: tuple[Line, ...]) -> Line:
        """The same operation on other lines of the same shapes and dtypes."""
        return Line(self.op, inputs, self.static, self.shape, self.dtype, self.kind, self.origin)

    def key(self) -> tuple[Any, ...]:
        """Equal for lines that compute the same from the same lines."""
        static = tuple((name, _hashable(value)) for name, value in self.static.items())
        return self.op, self.inputs, static, self.shape, self.dtype, self.kind

    def __repr__(self) -> str:
        kind = self.kind.__name__ if self.kind else f"{self.dtype} {self.shape}"
        return f"<{self.op}: {kind}>"


def _hashable(value: Any) -> Any:
    return (
        (value.tobytes(), value.shape, value.dtype)
        if isinstance(value, np.ndarray)
        else repr(value)
    )


def constant(value: Any, origin: Origin = Origin()) -> Line:  # noqa: B008
    """A number (Python's has a kind, NumPy's a dtype), or an array that never changes."""
    kind = type(value) if type(value) in (float, int) else None
    array = np.asarray(value)
    return Line("constant", (), {"value": value}, array.shape, array.dtype, kind, origin)


def apply(op: str, *inputs: Line, origin: Origin = Origin(), **static: Any) -> Line:  # noqa: B008
    """The line that applies `op`, with the shape and dtype that NumPy would give it.

    Reductions leave the axes that they reduce in, with length 1.
    """
    if isinstance(ufunc := getattr(np, op, None), np.ufunc) and op != "matmul":
        *_, dtype = ufunc.resolve_dtypes((*[a.promoted for a in inputs], None))
        shape = np.broadcast_shapes(*[a.shape for a in inputs])
        kind = _KINDS[dtype.kind] if all(a.kind for a in inputs) else None
        return Line(op, inputs, static, shape, dtype, kind, origin)
    if op in ("full", "broadcast_to"):
        dtype = static["dtype"] if op == "full" else inputs[0].dtype
        np.broadcast_shapes(static["shape"], *[a.shape for a in inputs])
        return Line(op, inputs, static, static["shape"], dtype, None, origin)
    like = _evaluated(op, inputs, static)
    shape = np.broadcast_shapes(*[a.shape for a in inputs]) if op == "where" else like.shape
    return Line(op, inputs, static, shape, like.dtype, None, origin)


_KINDS = {"f": float, "i": int, "b": bool}


def evaluate(line: Line) -> Any:
    """The result of an operation on constants."""
    given = [a.static["value"] for a in line.inputs]
    return _run(line.op, given, line.static)


def _run(op: str, given: list[Any], static: Mapping[str, Any]) -> Any:
    names = [f"a{i}" for i in range(len(given))]
    space = dict(zip(names, given, strict=True)) | names_for(np)
    return eval(expression(op, names, static), space)  # noqa: S307, it is our own text


def _evaluated(op: str, inputs: tuple[Line, ...], static: Mapping[str, Any]) -> np.ndarray:
    """The operation on arrays that take no memory and no time, to see what comes out."""
    shapes = [a.shape for a in inputs]
    if op == "where":
        shapes = [(1,) * len(s) for s in shapes]
    if op in REDUCTIONS:
        axes = {a % len(shapes[0]) for a in static["axis"]}
        shapes = [tuple(min(n, 1) if i in axes else n for i, n in enumerate(shapes[0]))]
    if op == "matmul" and all(len(s) > 1 for s in shapes) and shapes[0][-1] == shapes[1][-2]:
        shapes = [(*shapes[0][:-1], 0), (*shapes[1][:-2], 0, shapes[1][-1])]
    given = [
        a.kind(1) if a.kind else np.broadcast_to(np.zeros((), a.dtype), shape)
        for a, shape in zip(inputs, shapes, strict=True)
    ]
    return np.asarray(_run(op, given, static))


def expression(op: str, names: list[str], static: Mapping[str, Any]) -> str:
    """The operation as NumPy source, of inputs that have these names."""
    if op == "constant":
        return literal(static["value"])
    pattern = EXPRESSIONS.get(op, f"np.{op}({{all}})")
    texts = {key: literal(value, names) for key, value in static.items()}
    axis = static.get("axis")
    if isinstance(axis, tuple) and len(axis) == 1:
        texts["axis"] = str(axis[0])
    return pattern.format(*names, all=", ".join(names), **texts)


class Ref(int):
    """In an index: the input with this number stands here."""


def literal(value: Any, names: list[str] | tuple[str, ...] = ()) -> str:
    """A static value as source."""
    if isinstance(value, Ref):
        return names[value]
    if isinstance(value, tuple):
        return f"({', '.join(literal(v, names) for v in value)}{',' * (len(value) == 1)})"
    if isinstance(value, slice):
        return f"slice({value.start}, {value.stop}, {value.step})"
    if value is Ellipsis:
        return "..."
    if isinstance(value, np.dtype):
        return f"np.{value.name}"
    if isinstance(value, np.generic):
        return f"np.{value.dtype.name}({literal(value.item())})"
    if isinstance(value, np.ndarray):
        return f"np.array({value.tolist()}, np.{value.dtype.name})"
    if isinstance(value, float) and not np.isfinite(value):
        return {"inf": "np.inf", "-inf": "-np.inf", "nan": "np.nan"}[repr(value)]
    return repr(value)


def put(a: Any, index: Any, values: Any) -> Any:
    """A copy of a with `values` at `index`."""
    a = a.copy()
    a[index] = values
    return a


def add_at(a: Any, index: Any, values: Any) -> Any:
    """A copy of a with `values` added at `index`; what goes to the same element adds up."""
    a = a.copy()
    MODULES[type(a)].add.at(a, index, values)  # type: ignore[union-attr]
    return a


def names_for(xp: Any) -> dict[str, Any]:
    """What the source of a program refers to, for arrays of the library xp."""
    return {"np": xp, "put": put, "add_at": add_at}
