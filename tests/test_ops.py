"""Every op, from one declaration each: its value, its gradients of two orders, its dtypes."""

import inspect
from typing import NamedTuple

import numpy as np
import pytest
from numeric import draw, gradients, here, host

import tinybn as tb
from tinybn import nn, ops
from tinybn.check import gradcheck
from tinybn.fusion import FUSED
from tinybn.ops import norm
from tinybn.ops.reduction import recentre


class Case(NamedTuple):
    """An op, what NumPy says it is, the shapes of its inputs, and where they are drawn from."""

    name: str
    op: object
    reference: object
    shapes: list
    domains: str = "any"

    def inputs(self, dtype=np.float64):
        domains = self.domains.split()
        domains *= len(self.shapes) // len(domains)
        return [
            draw(s, d, seed=i, dtype=dtype)
            for i, (s, d) in enumerate(zip(self.shapes, domains, strict=True))
        ]


def softmax(a, axis=-1):
    e = np.exp(a - a.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def standardized(x, axis, eps=1e-5):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + eps)


def put(v, x, axis=1):
    return v.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


MEAN, VAR = draw((4,), seed=5), draw((4,), "positive", seed=6)
LOW = draw((4,), seed=7) / 2
MASK = draw((3, 4), seed=9) > 0
ROWS, COLUMNS = np.array([2, 0, 2, 1]), np.array([1, 3, 1, 0])
LABELS = np.array([3, 0, 0, 2, 1])

BROADCAST = [
    [(3, 4), (3, 4)],
    [(3, 4), (4,)],
    [(3, 1), (2, 1, 4)],
    [(), (3, 2)],
    [(2, 3), (1, 1, 1)],
]
BINARY = [
    ("add", np.add, "any"),
    ("subtract", np.subtract, "any"),
    ("multiply", np.multiply, "any"),
    ("divide", np.divide, "any nonzero"),
    ("power", np.power, "positive any"),
    ("maximum", np.maximum, "any"),
    ("minimum", np.minimum, "any"),
]
UNARY = [
    ("negative", np.negative, "any"),
    ("exp", np.exp, "any"),
    ("log", np.log, "positive"),
    ("sqrt", np.sqrt, "positive"),
    ("abs", np.abs, "nonzero"),
    ("tanh", np.tanh, "any"),
    ("sigmoid", lambda a: 1 / (1 + np.exp(-a)), "any"),
    ("relu", lambda a: np.maximum(a, 0), "nonzero"),
]
REDUCTIONS = [
    ("sum", np.sum, "any"),
    ("mean", np.mean, "any"),
    ("var", np.var, "any"),
    ("std", np.std, "any"),
    ("max", np.max, "distinct"),
    ("min", np.min, "distinct"),
    ("logsumexp", lambda a, **kw: np.log(np.sum(np.exp(a), **kw)), "any"),
]
AXES = [None, 0, -1, (0, 2), (1, 0, 2)]

