"""Compiled programs against NumPy, line by line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from tinybn.program import jit
from tinybn.program.line import Line, Ref, apply, constant, expression, names_for
from tinybn.program.machine import Machine
from tinybn.program.source import Program

F32, F64, I64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)


class Build:
    """A program that grows line by line: b.exp(x), b.sum(x, axis=(0,))."""

    def __init__(self) -> None:
        self.inputs: list[Line] = []
        self.lines: list[Line] = []

    def input(self, shape: tuple[int, ...], dtype: Any = F32, kind: type | None = None) -> Line:
        self.inputs.append(Line("input", (), {"name": f"x{len(self.inputs)}"}, shape, dtype, kind))
        return self.inputs[-1]

    def number(self) -> Line:
        return self.input((), float, float)

    def __getattr__(self, op: str) -> Any:
        def line(*inputs: Any, **static: Any) -> Line:
            given = [a if isinstance(a, Line) else constant(a) for a in inputs]
            self.lines.append(apply(op, *given, **static))
            return self.lines[-1]

        return line

    def mean(self, x: Line, axis: tuple[int, ...]) -> Line:
        total = self.astype(self.sum_wide(x, axis=axis), dtype=x.dtype)
        return self.divide(total, x.size // total.size)

    def program(self, *outputs: Line) -> Program:
        return Program(self.inputs, self.lines, list(outputs))


def evaluate(program: Program, values: Sequence[Any]) -> list[Any]:
    """What NumPy makes of the lines, one after another."""
    found = dict(zip(program.inputs, values, strict=True))
    with np.errstate(all="ignore"):
        for v in program.lines:
            names = [f"a{i}" for i in range(len(v.inputs))]
            space = names_for(np) | dict(
                zip(names, [found.get(a, a.static.get("value")) for a in v.inputs], strict=True)
            )
            found[v] = eval(expression(v.op, names, v.static), space)
    return [found[v] for v in program.outputs]


def random(v: Line, rng: np.random.Generator) -> Any:
    if v.kind:
        return v.kind(rng.integers(1, 5)) / (4 if v.kind is float else 1)
    if v.dtype.kind in "iu":
        return np.asarray(rng.integers(0, 4, v.shape, v.dtype))
    if v.dtype == bool:
        return np.asarray(rng.random(v.shape) < 0.5)
    return np.asarray(rng.standard_normal(v.shape)).astype(v.dtype)


def run(machine: Machine, values: Sequence[Any]) -> list[Any]:
    for i, value in enumerate(values):
        machine.bind(i, value)
    with np.errstate(all="ignore"):
        return machine.run()


def check(
    program: Program, values: Sequence[Any] | None = None, homes: dict[int, int] | None = None,
    rtol: float = 2e-6, times: int = 2,
) -> Machine:  # fmt: skip
    """The machine and NumPy give the same, several times over."""
    homes = homes or {}
    if values is None:
        rng = np.random.default_rng(0)
        values = [random(v, rng) for v in program.inputs]
    expected = [np.copy(v) if isinstance(v, np.ndarray) else v for v in values]
    arrays = [np.copy(v) if isinstance(v, np.ndarray) else v for v in values]
    machine = Machine(program, homes)
    for _ in range(times):
        wanted = evaluate(program, expected)
        found = run(machine, arrays)
        for i, (v, a) in enumerate(zip(wanted, found, strict=True)):
            if i in homes:
                assert a is None
                a = arrays[homes[i]]
            if program.outputs[i].kind:
                assert a == v
                assert type(a) is type(v)
            else:
                assert (a.dtype, a.shape) == (np.asarray(v).dtype, np.shape(v))
                scale = (
                    np.max(np.abs(v), where=np.isfinite(v), initial=0) if a.dtype.kind == "f" else 0
                )
                tolerance = rtol if a.dtype != F64 else 1e-13
                np.testing.assert_allclose(a, v, rtol=tolerance, atol=tolerance * scale)
        for i, home in homes.items():
            expected[home] = np.copy(wanted[i])
    return machine


UNARY = [
    "negative",
    "absolute",
    "sign",
    "sqrt",
    "exp",
    "log",
    "tanh",
    "isfinite",
    "logical_not",
    "sin",
    "floor",
]
BINARY = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "power",
    "maximum",
    "minimum",
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "logical_and",
    "logical_or",
    "floor_divide",
    "arctan2",
]
DTYPES = ["float32", "float64", "int64", "bool", "float16", "int32", "uint8"]


def legal(op: str, *inputs: Any) -> bool:
    try:
        apply(op, *inputs)
    except (TypeError, np.exceptions.DTypePromotionError):
        return False
    return True


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_unary_op(dtype: str) -> None:
    b = Build()
    x = b.input((5, 7), np.dtype(dtype))
    check(
        b.program(*[getattr(b, op)(x) for op in UNARY if legal(op, x)]),
        rtol=2e-3 if dtype in ("float16", "uint8") else 2e-6,
    )


@pytest.mark.parametrize("other", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_binary_op(dtype: str, other: str) -> None:
    b = Build()
    x, y = b.input((5, 7), np.dtype(dtype)), b.input((7,), np.dtype(other))
    ops = [
        op
        for op in BINARY
        if legal(op, x, y)
        and not (op in ("power", "floor_divide") and "f" not in x.dtype.kind + y.dtype.kind)
    ]
    check(b.program(*[getattr(b, op)(x, y) for op in ops]), rtol=3e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [2, 0.5, -1, 3, 0.3, True])
def test_python_numbers_promote_nothing(dtype: str, number: float) -> None:
    if (dtype, number) == ("uint8", -1):
        pytest.skip("there is no such uint8")
    b = Build()
    x = b.input((4, 3), np.dtype(dtype))
    ops = [op for op in BINARY if legal(op, x, constant(number))]
    if x.dtype.kind != "f":
        ops = [op for op in ops if op not in ("power", "floor_divide")]
    check(b.program(*[getattr(b, op)(x, number) for op in ops]), rtol=3e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("to", DTYPES)
def test_astype_and_where(dtype: str, to: str) -> None:
    b = Build()
    x, y = b.input((4, 3), np.dtype(dtype)), b.input((4, 1), np.dtype(to))
    z = b.input((3,), np.dtype(bool))
    values = [np.arange(v.size).reshape(v.shape).astype(v.dtype) for v in (x, y, z)]
    check(b.program(b.astype(x, dtype=y.dtype), b.where(z, x, y), b.where(z, x, 0)), values)


SHAPES = [(), (1,), (0,), (6,), (3, 4), (1, 5), (5, 1), (0, 4), (4, 0), (2, 3, 4), (3, 1, 2, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool", "float16"])
def test_reductions_over_all_axes(shape: tuple[int, ...], dtype: str) -> None:
    b = Build()
    x = b.input(shape, np.dtype(dtype))
    results = []
    for bits in range(2 ** len(shape)):
        axis = tuple(i for i in range(len(shape)) if bits >> i & 1)
        ops = ["sum", "sum_wide"] + ["max", "min"] * (x.size > 0)
        results += [getattr(b, op)(x, axis=axis) for op in ops]
        if dtype.startswith("float"):
            results.append(b.sum(b.multiply(x, x), axis=axis))
    check(b.program(*results), rtol=2e-2 if dtype == "float16" else 2e-6)


@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1], ids=str)
def test_views(shape: tuple[int, ...]) -> None:
    b = Build()
    x = b.input(shape)
    axes = (*range(1, len(shape)), 0)
    turned = b.transpose(x, axes=axes)
    flat = b.reshape(b.exp(x), shape=(x.size,))
    turned_flat = b.reshape(b.add(turned, 1), shape=(x.size,))
    again = b.reshape(turned, shape=(x.size,))
    spread = b.broadcast_to(b.sum(x, axis=(0,)), shape=(4, *shape))
    check(
        b.program(
            turned,
            flat,
            turned_flat,
            again,
            spread,
            x,
            b.reshape(x, shape=(1, *shape)),
            b.multiply(again, flat),
            b.sum(turned, axis=(0,)),
        )
    )


@pytest.mark.parametrize("openblas", [True, False])
@pytest.mark.parametrize("dtype", [F32, F64, I64], ids=str)
def test_products(dtype: Any, openblas: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not openblas:
        monkeypatch.setattr(jit, "product", lambda dtype: 0)
    b = Build()
    x, y, z = b.input((5, 3), dtype), b.input((3, 4), dtype), b.input((5, 4), dtype)
    flat = b.input((12,), dtype)
    t = lambda a: b.transpose(a, axes=(1, 0))  # noqa: E731
    stack = b.input((2, 3, 4), dtype)
    outputs = [
        b.matmul(x, y), b.matmul(t(z), x), b.matmul(z, t(y)), b.matmul(t(y), t(x)), b.matmul(b.add(x, 1), y),
        b.matmul(x, b.reshape(flat, shape=(3, 4))), b.matmul(x, t(b.reshape(flat, shape=(4, 3)))), b.matmul(x, b.broadcast_to(b.input((3, 1), dtype), shape=(3, 4))),
        b.matmul(x, stack), b.matmul(stack, b.input((4,), dtype)), b.matmul(b.input((3,), dtype), y), b.matmul(b.reshape(t(x), shape=(5, 3)), y),
        b.matmul(b.input((5, 0), dtype), b.input((0, 4), dtype)), b.matmul(b.input((0, 3), dtype), y), b.matmul(b.input((1, 3), dtype), y),
    ]  # fmt: skip
    check(b.program(*outputs))


def test_lines_that_loops_do_not_know() -> None:
    b = Build()
    x, i = b.input((6, 4)), b.input((3,), I64)
    half = b.astype(x, dtype=np.dtype(np.float16))
    h = b.exp(x)
    lr = b.number()
    outputs = [
        b.getitem(h, index=(slice(1, 5, 2), 0)), b.getitem(h, i, index=(Ref(1),)), b.put(h, x, index=()),
        b.concatenate(h, x, axis=(1,)), b.add(half, half), b.sin(h), b.multiply(b.sin(b.transpose(h, axes=(1, 0))), b.multiply(lr, 2)),
        b.add_at(h, b.input((3, 4)), i, index=(Ref(2),)), b.getitem(x, index=(None, Ellipsis, 1)),
    ]  # fmt: skip
    check(b.program(*outputs), rtol=1e-3)


def test_numbers_are_computed_by_python() -> None:
    b = Build()
    lr, count = b.number(), b.input((), int, int)
    x = b.input((3,))
    after = b.add(count, 1)
    rate = b.divide(b.multiply(lr, 0.1), b.subtract(1, b.power(0.999, after)))
    check(b.program(b.multiply(x, rate), rate, after, lr))


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_labels(dtype: Any) -> None:
    b = Build()
    x, labels, g = b.input((5, 4), dtype), b.input((5,), I64), b.input((5,), dtype)
    rows = b.arange(n=5, dtype=I64)
    chosen = b.getitem(x, rows, labels, index=(Ref(1), Ref(2)))
    zeros = b.full(shape=(5, 4), value=0.0, dtype=dtype)
    spread = b.add_at(zeros, g, rows, labels, index=(Ref(2), Ref(3)))
    check(b.program(chosen, spread, b.exp(chosen)))
    rng = np.random.default_rng(0)
    check(b.program(chosen, spread), [random(x, rng), np.array([0, -1, 3, -4, 2]), random(g, rng)])


def norm(
    b: Build, x: Line, axis: tuple[int, ...], gamma: Line, beta: Line
) -> tuple[Line, Line, Line]:
    d = b.subtract(x, b.mean(x, axis))
    d = b.subtract(d, b.mean(d, axis))
    s = b.sqrt(b.add(b.mean(b.multiply(d, d), axis), 1e-5))
    x_hat = b.divide(d, s)
    return x_hat, s, b.add(b.multiply(x_hat, gamma), beta)


def norm_and_gradient(
    shape: tuple[int, ...], axis: tuple[int, ...], per: tuple[int, ...]
) -> Program:
    b = Build()
    x, dy, gamma, beta = (b.input(s) for s in (shape, shape, per, per))
    x_hat, s, y = norm(b, x, axis, gamma, beta)
    other = tuple(i for i, n in enumerate(per) if n == 1)
    d_gamma, d_beta = b.sum(b.multiply(dy, x_hat), axis=other), b.sum(dy, axis=other)
    g = b.multiply(dy, gamma)
    inner = b.subtract(g, b.mean(g, axis))
    dx = b.divide(b.subtract(inner, b.multiply(x_hat, b.mean(b.multiply(g, x_hat), axis))), s)
    return b.program(y, dx, b.subtract(gamma, d_gamma), d_beta)


@pytest.mark.parametrize("shape", [(64, 48), (300, 1000), (1, 9), (9, 1), (0, 4)], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_norms(shape: tuple[int, ...], axis: int) -> None:
    if 0 in shape:
        pytest.skip("no mean")
    per = (1, shape[1])
    machine = check(norm_and_gradient(shape, (axis,), per), rtol=1e-5, homes={2: 2})
    if min(shape) > 1:
        assert machine.source.count("# nest_") < 8


def test_norm_over_space() -> None:
    check(norm_and_gradient((4, 6, 5, 3), (0, 2, 3), (1, 6, 1, 1)), rtol=1e-5)
    check(norm_and_gradient((4, 6, 5, 3), (2, 3), (1, 6, 1, 1)), rtol=1e-5)


def test_sums_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 1, (100_000, 3)).astype(F32)
    b = Build()
    v = b.input(x.shape)
    outputs = [
        b.sum(v, axis=(0,)),
        b.sum(v, axis=(0, 1)),
        b.sum(b.transpose(v, axes=(1, 0)), axis=(1,)),
        b.sum_wide(v, axis=(0,)),
    ]
    for found, axis in zip(
        run(Machine(b.program(*outputs), {}), [x]), (0, None, 0, 0), strict=True
    ):
        exact = x.sum(axis=axis, dtype=np.longdouble)
        assert np.all(
            np.abs(found.ravel() - exact) <= np.spacing(np.abs(exact).astype(found.dtype))
        )


def test_centring_twice_survives() -> None:
    rng = np.random.default_rng(0)
    x = (1e4 + rng.standard_normal((500, 7))).astype(F32)
    b = Build()
    v, ones = b.input(x.shape), b.input((1, 7))
    _, _, y = norm(b, v, (0,), ones, b.full(shape=(1, 7), value=0.0, dtype=F32))
    (found,) = run(Machine(b.program(y), {}), [x, np.ones((1, 7), F32)])
    d = x.astype(F64) - x.mean(0, dtype=F64)
    np.testing.assert_allclose(found, d / np.sqrt((d * d).mean(0) + 1e-5), atol=2e-6)


@pytest.mark.parametrize("op", ["exp", "tanh"])
def test_exp_and_tanh_to_two_ulp(op: str) -> None:
    x = np.concatenate(
        [
            np.linspace(-110, 95, 200_001),
            np.linspace(-1, 1, 100_001),
            [np.inf, -np.inf, np.nan, 0, -0.0],
        ]
    ).astype(F32)
    b = Build()
    (found,) = run(Machine(b.program(getattr(b, op)(b.input(x.shape))), {}), [x])
    with np.errstate(over="ignore"):
        exact = getattr(np, op)(x.astype(F64))
        rounded = exact.astype(F32)
    ok = np.isfinite(rounded)
    assert np.array_equal(found[~ok], rounded[~ok], equal_nan=True)
    assert np.all(np.abs(found[ok] - exact[ok]) <= 2 * np.spacing(np.abs(rounded[ok])))


def test_nan_and_infinity() -> None:
    x = np.array([[np.nan, 1, -2, 0], [np.inf, -np.inf, 3, -0.0], [1, 2, 3, 4]], F32)
    b = Build()
    v = b.input(x.shape)
    outputs = [b.maximum(v, 0), b.minimum(v, 0.5), b.divide(v, 0.0), b.divide(1, v), b.sqrt(v), b.log(v), b.sign(v),
               *[getattr(b, op)(v, axis=a) for op in ("max", "min", "sum") for a in [(0,), (1,), (0, 1)]],
               b.where(b.greater(v, 0), v, 0), b.isfinite(v), b.power(v, 0.5), b.power(v, -1), b.maximum(b.transpose(v, axes=(1, 0)), 1)]  # fmt: skip
    check(b.program(*outputs), [x])


def test_outputs_are_written_to_their_homes() -> None:
    b = Build()
    p, m, g, lr = b.input((6, 5)), b.input((6, 5)), b.input((6, 5)), b.number()
    m2 = b.add(b.multiply(m, 0.9), g)
    p2 = b.subtract(p, b.multiply(lr, m2))
    check(b.program(b.sum(p, axis=(0, 1)), p2, m2, m2, p2, p), homes={1: 0, 2: 1}, times=3)


def test_old_values_are_read_before_they_go() -> None:
    b = Build()
    p, q = b.input((6, 6)), b.input((6, 6))
    turned = b.transpose(p, axes=(1, 0))
    check(b.program(b.add(p, turned)), homes={0: 0}, times=3)
    check(b.program(q, p), homes={0: 0, 1: 1}, times=3)
    check(b.program(b.add(p, q), b.subtract(p, q)), homes={0: 0, 1: 1}, times=3)
    check(b.program(b.matmul(p, q), b.matmul(q, p)), homes={0: 0, 1: 1})
    check(b.program(b.divide(p, b.sum(p, axis=(0,)))), homes={0: 0}, times=3)
    check(
        b.program(b.subtract(p, b.broadcast_to(b.max(p, axis=(0, 1)), shape=(6, 6)))),
        homes={0: 0},
        times=3,
    )
    check(b.program(b.sin(turned), b.exp(turned)), homes={0: 0, 1: 1}, times=2)
    check(b.program(p, turned, b.reshape(p, shape=(36,)), turned), homes={0: 0, 1: 1})


OPS = [
    "exp",
    "tanh",
    "negative",
    "add",
    "subtract",
    "multiply",
    "maximum",
    "where",
    "sum",
    "max",
    "mean",
    "transpose",
    "reshape",
    "matmul",
    "greater",
    "sin",
    "getitem",
]


@pytest.mark.parametrize("seed", range(30))
def test_random_programs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    b = Build()
    values = [b.input((n, n)) for _ in range(4)] + [b.input((n,)), b.input((n, 1)), b.input(())]
    matrices = lambda: [v for v in values if v.shape == (n, n)]  # noqa: E731
    for _ in range(25):
        op = str(rng.choice(OPS))
        x = values[rng.integers(len(values))]
        y = values[rng.integers(len(values))]
        if op in ("exp", "tanh", "negative", "sin"):
            y = getattr(b, op)(b.tanh(x))
        elif op in ("add", "subtract", "multiply", "maximum"):
            y = getattr(b, op)(x, y)
        elif op == "greater":
            y = b.where(b.greater(x, y), x, 0.5)
        elif op == "where":
            y = b.where(b.less(x, 0), x, y)
        elif op in ("sum", "max", "mean") and x.ndim:
            axis = tuple(i for i in range(x.ndim) if rng.random() < 0.6)
            y = getattr(b, op)(x, axis) if op == "mean" else getattr(b, op)(x, axis=axis)
        elif op == "transpose":
            y = b.transpose(x, axes=tuple(range(x.ndim))[::-1])
        elif op == "reshape":
            y = b.reshape(b.reshape(x, shape=(x.size,)), shape=x.shape)
        elif op == "matmul":
            y = b.matmul(*rng.choice(np.array(matrices(), object), 2))
        elif op == "getitem" and x.ndim == 2:
            y = b.getitem(x, index=(0,))
        values.append(b.tanh(y))
    outputs = [values[i] for i in rng.integers(7, len(values), 6)]
    homes: dict[int, int] = {}
    for i, v in enumerate(outputs):
        free = [k for k, a in enumerate(b.inputs) if a.shape == v.shape and k not in homes.values()]
        if free and rng.random() < 0.7:
            homes[i] = int(rng.choice(free))
    check(b.program(*outputs), homes=homes, rtol=1e-4, times=1)


def test_repeatable() -> None:
    program = norm_and_gradient((200, 300), (0,), (1, 300))
    rng = np.random.default_rng(0)
    values = [random(v, rng) for v in program.inputs]
    machine = Machine(program, {})
    first = run(machine, values)
    for _ in range(3):
        assert all(np.array_equal(a, b) for a, b in zip(first, machine.run(), strict=True))


def test_other_shapes_compile_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TINYBN_CACHE", str(tmp_path))
    jit.load.cache_clear()
    Machine(norm_and_gradient((8, 16), (0,), (1, 16)), {})
    before = set(tmp_path.glob("*.o"))
    assert before
    Machine(norm_and_gradient((70, 90), (0,), (1, 90)), {})
    assert set(tmp_path.glob("*.o")) == before


SCRIPT = """
import numpy as np
from test_machine import norm_and_gradient, check
check(norm_and_gradient((8, 16), (1,), (1, 16)), rtol=1e-5)
"""


def start(**environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([os.path.dirname(__file__), os.getcwd()])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": path} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_share_a_cache(tmp_path: Any) -> None:
    for process in [start(TINYBN_CACHE=str(tmp_path)) for _ in range(2)]:
        assert process.communicate()[1] == ""
        assert process.returncode == 0


WARM = """
import sys
import numpy as np
import tinybn as tb
double_exp = tb.compile(lambda x: tb.ops.exp(x) * 2)
for _ in range(3):
    double_exp(np.ones((4, 3), np.float32))
