"""Random graphs: recipes of ops, which run on Tensors, on arrays, and on PyTorch.

A graph is grown op by op from leaves whose shapes broadcast. The values that an op gets are known
while it grows, so an op is only chosen where it is defined, and values stay near 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinybn import ops

EPS = 0.05
"""Of the norms: with a small one, a constant channel has a slope that no difference can follow."""

LARGE = 4.0
"""Larger values only go through tanh."""


@dataclass(frozen=True)
class Step:
    """One op, and which values it gets."""

    kind: str
    inputs: tuple[int, ...]
    static: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A function of leaves; `repr` shows all of it."""

    shapes: tuple[tuple[int, ...], ...]
    seed: int
    steps: tuple[Step, ...]

    def leaves(self) -> list[np.ndarray]:
        return list(_leaves(self.shapes, self.seed))

    def values(self, leaves: Sequence[Any], table: dict[str, Callable[..., Any]]) -> list[Any]:
        """The leaves, and the output of every step."""
        values = list(leaves)
        for step in self.steps:
            values.append(table[step.kind](*(values[i] for i in step.inputs), **step.static))
        return values

    def total(
        self,
        leaves: Sequence[Any],
        wrap: Callable[[Any], Any] = lambda a: a,
        table: dict[str, Callable[..., Any]] | None = None,
    ) -> Any:
        """A random mixture of all values. `wrap` makes an array what the table's ops take."""
        rng = np.random.default_rng(self.seed)
        values = self.values(leaves, table or TABLE)
        weighted = (v * wrap(rng.standard_normal(tuple(v.shape))) for v in values)
        return sum(w.sum() for w in weighted)


def _leaves(shapes: Sequence[tuple[int, ...]], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng([seed, 1])
    drawn = (rng.standard_normal(shape) for shape in shapes)
    return [np.asarray(np.clip(a, -3, 3)) for a in drawn]


def _batch_norm(x, *affine, gamma, beta, stats=None):
    given = {} if stats is None else {"mean": stats[0], "var": stats[1]}
    return ops.batch_norm(x, *_affine(affine, gamma, beta), eps=EPS, **given)


def _affine(affine, gamma, beta):
    """gamma and beta, of which either may be missing."""
    rest = iter(affine)
    return (next(rest) if gamma else None), (next(rest) if beta else None)


def _index(index):
    return tuple(np.array(i) if isinstance(i, list) else i for i in index)


TABLE: dict[str, Callable[..., Any]] = {
    "negative": ops.negative,
    "abs": ops.abs,
    "sign": ops.sign,
    "exp": ops.exp,
    "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
    "relu": ops.relu,
    "log": lambda a: ops.log(ops.abs(a) + 0.5),
    "sqrt": lambda a: ops.sqrt(a * a + 0.5),
    "clip": lambda a, low, high: ops.clip(a, low, high),
    "power_of_number": lambda a, b: ops.power(a, b),
    "number_to_power": lambda a, b: ops.power(b, a),
    "power": lambda a, b: ops.power(a * a + 0.5, b),
    "number": lambda a, b: (b - a) / 2 + 3 * a,
    "one_over": lambda a: 1 / (a * a + 1),
    "add": ops.add,
    "subtract": ops.subtract,
    "multiply": ops.multiply,
    "divide": lambda a, b: ops.divide(a, b * b + 1),
    "maximum": ops.maximum,
    "minimum": ops.minimum,
    "where": lambda a, b: ops.where(a > b, a, b * 2),
    "matmul": ops.matmul,
    "mse_loss": ops.mse_loss,
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "logsumexp": ops.logsumexp,
    "sum": ops.sum,
    "mean": ops.mean,
    "var": ops.var,
    "max": ops.max,
    "min": ops.min,
    "reshape": ops.reshape,
    "transpose": ops.transpose,
    "swapaxes": ops.swapaxes,
    "expand_dims": ops.expand_dims,
    "squeeze": ops.squeeze,
    "broadcast_to": ops.broadcast_to,
    "getitem": lambda a, index: ops.getitem(a, _index(index)),
    "concatenate": lambda *arrays, axis: ops.concatenate(list(arrays), axis),
    "stack": lambda *arrays, axis: ops.stack(list(arrays), axis),
    "linear": lambda x, w, *b: ops.linear(x, w, *b),
    "cross_entropy": lambda z, labels: ops.cross_entropy(z, np.array(labels)),
    "batch_norm": _batch_norm,
    "layer_norm": lambda x, *affine, gamma, beta, axis: ops.layer_norm(
        x, *_affine(affine, gamma, beta), axis=axis, eps=EPS
    ),
    "rms_norm": lambda x, *affine, gamma, axis: ops.rms_norm(x, *affine, axis=axis, eps=EPS),
    "group_norm": lambda x, *affine, gamma, beta, groups: ops.group_norm(
        x, groups, *_affine(affine, gamma, beta), eps=EPS
    ),
    "instance_norm": lambda x, *affine, gamma, beta: ops.instance_norm(
        x, *_affine(affine, gamma, beta), eps=EPS
    ),
}
"""By kind, the op on Tensors (or arrays)."""

SIMPLE = [
    "negative", "abs", "sign", "exp", "tanh", "sigmoid", "relu", "log", "sqrt", "one_over",
]  # fmt: skip
BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "where", "power"]
REDUCTIONS = ["sum", "mean", "var", "max", "min", "logsumexp"]