CASES = [
    *[
        Case(f"{name}-{a}-{b}", getattr(ops, name), f, [a, b], d)
        for name, f, d in BINARY
        for a, b in BROADCAST
    ],
    *[Case(f"{name}", getattr(ops, name), f, [(3, 4)], d) for name, f, d in UNARY],
    *[Case(f"{name}-scalar", getattr(ops, name), f, [()], d) for name, f, d in UNARY],
    *[
        Case(
            f"{name}-{axis}-{keepdims}",
            lambda a, name=name, kw={"axis": axis, "keepdims": keepdims}: getattr(ops, name)(
                a, **kw
            ),
            lambda a, f=f, kw={"axis": axis, "keepdims": keepdims}: f(a, **kw),
            [(2, 3, 4)],
            d,
        )
        for name, f, d in REDUCTIONS
        for axis in AXES
        for keepdims in (False, True)
    ],
    Case("std-ddof", lambda a: ops.std(a, 0, 1), lambda a: np.std(a, 0, ddof=1), [(4, 3)]),
    Case("var-ddof", lambda a: ops.var(a, 0, 1), lambda a: np.var(a, 0, ddof=1), [(4, 3)]),
    Case("power-int", lambda a: a**3, lambda a: a**3, [(3, 4)]),
    Case("power-base", lambda a: 2.0**a, lambda a: 2.0**a, [(3, 4)]),
    Case(
        "scalars", lambda a: (2 - a) / 3 + 1 / a, lambda a: (2 - a) / 3 + 1 / a, [(3,)], "nonzero"
    ),
    Case("clip", lambda a: ops.clip(a, -0.5, 0.75), lambda a: a.clip(-0.5, 0.75), [(5, 4)]),
    Case("clip-below", lambda a: ops.clip(a, 0), lambda a: a.clip(0), [(5, 4)], "nonzero"),
    Case(
        "clip-arrays",
        lambda a: ops.clip(a, here(LOW.astype(a.dtype)), here(LOW.astype(a.dtype) + 1)),
        lambda a: np.clip(a, LOW, LOW + 1),
        [(5, 4)],
    ),
    Case("clip-above", lambda a: a.clip(a_max=0), lambda a: a.clip(max=0), [(5,)], "nonzero"),
    Case(
        "where",
        lambda a, b: ops.where(here(MASK), a, b),
        lambda a, b: np.where(MASK, a, b),
        [(3, 4), (4,)],
    ),
    Case("softmax", ops.softmax, softmax, [(3, 4)]),
    Case("softmax-0", lambda a: ops.softmax(a, 0), lambda a: softmax(a, 0), [(3, 4)]),
    Case("log_softmax", ops.log_softmax, lambda a: np.log(softmax(a)), [(3, 4)]),
    Case("log_softmax-1", lambda a: a.log_softmax(1), lambda a: np.log(softmax(a, 1)), [(2, 3, 2)]),
    *[
        Case(f"matmul-{a}-{b}", ops.matmul, np.matmul, [a, b])
        for a, b in [
            ((3, 4), (4, 2)),
            ((4,), (4, 2)),
            ((3, 4), (4,)),
            ((4,), (4,)),
            ((2, 3, 4), (4, 2)),
            ((2, 3, 4), (2, 4, 2)),
            ((2, 1, 3, 4), (5, 4, 2)),
            ((2, 3, 4), (4,)),
            ((4,), (2, 4, 3)),
        ]
    ],
    Case("linear", ops.linear, lambda x, w, b: x @ w + b, [(3, 4), (4, 2), (2,)]),
    Case("linear-nobias", ops.linear, lambda x, w: x @ w, [(3, 4), (4, 2)]),
    Case("linear-3d", ops.linear, lambda x, w, b: x @ w + b, [(2, 3, 4), (4, 2), (2,)]),
    Case("reshape", lambda a: ops.reshape(a, (4, -1)), lambda a: a.reshape(4, -1), [(2, 6)]),
    Case("transpose", ops.transpose, np.transpose, [(2, 3, 4)]),
    Case(
        "transpose-axes",
        lambda a: a.transpose(1, -1, 0),
        lambda a: a.transpose(1, 2, 0),
        [(2, 3, 4)],
    ),
    Case("swapaxes", lambda a: a.swapaxes(0, -1), lambda a: a.swapaxes(0, 2), [(2, 3, 4)]),
    Case("expand_dims", lambda a: ops.expand_dims(a, 1), lambda a: a[:, None], [(2, 3)]),
    Case(
        "expand_dims-2",
        lambda a: ops.expand_dims(a, (0, -1)),
        lambda a: a[None, ..., None],
        [(2, 3)],
    ),
    Case("squeeze", ops.squeeze, np.squeeze, [(1, 3, 1)]),
    Case("squeeze-axis", lambda a: ops.squeeze(a, -1), lambda a: a[..., 0], [(1, 3, 1)]),
    Case(
        "broadcast_to",
        lambda a: ops.broadcast_to(a, (2, 3, 4)),
        lambda a: np.broadcast_to(a, (2, 3, 4)),
        [(3, 1)],
    ),
    Case(
        "concatenate",
        lambda *a: ops.concatenate(a, 1),
        lambda *a: np.concatenate(a, 1),
        [(2, 1), (2, 3), (2, 2)],
    ),
    Case(
        "concatenate-last",
        lambda *a: ops.concatenate(a, -1),
        lambda *a: np.concatenate(a, -1),
        [(2, 1), (2, 3)],
    ),
    Case("stack", lambda *a: ops.stack(a, 1), lambda *a: np.stack(a, 1), [(2, 3), (2, 3)]),
    Case("stack-last", lambda *a: ops.stack(a, -1), lambda *a: np.stack(a, -1), [(2, 3), (2, 3)]),
    *[
        Case(f"getitem-{name}", lambda a, i=i: a[i], lambda a, i=i: a[i], [(3, 4)])
        for name, i in {
            "int": 1,
            "negative": (-1, 2),
            "slice": slice(None, None, -2),
            "slices": (slice(1, 3), slice(0, 4, 2)),
            "ellipsis-none": (..., None, 1),
            "repeats": ROWS,
            "pairs": (ROWS, COLUMNS),
            "mixed": (slice(1, None), COLUMNS),
            "list": [0, 0, 2],
            "mask": MASK,
        }.items()
    ],
    Case("astype", lambda a: a.astype(np.float64), lambda a: a.astype(np.float64), [(3, 4)]),
    Case("to", lambda a: a.to("numpy").to(a.backend), lambda a: a, [(3, 4)]),
    Case(
        "cross_entropy",
        lambda a: ops.cross_entropy(a, LABELS),
        lambda a: -np.log(softmax(a))[np.arange(5), LABELS].mean(),
        [(5, 4)],
    ),
    Case("mse_loss", ops.mse_loss, lambda p, t: ((p - t) ** 2).mean(), [(3, 4), (3, 4)]),
    *[
        Case(
            f"batch_norm-{shape}",
            ops.batch_norm,
            lambda x, g, b: put(g, x) * standardized(x, (0, *range(2, x.ndim))) + put(b, x),
            [shape, (3,), (3,)],
        )
        for shape in [(5, 3), (2, 3, 4), (2, 3, 2, 2)]
    ],
    Case("batch_norm-plain", ops.batch_norm, lambda x: standardized(x, 0), [(5, 3)]),
    Case(
        "batch_norm-evaluation",
        lambda x, g, b: ops.batch_norm(x, g, b, mean=here(MEAN), var=here(VAR)),
        lambda x, g, b: g * (x - MEAN) / np.sqrt(VAR + 1e-5) + b,
        [(3, 4), (4,), (4,)],
    ),
    Case(
        "layer_norm",
        ops.layer_norm,
        lambda x, g, b: g * standardized(x, -1) + b,
        [(3, 4), (4,), (4,)],
    ),
    Case(
        "layer_norm-2",
        lambda x, g, b: ops.layer_norm(x, g, b, axis=(-2, -1)),
        lambda x, g, b: g * standardized(x, (1, 2)) + b,
        [(2, 3, 2), (3, 2), (3, 2)],
    ),
    Case(
        "rms_norm",
        ops.rms_norm,
        lambda x, g: g * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5),
        [(3, 4), (4,)],
    ),
    *[
        Case(
            f"group_norm-{shape}",
            lambda x, g, b: ops.group_norm(x, 2, g, b),
            lambda x, g, b: (
                put(g, x) * standardized(x.reshape(len(x), 2, -1), -1).reshape(x.shape) + put(b, x)
            ),
            [shape, shape[1:2], shape[1:2]],
        )
        for shape in [(3, 8), (2, 4, 3)]
    ],
    Case(
        "instance_norm",
        ops.instance_norm,
        lambda x, g, b: put(g, x) * standardized(x, 2) + put(b, x),
        [(2, 3, 4), (3,), (3,)],
    ),
]


