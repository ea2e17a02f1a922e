"""Fused ops: each closed form equals its composition, at every order, and in float32 is exact."""

import gc

import numpy as np
import pytest
from numeric import draw, here, host

import tinybn as tb
from tinybn import ops
from tinybn.fusion import FUSED, fused
from tinybn.modes import watch
from tinybn.op import primitive

LABELS = np.array([1, 0, 2, 2, 1, 0])
MEAN, VAR = here(draw((3,), seed=8)), here(draw((3,), "positive", seed=9))

# Per op: static arguments, and shapes of the inputs.
CALLS = [
    ("linear", {}, [(6, 4), (4, 3), (3,)]),
    ("linear", {}, [(2, 3, 4), (4, 3)]),
    ("cross_entropy", {"labels": LABELS}, [(6, 3)]),
    ("batch_norm", {}, [(6, 3), (3,), (3,)]),
    ("batch_norm", {}, [(2, 3), (3,), (3,)]),
    ("batch_norm", {}, [(6, 1), (1,)]),
    ("batch_norm", {"eps": 0.1}, [(2, 3, 4), (3,), (3,)]),
    ("batch_norm", {}, [(2, 3, 2, 2)]),
    ("batch_norm", {"mean": MEAN, "var": VAR}, [(6, 3), (3,), (3,)]),
    ("batch_norm", {"mean": MEAN, "var": VAR}, [(2, 3, 4)]),
    ("layer_norm", {}, [(6, 4), (4,), (4,)]),
    ("layer_norm", {"axis": (-2, -1)}, [(6, 3, 4), (3, 4), (3, 4)]),
    ("layer_norm", {"eps": 0.1}, [(2, 3, 4), (4,)]),
    ("rms_norm", {}, [(6, 4), (4,)]),
    ("rms_norm", {"axis": (1, 2)}, [(6, 3, 4)]),
    ("group_norm", {"groups": 2}, [(6, 4), (4,), (4,)]),
    ("group_norm", {"groups": 2}, [(3, 4, 5), (4,)]),
    ("group_norm", {"groups": 1}, [(3, 4, 2, 2), (4,), (4,)]),
    ("instance_norm", {}, [(3, 4, 5), (4,), (4,)]),
    ("instance_norm", {}, [(3, 4, 2, 3)]),
    ("sync_batch_norm", {"comm": tb.distributed.ALONE}, [(6, 4), (4,), (4,)]),
    ("sync_batch_norm", {"comm": tb.distributed.ALONE}, [(3, 2, 2)]),
]
every_call = pytest.mark.parametrize(
    ("name", "static", "shapes"), CALLS, ids=[f"{n}-{s[0]}-{len(s)}" for n, _, s in CALLS]
)


def draw_inputs(shapes, dtype=np.float64):
    inputs = [draw(shape, seed=i) for i, shape in enumerate(shapes)]
    if len(inputs) > 1:
        inputs[1].flat[-1] = 0  # a gamma of 0
    return [x.astype(dtype) for x in inputs]


def call(name, inputs, static):
    return FUSED[name].call(**dict(zip(FUSED[name].names, inputs, strict=False)), **static)


def derivatives(name, static, inputs, orders):
    """The output, and all derivatives of random contractions of it, order by order."""
    rng = np.random.default_rng(5)
    xs = [tb.tensor(x, requires_grad=True) for x in inputs]
    y = call(name, xs, static)
    found = [y.numpy()]
    scalar = (y * here(rng.standard_normal(y.shape))).sum()
    for order in range(orders):
        last = order == orders - 1
        gs = tb.grad(scalar, xs, create_graph=not last, retain_graph=True, allow_unused=True)
        found += [
            np.zeros(x.shape) if g is None else g.numpy() for g, x in zip(gs, xs, strict=True)
        ]
        if not last:
            terms = [(g * here(rng.standard_normal(g.shape))).sum() for g in gs if g is not None]
            scalar = sum(terms[1:], terms[0])
            if not scalar.requires_grad:  # linear in everything
                break
    return found