@st.composite
def shapes(draw: Any, low: int = 1, high: int = 3, axes: int = 3) -> tuple[tuple[int, ...], ...]:
    """One to three shapes that broadcast together."""
    full = draw(st.lists(st.integers(low, high), max_size=axes))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        part = full[draw(st.integers(0, len(full))) :]
        found.append(tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in part))
    return tuple(found)


@st.composite
def graphs(
    draw: Any, low: int = 1, high: int = 3, most: int = 7, first: Sequence[str] = ()
) -> Graph:
    """Graphs of up to `most` ops, with axes from `low` to `high` elements.

    `first` names ops that come before others wherever they fit.
    """
    seed = draw(st.integers(0, 2**16))
    leaves = draw(shapes(low, high))
    values: list[np.ndarray] = _leaves(leaves, seed)
    steps: list[Step] = []

    def append(step: Step) -> None:
        with np.errstate(all="ignore"):
            y = TABLE[step.kind](*(values[i] for i in step.inputs), **step.static)
        steps.append(step)
        values.append(np.asarray(y))

    for _ in range(draw(st.integers(1, most))):
        a = draw(st.sampled_from([i for i, v in enumerate(values) if _small(v)]))
        choices = [kind for kind, fits in FITS.items() if fits(values[a], values)]
        choices = [kind for kind in choices if kind in first] or choices
        kind = draw(st.sampled_from(choices))
        others, static = GROW.get(kind, _nothing)(draw, kind, a, values)
        append(Step(kind, (a, *others), static))
        if not _small(values[-1]):
            append(Step("tanh", (len(values) - 1,)))
    return Graph(leaves, seed, tuple(steps))


def _small(v):
    return np.abs(v).max(initial=0) <= LARGE


def _nothing(draw, kind, a, values):
    return (), {}


def _partner(draw, kind, a, values):
    """Any value that broadcasts against a."""
    fitting = [i for i, v in enumerate(values) if _small(v) and _fit(v, values[a])]
    return (draw(st.sampled_from(fitting)),), {}


def _fit(a, b):
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return False
    return True


def _same_shape(draw, kind, a, values):
    same = [i for i, v in enumerate(values) if v.shape == values[a].shape]
    if kind == "mse_loss":
        return (draw(st.sampled_from(same)),), {}
    others = tuple(draw(st.lists(st.sampled_from(same), max_size=2)))
    ndim = values[a].ndim
    low, high = (-ndim, ndim - 1) if kind == "concatenate" else (-ndim - 1, ndim)
    return others, {"axis": draw(st.integers(low, high))}