def composed(op):
    """The composition that a fused op stands for."""

    def run(*inputs):
        with tb.use_fused(False):
            return op(*inputs)

    return run


CASES += [
    case._replace(name=f"{case.name}-composed", op=composed(case.op))
    for case in CASES
    if case.name.partition("-")[0] in FUSED
]
COMPARISONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
WITHOUT_GRADIENT = COMPARISONS | {"sign", "argmax", "bitwise_and", "bitwise_or", "invert"}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_op_is_declared_here():
    declared = {case.name.partition("-")[0] for case in CASES}
    assert set(ops.__all__) - WITHOUT_GRADIENT <= declared


@every_case
def test_value_is_numpys_and_arrays_give_arrays(case):
    inputs = case.inputs()
    expected = case.reference(*inputs)
    y = case.op(*map(tb.tensor, inputs))
    assert isinstance(y, tb.Tensor)
    assert y.shape == np.shape(expected)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-14)
    if not case.name.startswith(("getitem", "clip-above", "squeeze", "to", "log_softmax-1")):
        plain = case.op(*map(here, inputs))
        assert not isinstance(plain, tb.Tensor)
        np.testing.assert_array_equal(host(plain), y.numpy())


@every_case
def test_gradients_equal_differences_to_second_order(case):
    gradcheck(case.op, case.inputs(), order=2)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name != "astype"], ids=lambda case: case.name
)
def test_float32_stays_float32_and_is_near_float64(case):
    inputs = case.inputs()
    v = np.random.default_rng(3).standard_normal(case.op(*map(tb.tensor, inputs)).shape)
    small = [x.astype(np.float32) for x in inputs]
    y = case.op(*map(tb.tensor, small))
    assert y.dtype == np.float32
    _, exact = gradients(case.op, [x.astype(np.float64) for x in small], v)
    _, found = gradients(case.op, small, v.astype(np.float32))
    for g, e in zip(found, exact, strict=True):
        assert g.dtype == np.float32
        scale = np.abs(e.numpy()).max() + 1e-3
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=1e-5, atol=2e-5 * scale)