def test_every_fused_op_is_compared_here():
    assert {name for name, *_ in CALLS} == set(FUSED)


@every_call
def test_closed_form_equals_composition_to_the_fourth_order(name, static, shapes):
    inputs = draw_inputs(shapes)
    found = derivatives(name, static, inputs, 4)
    with tb.use_fused(False):
        expected = derivatives(name, static, inputs, 4)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * max(1, np.abs(b).max()))


@every_call
def test_a_fused_op_is_one_node_and_keeps_little_more_than_its_input(name, static, shapes):
    xs = [tb.tensor(x, requires_grad=True) for x in draw_inputs(shapes)]
    y = call(name, xs, static)
    node = y._node
    assert node.op is FUSED[name]
    assert all(s is x for s, x in zip(node.sources, xs, strict=False))
    assert all(a is None or a is x.data for a, x in zip(node.arrays, xs, strict=False))
    if name != "cross_entropy":  # which keeps the softmax
        rows = shapes[0][0] * static.get("groups", 1 if len(shapes[0]) == 2 else shapes[0][1])
        moments = node.output[0] if node.output else ()
        assert all(np.size(a) <= max(rows, shapes[0][1]) for a in moments)


@every_call
def test_gradients_that_nobody_needs_are_not_computed_nor_missed(name, static, shapes, monkeypatch):
    inputs = draw_inputs(shapes)
    v = draw(call(name, map(here, inputs), static).shape, seed=7)
    everything = [tb.tensor(x, requires_grad=True) for x in inputs]
    expected = tb.grad(call(name, everything, static), everything, tb.tensor(v))
    for i in range(len(inputs)):
        xs = [tb.tensor(x, requires_grad=j == i) for j, x in enumerate(inputs)]
        asked = []
        with monkeypatch.context() as patch:
            patch.setattr(FUSED[name], "gradients", _spy(FUSED[name].gradients, asked))
            (g,) = tb.grad(call(name, xs, static), xs[i], tb.tensor(v))
        assert [j for j, need in enumerate(asked[0]) if need] == [i]
        np.testing.assert_allclose(g.numpy(), expected[i].numpy(), rtol=1e-12, atol=1e-14)


def _spy(gradients, asked):
    def run(needed, *args):
        asked.append(needed)
        return gradients(needed, *args)

    return run


@every_call
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_are_kept_and_the_upstream_gradient_is_not_touched(name, static, shapes, dtype):
    xs = [tb.tensor(x, requires_grad=True) for x in draw_inputs(shapes, dtype)]
    before = [x.numpy() for x in xs]
    y = call(name, xs, static)
    v = tb.tensor(draw(y.shape, seed=7, dtype=dtype))
    kept = v.numpy()
    output = y.numpy()
    for _ in range(2):
        gs = tb.grad(y, xs, v, retain_graph=True)
        assert y.dtype == dtype
        assert [g.dtype for g in gs] == [dtype] * len(xs)
    np.testing.assert_array_equal(v.numpy(), kept)
    np.testing.assert_array_equal(y.numpy(), output)
    for x, b in zip(xs, before, strict=True):
        np.testing.assert_array_equal(x.numpy(), b)


@every_call
def test_float16_is_accumulated_in_float32(name, static, shapes):
    inputs = draw_inputs(shapes, np.float16)
    y = call(name, map(here, inputs), static)
    exact = call(name, [here(x.astype(np.float64)) for x in inputs], static)
    np.testing.assert_allclose(host(y), host(exact), rtol=2**-10, atol=1e-3)