def _axis(draw, ndim, none=True, several=True):
    """One axis, several, or None."""
    choices = [st.none()] if none else []
    if ndim:
        one = st.integers(-ndim, ndim - 1)
        choices.append(one)
        if several:
            many = st.lists(st.integers(0, ndim - 1), unique=True, min_size=1)
            choices.append(many.map(tuple))
    return draw(st.one_of(choices)) if choices else ()


def _reduced(draw, kind, a, values):
    return (), {"axis": _axis(draw, values[a].ndim), "keepdims": draw(st.booleans())}


def _one_axis(draw, kind, a, values):
    return (), {"axis": _axis(draw, values[a].ndim, none=False, several=False)}


def _number(draw, kind, a, values):
    if kind == "clip":
        low = draw(st.sampled_from([None, -1.5, -0.5, 0.0]))
        return (), {"low": low, "high": draw(st.sampled_from([None, 0.0, 0.75, 1.5]))}
    if kind == "power_of_number":
        return (), {"b": draw(st.sampled_from([0, 1, 2, 3, 2.0, 4]))}
    return (), {"b": draw(st.sampled_from([0.5, 1.0, 2, 3]))}


def _layout(draw, kind, a, values):
    shape, ndim = values[a].shape, values[a].ndim
    if kind == "reshape":
        flat = draw(st.sampled_from([shape[::-1], (-1,), (1, *shape), (values[a].size,)]))
        return (), {"shape": tuple(flat)}
    if kind == "transpose":
        axes = draw(st.none() | st.permutations(range(ndim)).map(tuple))
        return (), {"axes": axes}
    if kind == "swapaxes":
        axis = st.integers(-ndim, ndim - 1)
        return (), {"axis1": draw(axis), "axis2": draw(axis)}
    if kind == "expand_dims":
        return (), {"axis": draw(st.sampled_from([0, -1, ndim, (0, -1)]))}
    if kind == "squeeze":
        ones = [i for i, n in enumerate(shape) if n == 1]
        return (), {"axis": draw(st.sampled_from([None, tuple(ones), *ones]))}
    wider = tuple(draw(st.integers(1, 3)) if n == 1 else n for n in shape)
    return (), {"shape": (*draw(st.sampled_from([(), (2,), (1, 2)])), *wider)}


def _indexed(draw, kind, a, values):
    """Integers, slices, arrays, `...` and None, in any order."""
    index, arrays = [], draw(st.booleans())
    for n in values[a].shape:
        choices = [
            st.sampled_from([slice(None), slice(1, None), slice(None, None, -1), slice(0, 0)])
        ]
        if n:
            choices.append(st.integers(-n, n - 1))
        if n and arrays:
            choices = [st.lists(st.integers(-n, n - 1), min_size=3, max_size=3)]
        index.append(draw(st.one_of(choices)))
    if draw(st.booleans()):  # `...` takes the place of a part, maybe of nothing
        start = draw(st.integers(0, len(index)))
        index[start : draw(st.integers(start, len(index)))] = [...]
    if draw(st.booleans()):
        index.insert(draw(st.integers(0, len(index))), None)
    return (), {"index": tuple(index)}


def _seconds(x, values):
    """What x can be multiplied by, as a matrix."""

    def fits(v):
        return (
            v.ndim > 0
            and v.shape[-2 if v.ndim > 1 else -1] == x.shape[-1]
            and _fit(np.empty(x.shape[:-2]), np.empty(v.shape[:-2]))
        )

    return [i for i, v in enumerate(values) if x.ndim and fits(v)]


def _second_matrix(draw, kind, a, values):
    return (draw(st.sampled_from(_seconds(values[a], values))),), {}