@every_case
def test_gradients_of_constant_inputs_are_not_computed(case):
    inputs = case.inputs()
    for i in range(len(inputs)):
        xs = [tb.tensor(x, requires_grad=j == i) for j, x in enumerate(inputs)]
        case.op(*xs).sum().backward()
        assert [x.grad is not None for x in xs] == [j == i for j in range(len(xs))]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("relu", [-1.0, 0.0, 1.0], [0, 0, 1]),
        ("abs", [-1.0, 0.0, 1.0], [-1, 0, 1]),
        ("max", [2.0, 1.0, 2.0], [0.5, 0, 0.5]),
        ("min", [1.0, 1.0, 2.0], [0.5, 0.5, 0]),
        ("sqrt", [4.0, 0.25], [0.25, 1]),
    ],
)
def test_gradients_at_kinks_are_as_declared(name, values, expected):
    x = tb.tensor(values, requires_grad=True)
    getattr(ops, name)(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected)


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 4), (9000, 2), (70, 300), (2, 70, 300)])
@pytest.mark.parametrize("dtype", ["f", "d", "e", "i"])
def test_relu_is_the_same_in_every_shape(shape, dtype):
    x = (4 * draw(shape)).astype(dtype)
    if x.size and dtype != "i":
        x.flat[0] = np.nan
    y = ops.relu(tb.tensor(x)).numpy()
    np.testing.assert_array_equal(y, np.where(x < 0, np.zeros((), dtype), x), strict=True)


def test_equal_inputs_of_maximum_and_minimum_get_half_each():
    for op in (ops.maximum, ops.minimum):
        a, b = (tb.tensor([1.0], requires_grad=True) for _ in range(2))
        op(a, b).backward(np.ones(1))
        assert a.grad.item() == b.grad.item() == 0.5


def test_clip_passes_the_gradient_at_its_bounds():
    x = tb.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], requires_grad=True)
    ops.clip(x, -1, 1).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 1, 1, 1, 0])


def test_array_bounds_of_clip_are_numpys_and_may_cross():
    x = tb.tensor(draw((5, 4), dtype=np.float32), requires_grad=True)
    low, high = draw((4,), seed=1), draw((5, 1), seed=2)
    y = ops.clip(x, here(low), here(high))
    np.testing.assert_array_equal(y.numpy(), np.clip(x.numpy(), low, high))
    (g,) = tb.grad(y.sum(), x)
    inside = (x.numpy() >= low) & (x.numpy() <= high)
    np.testing.assert_array_equal(g.numpy(), inside.astype(np.float32), strict=True)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_argmax_is_numpys(axis, keepdims):
    x = draw((3, 4)).round()  # with equal elements
    y = tb.tensor(x, requires_grad=True).argmax(axis, keepdims)
    assert not y.requires_grad
    np.testing.assert_array_equal(y.numpy(), np.argmax(x, axis, keepdims=keepdims), strict=True)