def test_sums_over_many_rows_are_exact_to_a_few_ulp():
    x = (1e4 + draw((4096, 4))).astype(np.float32)
    x16 = (draw((4096, 4)) * 0.5 + 4).astype(np.float16)
    dy = draw((4096, 4), seed=1).astype(np.float32)
    for a in (x, x16):
        t, gamma = (
            tb.tensor(a, requires_grad=True),
            tb.tensor(np.ones(4, a.dtype), requires_grad=True),
        )
        beta = tb.tensor(np.zeros(4, a.dtype), requires_grad=True)
        y = ops.batch_norm(t, gamma, beta)
        gs = tb.grad(y, [t, gamma, beta], tb.tensor(dy.astype(a.dtype)))
        wide = [tb.tensor(v, dtype=np.float64, requires_grad=True) for v in (t, gamma, beta)]
        with tb.use_fused(False):
            exact_y = ops.batch_norm(*wide)
            exact = tb.grad(exact_y, wide, tb.tensor(dy.astype(a.dtype).astype(np.float64)))
        for found, e in zip((y, *gs), (exact_y, *exact), strict=True):
            ulp = np.finfo(a.dtype).eps * np.abs(e.numpy()).max()
            assert np.abs(found.numpy().astype(np.float64) - e.numpy()).max() <= 4 * ulp


@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("name", ["batch_norm", "layer_norm", "rms_norm", "group_norm"])
def test_one_float64_input_makes_all_of_it_float64(name, wide):
    inputs = draw_inputs([(6, 4), (4,), (4,)][: len(FUSED[name].names)], np.float32)
    inputs[wide] = inputs[wide].astype(np.float64)
    static = {"groups": 2} if name == "group_norm" else {}
    found = derivatives(name, static, inputs, 1)
    exact = derivatives(name, static, [x.astype(np.float64) for x in inputs], 1)
    assert found[0].dtype == np.float64
    for a, b, x in zip(found, exact, [found[0], *inputs], strict=True):
        assert a.dtype == x.dtype
        np.testing.assert_allclose(a, b, rtol=1e-12 if x.dtype == np.float64 else 1e-6, atol=1e-13)


@pytest.mark.parametrize("op", [ops.layer_norm, ops.rms_norm])
def test_sums_of_float16_along_rows_are_exact_to_an_ulp(op):
    x, v = (4 + draw((4, 4096))).astype(np.float16), draw((4, 4096), seed=1).astype(np.float16)
    found, exact = [], []
    for results, dtype in ((found, np.float16), (exact, np.float64)):
        t = tb.tensor(x, dtype=dtype, requires_grad=True)
        y = op(t)
        results += [y.numpy(), tb.grad(y, t, tb.tensor(v, dtype=dtype))[0].numpy()]
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=2**-10, atol=2**-10 * np.abs(b).max())


LONGEST = pytest.param(2**21, marks=pytest.mark.host("CuPy's kernels have sums of their own"))


@pytest.mark.parametrize("n", [4096, 8192, 8193, 2**18, LONGEST])
def test_sums_over_long_rows_are_exact_to_a_few_ulp(n):
    x = draw((2, 1, n)).astype(np.float32)
    exact = (x - x.mean(2, np.float64, keepdims=True)) / np.sqrt(
        x.var(2, np.float64, keepdims=True) + 1e-5
    )
    for y in (ops.group_norm(here(x), 1), ops.layer_norm(here(x))):
        error = np.abs(host(y) - exact).max()
        assert error <= 2 * np.finfo(np.float32).eps * np.abs(exact).max()