def _matrices(x, values):
    """What can be the weight of a linear layer for x."""
    return [i for i, v in enumerate(values) if x.ndim and v.ndim == 2 and len(v) == x.shape[-1]]


def _weights(draw, kind, a, values):
    w = draw(st.sampled_from(_matrices(values[a], values)))
    biases = [i for i, v in enumerate(values) if v.shape == values[w].shape[1:]]
    bias = draw(st.sampled_from([(), *((i,) for i in biases)]))
    return (w, *bias), {}


def _labels(draw, kind, a, values):
    n, classes = values[a].shape
    label = st.integers(0, classes - 1)
    return (), {"labels": tuple(draw(st.lists(label, min_size=n, max_size=n)))}


def _normed(draw, kind, a, values):
    shape, ndim = values[a].shape, values[a].ndim
    static: dict[str, Any] = {}
    params = shape[1:2]
    if kind in ("layer_norm", "rms_norm"):
        k = draw(st.integers(1, ndim))
        axes = tuple(range(-k, 0))
        static["axis"] = -1 if k == 1 and draw(st.booleans()) else axes
        params = shape[ndim - k :]
    if kind == "group_norm":
        static["groups"] = draw(
            st.sampled_from([g for g in range(1, shape[1] + 1) if not shape[1] % g])
        )
    if kind == "batch_norm" and (values[a].size == shape[1] or draw(st.integers(0, 3)) == 0):
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        static["stats"] = rng.standard_normal(shape[1]), rng.uniform(0.5, 2, shape[1])
    fitting = [i for i, v in enumerate(values) if v.shape == params]
    others: list[int] = []
    for name in ("gamma", "beta")[: 1 if kind == "rms_norm" else 2]:
        static[name] = bool(fitting) and draw(st.booleans())
        others += [draw(st.sampled_from(fitting))] if static[name] else []
    return others, static


GROW: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(BINARY, _partner),
    **dict.fromkeys(REDUCTIONS, _reduced),
    **dict.fromkeys(["softmax", "log_softmax"], _one_axis),
    **dict.fromkeys(["clip", "power_of_number", "number_to_power", "number"], _number),
    **dict.fromkeys(
        ["reshape", "transpose", "swapaxes", "expand_dims", "squeeze", "broadcast_to"], _layout
    ),
    **dict.fromkeys(["concatenate", "stack", "mse_loss"], _same_shape),
    **dict.fromkeys(
        ["batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"], _normed
    ),
    "getitem": _indexed,
    "matmul": _second_matrix,
    "linear": _weights,
    "cross_entropy": _labels,
}


def _always(x, values):
    return True


def _with_axes(x, values):
    return x.ndim > 0


def _not_empty(x, values):
    return x.size > 0


def _rows(x, values):
    return x.ndim > 0 and x.size > 0


def _channels(x, values):
    return x.ndim > 1 and x.size > 0


FITS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys([*SIMPLE, *BINARY, *REDUCTIONS], _always),
    **dict.fromkeys(["mean", "var", "max", "min", "logsumexp", "mse_loss"], _not_empty),
    **dict.fromkeys(["clip", "power_of_number", "number_to_power", "number"], _always),
    **dict.fromkeys(["reshape", "transpose", "expand_dims", "squeeze", "broadcast_to"], _always),
    **dict.fromkeys(["getitem", "stack"], _always),
    **dict.fromkeys(["swapaxes", "concatenate"], _with_axes),
    **dict.fromkeys(["softmax", "log_softmax", "layer_norm", "rms_norm"], _rows),
    **dict.fromkeys(["batch_norm", "group_norm"], _channels),
    "instance_norm": lambda x, values: x.ndim > 2 and x.size > x.shape[0] * x.shape[1],
    "cross_entropy": lambda x, values: x.ndim == 2 and x.size > 0,
    "matmul": _seconds,
    "linear": _matrices,
}
"""By kind, whether the op is defined for x (and has partners among the values)."""

assert FITS.keys() == TABLE.keys()
