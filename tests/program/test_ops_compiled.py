"""Every op inside a compiled function, against the same function, eager.

The cases are those of tests/test_ops.py and, for fused ops, of tinybn/check/cases.py. A step returns
the value, the gradients for a cotangent, and the gradients of those. It is called three times with
different numbers: the first call is eager, the second records, the third only runs.
"""

import importlib.util
import inspect

import numpy as np
import pytest
from numeric import draw
from test_ops import CASES, WITHOUT_GRADIENT

import tinybn as tb
from tinybn import ops
from tinybn.check import cases
from tinybn.fusion import FUSED
from tinybn.program import RecordingError

pytestmark = pytest.mark.host("tests/on_cupy/test_program.py has what is compiled for CuPy")

F64, F32, F16 = np.float64, np.float32, np.float16


LOOPS = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="Numba is not installed")
backends = pytest.mark.parametrize("backend", ["numpy", pytest.param("numba", marks=LOOPS)])
everywhere = pytest.mark.parametrize(  # loops don't know float16
    ("backend", "dtype"),
    [
        *[pytest.param("numpy", d, id=f"numpy-{d.__name__}") for d in (F64, F32, F16)],
        *[pytest.param("numba", d, id=f"numba-{d.__name__}", marks=LOOPS) for d in (F64, F32)],
    ],
)


def derivatives(op):
    """A step of the op's inputs, a cotangent, and one more for each gradient."""

    def step(inputs, v, weights):
        xs = [tb.tensor(x, requires_grad=True) for x in (*inputs, v)]
        y = op(*xs[:-1])
        gs = tb.grad(y, xs[:-1], xs[-1], create_graph=True)
        total = sum((g * w).sum() for g, w in zip(gs, weights, strict=True))
        return y, gs, tb.grad(total, xs, allow_unused=True)

    return step


def numbers(shapes, domains, k, dtype):
    """Arguments for call k of a step: inputs, of which the first gives the cotangent its shape."""
    return [
        draw(s, d, seed=10 * k + i, dtype=dtype)
        for i, (s, d) in enumerate(zip(shapes, domains, strict=True))
    ]


def arguments(case, k, dtype):
    domains = case.domains.split()
    domains *= len(case.shapes) // len(domains)
    inputs = numbers(case.shapes, domains, k, dtype)
    shape = case.op(*map(tb.tensor, inputs)).shape
    v, *weights = numbers([shape, *case.shapes], ["any"] * (len(inputs) + 1), k + 5, dtype)
    return inputs, np.asarray(v, F64 if case.name == "astype" else dtype), weights