print("numba" in sys.modules)
"""


def test_what_is_on_disk_needs_no_numba(tmp_path: Any) -> None:
    environment = os.environ | {"TINYBN_CACHE": str(tmp_path), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", WARM]
    found = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert found == ["True\n", "False\n"]


def test_damaged_files_are_compiled_again(monkeypatch: Any, tmp_path: Any) -> None:
    monkeypatch.setenv("TINYBN_CACHE", str(tmp_path))
    b = Build()
    program = b.program(b.add(b.input((3, 4)), 1))
    jit.load.cache_clear()
    check(program)
    whole = {path: path.read_bytes() for path in tmp_path.glob("*.o")}
    assert whole
    for damaged in (b"", b"damaged", bytes(10_000)):
        for path in whole:
            path.write_bytes(damaged)
        jit.load.cache_clear()
        check(program)
        assert all(len(path.read_bytes()) > 1_000 for path in whole)


def test_a_full_disk_leaves_no_file_behind(monkeypatch: Any, tmp_path: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setenv("TINYBN_CACHE", str(tmp_path))
    monkeypatch.setattr(jit.os, "replace", full)
    jit.load.cache_clear()
    b = Build()
    check(b.program(b.add(b.input((3, 4)), 2)))
    assert not [*tmp_path.iterdir()]


def test_without_a_folder_that_may_be_written_to(tmp_path: Any) -> None:
    file = tmp_path / "file"
    file.write_text("")
    process = start(TINYBN_CACHE=str(file / "below"), HOME=str(file))
    assert process.communicate()[1] == ""
    assert process.returncode == 0