@pytest.mark.parametrize("values", [([True, True, False], [True, False, False]), ([6, 1], [3, 2])])
def test_and_or_not_are_those_of_arrays(values):
    a, b = map(np.array, values)
    x, y = tb.tensor(a), tb.tensor(b)
    for found, expected in [
        (x & y, a & b),
        (x | y, a | b),
        (~x, ~a),
        (x & here(b), a & b),
        (here(b) | x, a | b),
        (True & x, True & a),
    ]:
        assert isinstance(found, tb.Tensor)
        np.testing.assert_array_equal(found.numpy(), expected, strict=True)


NOTHING = [
    (ops.matmul, (5, 0), (0, 5)),
    (ops.matmul, (0, 3), (3, 2)),
    (ops.matmul, (2, 3), (3, 0)),
    (ops.matmul, (2, 5, 0), (0, 4)),
    (ops.matmul, (2, 0, 3), (3, 4)),
    (ops.matmul, (0, 2, 3), (3, 4)),
    (ops.matmul, (4, 2, 0), (4, 0, 3)),
    (ops.matmul, (0,), (0, 4)),
    (ops.matmul, (4, 0), (0,)),
    (ops.matmul, (0,), (0,)),
    (ops.linear, (5, 0), (0, 4), (4,)),
    (ops.linear, (2, 5, 0), (0, 4), (4,)),
    (ops.linear, (0, 3), (3, 4), (4,)),
    (ops.linear, (0, 2, 3), (3, 4), (4,)),
    (ops.linear, (5, 3), (3, 0), (0,)),
    (lambda a: ops.reshape(a, (3, 0, 2)), (0, 5)),
    (lambda a: ops.transpose(a), (0, 5)),
    (lambda a: ops.concatenate([a, a]), (0, 5)),
    (lambda a: ops.stack([a, a]), (0, 5)),
    (lambda a: ops.softmax(a, 0), (5, 0)),
    (lambda a: a[1:], (1, 5)),
    (lambda a: ops.squeeze(ops.expand_dims(a, 0), 0), (0, 5)),
    (nn.Flatten(), (3, 0, 2)),
]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("case", NOTHING, ids=str)
def test_arrays_without_elements_have_gradients_without_elements(case, fused):
    op, *shapes = case
    xs = [tb.tensor(np.ones(shape), requires_grad=True) for shape in shapes]
    with tb.use_fused(fused):
        y = op(*xs)
        gs = tb.grad((y * y).sum(), xs, create_graph=True)
        assert [g.shape for g in gs] == shapes
        again = tb.grad(sum((g * g).sum() for g in gs), xs, allow_unused=True)
    assert all(g is None or g.shape == shape for g, shape in zip(again, shapes, strict=True))


def test_powers_of_zero_have_finite_gradients():
    x = tb.tensor([0.0, 2.0], requires_grad=True)
    for exponent, expected in [(0, [0, 0]), (1, [1, 1]), (2, [0, 4])]:
        (g,) = tb.grad((x**exponent).sum(), x)
        np.testing.assert_array_equal(g.numpy(), expected)
    e = tb.tensor([0.0, 1.0, 2.0], requires_grad=True)
    (g,) = tb.grad((tb.tensor([0.0, 0.0, 0.0]) ** e).sum(), e)
    np.testing.assert_array_equal(g.numpy(), 0)