def leaves(result):
    """All values in a nested result, but for None: a gradient that there is not."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        return [leaf for part in result for leaf in leaves(part)]
    return [] if result is None else [result]


def assert_alike(found, expected, backend, exact=None):
    """To the last bit; with Numba's loops up to rounding: 1e-12 or 1e-5 of the largest, or, where
    digits cancel, as near to what is exact as the eager op, give or take.
    """
    found, expected = leaves(found), leaves(expected)
    for a, b, c in zip(found, expected, leaves(exact) or expected, strict=True):
        assert isinstance(a, tb.Tensor) == isinstance(b, tb.Tensor)
        if isinstance(b, str):
            assert a == b
            continue
        a, b, c = (x.numpy() if isinstance(x, tb.Tensor) else np.asarray(x) for x in (a, b, c))
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if backend == "numpy" or b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
        else:
            rtol = {F64: 1e-12, F32: 1e-5}[b.dtype.type]
            most = rtol * np.abs(b).max(initial=1) + 4 * np.abs(b - c).max(initial=0)
            np.testing.assert_allclose(a, c, rtol=rtol, atol=most)


def assert_compiles(step, backend, *calls, doubled=False):
    """Eager and compiled give the same at each of the calls, and one recording is enough."""
    run = tb.compile(step, backend=backend)
    for args in calls:
        exact = step(*in_float64(args)) if doubled else None
        assert_alike(run(*args), step(*args), backend, exact)
    assert run.recordings == 1


def in_float64(args):
    return [in_float64(a) if isinstance(a, list) else a.astype(F64) for a in args]


MASKED = "how much a mask selects depends on numbers: use tb.ops.where"


@everywhere
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_value_and_derivatives(case, backend, dtype):
    if case.name == "getitem-mask":
        run = tb.compile(case.op, backend=backend)
        x = draw((3, 4), dtype=dtype)
        run(x)
        with pytest.raises(RecordingError, match=MASKED):
            run(x)
        return
    calls = [arguments(case, k, dtype) for k in range(3)]
    assert_compiles(derivatives(case.op), backend, *calls)


def test_every_fused_op_is_compared():
    assert {case.op for case in cases()} == FUSED.keys()


@everywhere
@pytest.mark.parametrize("fused", [True, False], ids=["closed form", "composition"])
@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.op} {case.label}")
def test_fused_ops(case, fused, backend, dtype):
    rng = np.random.default_rng(0)

    def op(x, *others):
        positional = [n for name, n in case.static.items() if name == "groups"]
        static = {name: v for name, v in case.static.items() if name != "groups"}
        function = getattr(ops, case.op, FUSED[case.op].call)
        return function(x, *positional, *others, **static)

    shapes = op(*map(tb.tensor, case.inputs)).shape, *map(np.shape, case.inputs)

    def arguments(k):
        v, *weights = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        return [np.asarray((1 + k / 8) * x, dtype) for x in case.inputs], v, weights

    with tb.use_fused(fused), np.errstate(over="ignore", invalid="ignore"):  # float16's range
        assert_compiles(derivatives(op), backend, *map(arguments, range(3)), doubled=dtype is F32)


# what is not an op of one or two Tensors

X = [draw((3, 4), seed=i, dtype=F32) for i in range(3)]
TABLE, SCALE = draw((4,), dtype=F32), np.float32(1.5)
ROWS, FLAGS = np.array([2, 0, 2]), np.array([True, False, True, False])
WEIGHT = tb.tensor(draw((4, 2), dtype=F32), requires_grad=True)


def leaf():
    return tb.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)


OTHERS = {
    "numbers": lambda x: [2 - x, x * 3, x / 0.7, 1 / x, x**2, 2.0**x, abs(x) ** 0.5, True * x, x - (3 > 2), -x + 1, x - 0],
    "scalars of NumPy": lambda x: [x * np.float64(2), np.float32(3) - x, x + np.int64(3), x * SCALE],
    "comparisons": lambda x: [x > 0, x <= 0.1, x == x, x != 0, 1 - x > x, x >= TABLE],
    "integers": lambda x: [x.astype(np.int64) * 2, (x > 0).astype(np.int64).sum(0), x.astype(np.int32) - 2, x.astype(np.int64) > 0],
    "bools": lambda x: [(x > 0) == (x > 1), ops.where(x > 0, x, 0), (x > 0) * x],
    "a table of the closure": lambda x: [x * TABLE, x[ROWS], ops.where(FLAGS, x, TABLE), x @ TABLE],
    "constants made on the way": lambda x: [x + np.arange(4, dtype=F32), x[np.array([1, 1])], x @ np.eye(4, dtype=F32)],
    "a Tensor made on the way": lambda x: [tb.grad((x * (w := leaf())).sum() + (w * w).sum(), w), tb.grad((w * w).sum(), w)],
    "a Tensor of the closure": lambda x: [x @ WEIGHT, tb.grad((x @ WEIGHT).sum(), WEIGHT), WEIGHT * 2],
    "arrays in the result": lambda x: [x.data * 2, {"mean": x.data.mean()}, x, x.data, None, 3, "text"],
    "views": lambda x: [x.T, x.reshape(-1), x[1:, ::2], x[0], x[..., None], x.T.reshape(2, 6), x[-1, 2]],
    "no number at all": lambda x: [x[:0], x[:0].sum(), x[:0] * 2, ops.concatenate([x[:0], x])],
    "the same twice": lambda x: [x, x, x * 1, x * 2, x * 2],
}  # fmt: skip


@backends
@pytest.mark.parametrize("kind", ["array", "Tensor"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_operands_and_results(name, kind, backend):
    def step(x):
        return OTHERS[name](tb.tensor(x) if kind == "array" else x)

    assert_compiles(step, backend, *[(x if kind == "array" else tb.tensor(x),) for x in X])


@backends
def test_numbers_as_arguments(backend):
    def step(x, scale, n, flag=True):
        y = x * scale + n if flag else x
        return y, scale * n, n + 1, y**2 / n, (n > 4) * x, ops.where(scale < 1, x, 0)

    calls = [(X[k], 0.5 + k, 3 + k) for k in range(3)]
    assert_compiles(step, backend, *calls)
    assert_compiles(step, backend, *[(*call, False) for call in calls])


@backends
def test_constants_that_are_not_finite_or_empty(backend):
    def step(x):
        return x + np.array([np.inf, -np.inf, np.nan, 1], F32), ops.concatenate([x, np.zeros((0, 4), F32)])  # fmt: skip

    run = tb.compile(step, backend=backend)
    for x in X:
        for a, b in zip(run(tb.tensor(x)), step(tb.tensor(x)), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), strict=True)


@backends
def test_arrays_of_a_number(backend):
    """They have a dtype, which a number has not."""

    def step(x, scale, n):
        spread = np.broadcast_to(scale, (3, 4))
        return x * spread, x - np.full_like(x, scale), x * np.full_like(x, np.arange(4)), x[0] + n

    assert_compiles(step, backend, *[(X[k], 0.1 + k, 3 + k) for k in range(3)])


@backends
@pytest.mark.parametrize("shape", [(), (4,), (3, 1)], ids=str)
def test_arrays_of_the_closure_are_read_at_each_call(backend, shape):
    table = np.ones(shape, F32)

    def step(x):
        return x * table, ops.where(x > table, x, table), x.data - table

    run = tb.compile(step, backend=backend)
    for k in range(4):
        x = tb.tensor(X[0] + k)
        assert_alike(run(x), step(x), backend)
        table += 1
    assert run.recordings == 1


@backends
def test_integers_as_arguments(backend):
    def step(x, i):
        return x[i], i * 2, i + x, ops.where(i > 0, i, -i)

    assert_compiles(step, backend, *[(X[k], np.array([k, 1, 0, 2])) for k in range(3)])


@backends
def test_gradients_of_arguments_add_up_in_grad(backend):
    def step(x, y):
        (x * y).sum().backward()
        (x * x).sum().backward()
        return x.grad * 2

    run = tb.compile(step, backend=backend)
    for k in range(3):
        pairs = [[tb.tensor(X[k - i], requires_grad=True) for i in range(2)] for _ in range(2)]
        assert_alike(run(*pairs[0]), step(*pairs[1]), backend)
        for a, b in zip(*pairs, strict=True):
            assert_alike(a.grad, b.grad, backend)


@backends
@pytest.mark.parametrize("name", sorted(WITHOUT_GRADIENT))
def test_ops_without_gradient(name, backend):
    op = getattr(ops, name)
    arity = len(inspect.signature(op).parameters) if name != "argmax" else 1
    bits = name in ("bitwise_and", "bitwise_or", "invert")

    def step(*xs):
        return op(*(x > 0 for x in xs) if bits else xs)

    assert_compiles(
        step, backend, *[[tb.tensor(X[k - i].round(1)) for i in range(arity)] for k in range(3)]
    )


@backends
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_argmax(axis, keepdims, backend):
    assert_compiles(lambda x: x.argmax(axis, keepdims), backend, *[(tb.tensor(x),) for x in X])


@backends
def test_the_array_functions_of_a_users_own_op(backend):
    """xp.f, ufuncs and their `at`, methods: all that a primitive may use."""

    @tb.primitive(lambda g, a: g * a)
    def own(xp, a):
        out = xp.zeros((3, 4), a.dtype)
        xp.add.at(out, (np.array([0, 0, 2]), slice(None)), a)
        y = xp.add(xp.multiply(a, 2), xp.exp(-xp.abs(a)))
        y = y + xp.where(a > 0, xp.ones_like(a), xp.full(a.shape, 0.5, a.dtype))
        y = y + xp.concatenate([a[:1], a[1:]], 0).mean(0) + xp.arange(4).astype(a.dtype)
        y = xp.clip(y, -3, xp.maximum(a.max(), 3)) + xp.expand_dims(a[0], 0) + xp.sum(a, axis=0)
        return y + out + xp.squeeze(xp.reshape(a, (3, 1, 4)), 1) + a.swapaxes(0, 1).T + a.dot(xp.asarray(np.eye(4, dtype=F32)))  # fmt: skip

    assert_compiles(own, backend, *[(tb.tensor(x),) for x in X])