@pytest.mark.parametrize("mean", [0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
@pytest.mark.parametrize("op", [ops.batch_norm, ops.layer_norm])
@pytest.mark.parametrize("shape", [(64, 32), (1000, 33), (16, 2)])
def test_float32_is_exact_to_16_ulp_wherever_the_data_lie(op, shape, mean, scale):
    x = (mean + scale * draw(shape)).astype(np.float32)
    gamma, beta = (draw(shape[1:], seed=i).astype(np.float32) for i in (1, 2))
    dy = draw(shape, seed=3).astype(np.float32)
    results = []
    for dtype in (np.float32, np.longdouble):  # the second, which no GPU has, on the host
        place = {"backend": "numpy" if dtype is np.longdouble else None, "dtype": dtype}
        xs = [tb.tensor(a, requires_grad=True, **place) for a in (x, gamma, beta)]
        with tb.use_fused(dtype == np.float32):
            y = op(*xs)
            results.append([y, *tb.grad(y, xs, tb.tensor(dy, **place))])
    # dx is a difference of terms as large as the direct path, gamma · dy / deviation
    axis = 0 if op is ops.batch_norm else 1
    direct = np.abs(
        gamma * dy / np.sqrt(x.astype(np.float64).var(axis, keepdims=True) + 1e-5)
    ).max()
    for i, (found, exact) in enumerate(zip(*results, strict=True)):
        size = np.abs(exact.numpy()).max()
        size = max(size, direct) if i == 1 else size
        error = np.abs(found.numpy().astype(np.longdouble) - exact.numpy()).max()
        assert error <= 16 * np.finfo(np.float32).eps * size


def test_a_tensor_given_twice_gets_the_sum_of_both_gradients_at_every_order():
    both = tb.tensor(draw((3,)), requires_grad=True)
    x = tb.tensor(draw((5, 3)), requires_grad=True)
    slopes = []
    for closed in (True, False):
        with tb.use_fused(closed):
            y = (ops.batch_norm(x, both, both) * here(draw((5, 3), seed=2))).sum()
            (g,) = tb.grad(y, both, create_graph=True)
            slopes.append((g.numpy(), tb.grad((g * g).sum(), x)[0].numpy()))
    for a, b in zip(*slopes, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_use_fused_off_records_primitive_ops_everywhere():
    model = tb.nn.MLP([4, 8, 3], "batch", rng=np.random.default_rng(0))
    names = []
    for closed in (True, False):
        with tb.use_fused(closed), watch(lambda c: names[-1].add(c.node.op.name)):
            names.append(set())
            ops.cross_entropy(model(here(draw((6, 4), dtype=np.float32))), LABELS).backward()
    assert names[0] == {"linear", "batch_norm", "relu", "cross_entropy"}
    assert not names[1] & set(FUSED)
    assert {"matmul", "mean", "sqrt", "log"} <= names[1]


def test_the_running_statistics_are_the_same_with_closed_forms_and_compositions():
    layers = [tb.nn.BatchNorm(3) for _ in range(2)]
    for layer, closed in zip(layers, (True, False), strict=True):
        with tb.use_fused(closed):
            for seed in range(3):
                layer(here(draw((4, 3, 5), seed=seed, dtype=np.float32)))
    for a, b in zip(*(layer.state_dict().values() for layer in layers), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


def test_a_closed_form_of_ones_own_is_an_op_that_is_compared_with_its_composition():
    def cube(x, *, scale=1.0):
        return x * x * x * scale

    def op(xp, x, *, scale):
        return x**3 * scale, ()

    op.__name__ = "cube_of_a_test"
    op = fused(composition=cube)(op)
    try:

        @op.backward
        def _(xp, needed, g, saved, x, *, scale):
            return (3 * x * x * g * scale,)

        x = tb.tensor([2.0], requires_grad=True)
        (g,) = tb.grad(op(x, scale=2.0), x, [1.0], create_graph=True)
        assert g.item() == 24
        assert tb.grad(g, x, [1.0])[0].item() == 24
        assert op(np.array([2.0])).item() == 8
        assert FUSED["cube_of_a_test"] is op.op
    finally:
        del FUSED["cube_of_a_test"]


def test_wrong_arguments_are_refused_as_pythons_own_calls_refuse_them():
    x = tb.tensor(draw((4, 3)))
    for call in (
        lambda: ops.batch_norm(x, None, None, 1e-5),
        lambda: ops.batch_norm(x, x=x),
        lambda: ops.batch_norm(x, epsilon=1),
        lambda: ops.batch_norm(),
        lambda: ops.linear(x),
    ):
        with pytest.raises(TypeError, match="argument"):
            call()


def test_a_closed_form_takes_what_a_rule_made_of_a_tensor():
    two = tb.tensor(2.0)

    @primitive(lambda g: g * two)
    def double(xp, a):
        return a * 2

    x, gamma, beta = (tb.tensor(draw(s), requires_grad=True) for s in [(4, 3), (3,), (3,)])
    found = tb.grad(double(ops.batch_norm(x, gamma, beta)), x, draw((4, 3), seed=1))
    expected = tb.grad(ops.batch_norm(x, gamma, beta) * 2, x, draw((4, 3), seed=1))
    np.testing.assert_allclose(host(found[0]), host(expected[0]), rtol=1e-12, atol=1e-14)


def test_a_closed_form_leaves_no_cycle_behind():
    x = tb.tensor(draw((4, 3)), requires_grad=True)

    def work():
        ops.batch_norm(x).sum().backward()
        (g,) = tb.grad((ops.layer_norm(x) ** 2).sum(), x, create_graph=True)
        g.sum().backward()

    work()  # on CuPy, the first time compiles kernels, which may leave cycles
    while gc.collect():  # what other tests left can take more than one pass
        pass
    gc.disable()
    try:
        for _ in range(10):
            work()
        x.grad = None
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_contributions_are_reported_as_they_are_added():
    x = tb.tensor([3.0], requires_grad=True)
    y = x * x + x
    seen = []
    with watch(seen.append):
        y.backward([1.0])
    assert [(c.node.op.name, c.input, c.value.item()) for c in seen] == [
        ("add", 0, 1.0),
        ("add", 1, 1.0),
        ("multiply", 0, 3.0),
        ("multiply", 1, 3.0),
    ]
    assert [c.source is x for c in seen] == [False, True, True, True]
    assert sum(c.value.item() for c in seen if c.source is x) == x.grad.item()


def test_primitive_and_fused_ops_may_be_mixed_in_one_graph():
    @primitive(lambda g, a: 2 * g * a)
    def square(xp, a):
        return a * a

    x = tb.tensor(draw((5, 3)), requires_grad=True)
    v = draw((5, 3), seed=1)
    found = [tb.grad(square(ops.batch_norm(square(x))), x, tb.tensor(v))[0].numpy()]
    with tb.use_fused(False):
        found.append(tb.grad(square(ops.batch_norm(square(x))), x, tb.tensor(v))[0].numpy())
    np.testing.assert_allclose(*found, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "i8", "u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_labels_of_any_integer_dtype_and_logits_of_any_layout_are_the_same(dtype, order):
    z, v = draw((6, 3)), tb.tensor(2.0, dtype=np.float64)
    expected = tb.grad(ops.cross_entropy(t := tb.tensor(z, requires_grad=True), LABELS), t, v)
    x = tb.tensor(z, requires_grad=True)
    x.data = here(np.asarray(z, order=order))
    (g,) = tb.grad(ops.cross_entropy(x, LABELS.astype(dtype)), x, v)
    np.testing.assert_array_equal(g.numpy(), expected[0].numpy())
    with pytest.raises(ValueError, match="from 0 to 2"):
        ops.cross_entropy(x, (LABELS + 1).astype(dtype))


def test_labels_may_be_a_tensor_on_the_host_or_a_list_and_are_checked_there():
    z = here(draw((6, 3)))
    expected = host(ops.cross_entropy(z, LABELS))
    for closed in (True, False):
        with tb.use_fused(closed):
            for labels in (tb.tensor(LABELS, backend="numpy"), LABELS.tolist()):
                np.testing.assert_allclose(host(ops.cross_entropy(z, labels)), expected, rtol=1e-12)
            with pytest.raises(ValueError, match="from 0 to 2 for 3 classes, got 1 to 3"):
                ops.cross_entropy(z, tb.tensor(LABELS + 1, backend="numpy"))


def test_labels_that_are_recorded_are_checked_when_the_recording_runs():
    class Recorded(np.ndarray):
        def check_later(self, check):
            checks.append(check)

    checks, z = [], here(draw((6, 3)))
    ops.cross_entropy(z, LABELS.view(Recorded))
    assert len(checks) == 1
    checks[0](LABELS)
    with pytest.raises(ValueError, match="from 0 to 2"):
        checks[0](LABELS + 1)


@pytest.mark.parametrize("op", [ops.batch_norm, ops.layer_norm])
def test_shapes_that_do_not_fit_are_refused_after_shapes_that_did(op):
    x, gamma, beta = (here(draw(s, dtype=np.float32)) for s in [(4, 3), (3,), (3,)])
    op(x, gamma, beta)
    for wrong in (beta[:2], beta[None], x):
        with pytest.raises(ValueError, match="expected beta of shape"):
            op(x, gamma, wrong)
    with pytest.raises(ValueError, match="eps >= 0"):
        op(x, gamma, beta, eps=-1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("given", [{}, {"mean": 0.5, "var": 0.25}])
def test_batch_norm_of_integers_equals_its_composition(dtype, given):
    x = tb.tensor(np.arange(12).reshape(4, 3), dtype=dtype)
    gamma = tb.tensor(draw((3,), seed=1, dtype=np.float32))
    given = {name: tb.tensor(np.full(3, v, np.float32)).data for name, v in given.items()}
    y = ops.batch_norm(x, gamma, **given)
    with tb.use_fused(False):
        expected = ops.batch_norm(x, gamma, **given)
    assert y.dtype == expected.dtype == np.float64
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-6)


# What is wrong with a fused op that a user declares


def twice(x, b=None):
    return x * 2 if b is None else x * 2 + b


def returning(found):
    return lambda xp, x, b: found(x)


def test_a_closed_form_that_forgets_what_it_saved_is_refused(planted):
    for found, what in [
        (lambda x: x * 2, "ndarray"),
        (lambda x: (x * 2, x, x), "tuple of 3"),
        (lambda x: [x * 2, x], "list of 2"),
        (lambda x: None, "NoneType"),
    ]:
        op = planted(twice, returning(found), None)
        with pytest.raises(
            TypeError, match=f"planted: .* a tuple of the output and .*, got {what}$"
        ):
            op(here(np.ones((2, 3))))  # two rows: they would unpack


@pytest.mark.host("messages")
def test_gradients_that_are_missing_are_named(planted):
    def forward(xp, x, b):
        return x * 2 if b is None else x * 2 + b, ()

    x, b = (tb.tensor(np.ones(3), requires_grad=True) for _ in range(2))
    op = planted(twice, forward, None)
    op.op.closed_form = None
    with pytest.raises(
        TypeError, match=r"'planted' has no gradients: declare them with @planted.backward"
    ):
        op(x, b).sum().backward()
    with tb.use_fused(False):
        op(x, b).sum().backward()
    for found, what in [(lambda g: (2 * g,), "tuple of 1"), (lambda g: 2 * g, "ndarray"), (lambda g: (g, g, g), "tuple of 3")]:  # fmt: skip
        op = planted(twice, forward, lambda xp, needed, g, *_, found=found: found(g))
        with pytest.raises(
            TypeError, match=rf"'planted' returned {what}: .* a tuple of 2, .* \(x, b\)"
        ):
            op(x, b).sum().backward()
    op = planted(twice, forward, lambda xp, needed, g, *_: (2 * g[:1], g))
    with pytest.raises(
        TypeError, match=r"rule 0 of 'planted' gave no gradient for .* its shape is \(1,\)"
    ):
        op(x, b).sum().backward()


@pytest.mark.parametrize(
    "forward",
    [
        lambda xp, x: (x, ()),
        lambda xp, x, bias: (x, ()),
        lambda xp, x, b, *, eps: (x, ()),
        lambda x, b: (x, ()),
    ],
)
def test_a_composition_must_have_the_same_parameters(forward):
    with pytest.raises(TypeError, match="'<lambda>' and its composition 'twice' need the same"):
        fused(composition=twice)(forward)
    assert "<lambda>" not in FUSED


def test_a_name_that_is_taken_is_refused_but_a_function_may_be_defined_again(planted):
    own = FUSED["batch_norm"]

    def batch_norm(xp, x, b):
        return x, ()

    with pytest.raises(
        ValueError, match=r"fused op 'batch_norm' already, of tinybn.ops.fused: give"
    ):
        fused(composition=twice)(batch_norm)
    assert FUSED["batch_norm"] is own
    first = planted(twice, lambda xp, x, b: (x * 2, ()), None)
    again = planted(twice, lambda xp, x, b: (x * 2, ()), None)
    assert FUSED["planted"] is again.op is not first.op