def test_comparisons_give_bools_without_history():
    x = tb.tensor([1.0, 2.0, 3.0], requires_grad=True)
    for found, expected in [
        (x < 2, [True, False, False]),
        (x <= 2, [True, True, False]),
        (x > 2, [False, False, True]),
        (x >= 2, [False, True, True]),
        (x == 2, [False, True, False]),
        (x != 2, [True, False, True]),
        (x > 2, [False, False, True]),
    ]:
        assert found.dtype == bool
        assert not found.requires_grad
        np.testing.assert_array_equal(found.numpy(), expected)
    assert (x == None) is False  # noqa: E711
    assert 2.0 in x
    assert 4.0 not in x
    assert None not in x
    assert 1.0 not in tb.tensor(np.zeros((0, 2)))
    assert 2.0 in tb.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert (x != "x") is True


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_family_is_stable_at_extremes(dtype):
    x = tb.tensor(np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4]], dtype), requires_grad=True)
    np.testing.assert_allclose(ops.softmax(x).numpy(), [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(ops.logsumexp(x, 1).numpy(), [1e4, -1e4 + np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(ops.log_softmax(x).numpy()[0], [0, -1e4, -2e4])
    loss = ops.cross_entropy(x, np.array([2, 0]))
    assert loss.item() == pytest.approx((2e4 + np.log(3)) / 2)
    loss.backward()
    np.testing.assert_allclose(
        x.grad.numpy(), np.array([[1, 0, -1], [-2 / 3, 1 / 3, 1 / 3]]) / 2, 1e-6
    )


def test_logsumexp_of_minus_infinity_alone_is_minus_infinity():
    x = tb.tensor([[-np.inf, -np.inf], [-np.inf, 0.0]])
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(ops.logsumexp(x, 1).numpy(), [-np.inf, 0])


def test_sigmoid_is_exact_in_both_tails():
    y = ops.sigmoid(tb.tensor([-80.0, -20.0, 20.0, 1e5, -1e5])).numpy()
    exact = [1.8048513878454153e-35, 2.0611536181902037e-09, 1, 1, 0]
    np.testing.assert_allclose(y, exact, rtol=1e-6)


def test_repeated_indices_add_up():
    x = tb.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (x[np.array([2, 2, 0])] * tb.tensor([1.0, 10.0, 100.0])).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [100, 0, 11])
    assert x[tb.tensor(np.array([1, 2]))].shape == (2,)


def test_batch_norm_keeps_its_digits_far_from_zero():
    x = draw((64, 8), seed=1)
    for mean in (1e2, 1e4):
        shifted = (x + mean).astype(np.float32)
        exact = standardized(shifted.astype(np.float64), 0)
        np.testing.assert_allclose(host(ops.batch_norm(here(shifted))), exact, atol=2e-6)


def test_recentring_takes_out_a_mean_and_hands_the_gradient_on():
    d, v = draw((6, 3)), draw((6, 3), seed=1)
    x = tb.tensor(d, requires_grad=True)
    y = recentre(x, 0)
    np.testing.assert_allclose(y.numpy(), d - d.mean(0), atol=1e-15)
    np.testing.assert_array_equal(tb.grad(y, x, v)[0].numpy(), v)


@pytest.mark.parametrize("fixed", [np.float32(2.5), np.float64(2.5), np.int64(3), 2.5, 3, True])
def test_numbers_and_numpy_scalars_promote_nothing(fixed):
    x = tb.tensor([1.0, 2.0], requires_grad=True)
    for y in (x * fixed, fixed * x, x + fixed, fixed - x, x / fixed, fixed / x, x**fixed, fixed**x):
        assert y.dtype == np.float32
        assert tb.grad(y.sum(), x)[0].dtype == np.float32


def test_float16_stays_float16():
    x = tb.tensor(np.ones((4, 3), np.float16), requires_grad=True)
    y = ops.batch_norm(x * 2 + 1)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float16


def test_mixed_dtypes_promote_as_in_numpy_and_gradients_come_back_in_their_own():
    a = tb.tensor([1.0, 2.0], requires_grad=True)
    b = tb.tensor(np.array([3.0, 4.0]), requires_grad=True)
    y = a * b
    assert y.dtype == np.float64
    y.sum().backward()
    assert (a.grad.dtype, b.grad.dtype) == (np.float32, np.float64)


def test_ops_have_the_signature_of_what_they_are_made_of():
    assert str(inspect.signature(ops.relu)).startswith("(a:")  # without xp
    assert list(inspect.signature(ops.sum).parameters) == ["a", "axis", "keepdims"]
    assert inspect.signature(ops.batch_norm) == inspect.signature(norm.batch_norm)
    assert ops.relu.__doc__.startswith("max(a, 0)")
    x = tb.tensor(draw((3, 4)))
    np.testing.assert_array_equal(
        ops.sum(x, 0, True).numpy(), ops.sum(x, axis=0, keepdims=True).numpy()
    )
