"""Nothing is silently wrong: history that would be lost, and arrays that change unnoticed."""

import copy
import operator

import numpy as np
import pytest
from numeric import draw, here

import tinybn as tb
from tinybn import ops


def leaf(*shape, seed=0, dtype=np.float64):
    return tb.tensor(draw(shape, seed=seed), dtype=dtype, requires_grad=True)


# History lost to NumPy

FUNCTIONS = {
    "concatenate": lambda t: np.concatenate([t, t]),
    "stack": lambda t: np.stack((t, t)),
    "where": lambda t: np.where(t.data > 0, t, 0),
    "dot": lambda t: np.dot(t, t),
    "einsum": lambda t: np.einsum("ij->j", t),
    "std": lambda t: np.std(t),
    "mean": lambda t: np.mean(t, axis=0),
    "sum": lambda t: np.sum(t),
    "reshape": lambda t: np.reshape(t, -1),
    "pad": lambda t: np.pad(t, 1),
    "linalg.norm": lambda t: np.linalg.norm(t),
    "outer": lambda t: np.outer(t, t),
    "clip": lambda t: np.clip(t, 0, 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_functions_refuse_a_tensor_that_requires_grad(name):
    x = tb.tensor(draw((3, 3)), backend="numpy")
    FUNCTIONS[name](x)  # no history, nothing to lose
    x.requires_grad = True
    last = name.rpartition(".")[2]
    known = f"use tb.ops.{last}, or detach" if last in ops.__all__ else "use tb.ops, or detach"
    for t in (x, x * 2):
        with pytest.raises(TypeError, match=rf"numpy.{last} would lose the history.*{known}"):
            FUNCTIONS[name](t)
        FUNCTIONS[name](t.detach())


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        np.array,
        lambda t: np.zeros((3, 3)).__setitem__(slice(None), t),
        lambda t: np.fromiter(t, float),
        lambda t: np.exp(t),
        lambda t: np.add(np.ones((3, 3)), t),
        lambda t: np.testing.assert_array_equal(t, t),
    ],
)
def test_a_tensor_that_requires_grad_never_becomes_an_array(convert):
    with pytest.raises((TypeError, ValueError)):
        convert(tb.tensor(draw((3, 3)), requires_grad=True, backend="numpy"))


def test_nested_lists_of_tensors_are_refused():
    t = leaf()
    for data in ([t], [[t], [2.0]], ([1.0], (t,))):
        with pytest.raises(TypeError, match="stack"):
            tb.tensor(data)


# In place


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "matmul"])
def test_in_place_operators_refuse_parameters_and_work_elsewhere(name):
    change, op = getattr(operator, f"i{name}"), getattr(operator, name)
    p, c = leaf(3, 3), tb.tensor(np.ones((3, 3)))
    before = p.numpy()
    with tb.no_grad(), pytest.raises(TypeError, match=r"would not change a leaf.*p\.data -="):
        change(p, c)
    np.testing.assert_array_equal(p.numpy(), before)
    for t in (p * 1, p.detach()):
        np.testing.assert_array_equal(change(t, c).numpy(), op(t, c).numpy())


def test_data_says_that_it_wants_an_array():
    p = leaf(3)
    (p * p).sum().backward()
    with pytest.raises(TypeError, match=r"got Tensor.*p\.data -= lr \* p\.grad\.data"):
        p.data = p - 0.1 * p.grad
    with pytest.raises(TypeError, match="Tensor"):  # in NumPy's words
        p.data -= 0.1 * p.grad


# Views and aliases: what a rule reads is copied, or watched


VIEWS = {
    "T": lambda t: t.T,
    "swapaxes": lambda t: t.swapaxes(0, 1),
    "reshape": lambda t: t.reshape(-1),
    "index": lambda t: t[1:],
    "expand_dims": lambda t: t.expand_dims(0),
    "broadcast_to": lambda t: t.broadcast_to((2, 3, 3)),
    "twice": lambda t: t.T.reshape(3, 3)[0],
    "detach": lambda t: t.detach(),
    "copy": copy.copy,
    "itself": lambda t: t,
}


@pytest.mark.parametrize("of", ["leaf", "output"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_change_of_what_shares_memory_is_noticed(name, of):
    a, b = leaf(3, 3), leaf(3, 3, seed=1)
    t = a if of == "leaf" else a * 1
    view = VIEWS[name](t)
    y = (view * view * b.sum()).sum() + (t * t).sum()
    t.data *= 2
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


@pytest.mark.parametrize("name", [name for name in VIEWS if name != "broadcast_to"])
def test_a_change_through_what_shares_memory_is_noticed(name):
    a = leaf(3, 3)
    y = (a * a).sum()
    with tb.no_grad():
        view = VIEWS[name](a)
    view.data *= 2
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_the_output_that_a_rule_reads_is_watched():
    x = leaf(3)
    y = ops.tanh(x)
    y.data *= 2
    with pytest.raises(RuntimeError, match="the output of 'tanh' was changed"):
        y.sum().backward()


def test_a_new_array_does_not_disturb_those_who_hold_the_old_one():
    a = leaf(3)
    old = a.detach()
    b = leaf(3, seed=1)
    y = (old * b).sum()
    a.data = a.data * 2  # as an optimizer does
    np.testing.assert_array_equal(tb.grad(y, b)[0].numpy(), old.numpy())


def test_constants_may_change_after_the_call():
    x = leaf(4, 3)
    buffer, condition = here(draw((4, 3), seed=1)), here(draw((4, 3), seed=2) > 0)
    index, labels = np.array([0, 2, 2]), np.array([0, 1, 2, 0])
    weight, mean = leaf(3, 2, seed=3), here(np.zeros(3))

    def loss():
        y = ops.where(condition, x, 2 * x) * buffer
        y = y[index].sum() + ops.cross_entropy(x, labels) + (ops.linear(buffer, weight) ** 2).sum()
        y = y + (ops.batch_norm(x, mean=mean, var=mean + 1) ** 2).sum()
        g = tb.grad((x[index] ** 3).sum() + ops.cross_entropy(x, labels), x, create_graph=True)[0]
        return y, (g * g).sum()

    expected = [tb.grad(y, [x, weight], allow_unused=True) for y in loss()]
    recorded = loss()
    for array in (buffer, index, labels, mean):
        array[...] = 1
    condition[...] = False
    for y, gradients in zip(recorded, expected, strict=True):
        for g, e in zip(tb.grad(y, [x, weight], allow_unused=True), gradients, strict=True):
            if e is not None:
                np.testing.assert_array_equal(g.numpy(), e.numpy())


@pytest.mark.parametrize("fused", [True, False])
def test_tensors_given_as_constants_may_change_after_the_call(fused):
    def gradient(change):
        x, gamma = leaf(4, 3), leaf(3, seed=1)
        mean, var = tb.tensor(draw((3,), seed=2)), tb.tensor(np.ones(3))
        with tb.use_fused(fused):
            y = (ops.batch_norm(x, gamma, mean=mean, var=var) ** 2).sum()
        if change:
            mean.data += 5
            var.data *= 3
        return [g.numpy() for g in tb.grad(y, [x, gamma], create_graph=True)]

    for found, expected in zip(gradient(True), gradient(False), strict=True):
        np.testing.assert_array_equal(found, expected)


# What has no gradient


def test_no_gradient_goes_through_integers_and_bools():
    x = leaf(3)
    for dtype in (np.int64, bool):
        assert not x.astype(dtype).requires_grad
    with pytest.raises(ValueError, match="does not require grad"):
        (x.astype(np.int64) * 1.5).sum().backward()


def test_statistics_and_labels_with_a_history_are_refused():
    x = leaf(4, 3)
    with pytest.raises(ValueError, match=r"requires grad.*constant.*detach"):
        ops.batch_norm(x, mean=x.mean(0), var=x.var(0))


# Dtypes

NORMS = {
    "batch_norm": lambda x: ops.batch_norm(x),
    "evaluation": lambda x: ops.batch_norm(x, mean=here(np.zeros(4) + 0.5), var=here(np.ones(4))),
    "layer_norm": lambda x: ops.layer_norm(x),
    "rms_norm": lambda x: ops.rms_norm(x),
    "group_norm": lambda x: ops.group_norm(x, 2),
    "cross_entropy": lambda x: ops.cross_entropy(x, np.arange(len(x.data)) % 4),
}
OTHERS = {
    "softmax": lambda x: ops.softmax(x),
    "log_softmax": lambda x: ops.log_softmax(x),
    "logsumexp": lambda x: ops.logsumexp(x, axis=1),
    "var": lambda x: ops.var(x, axis=1),
    "mean": lambda x: ops.mean(x),
    "mse_loss": lambda x: ops.mse_loss(x, x.data[::-1].copy()),
}


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int8, np.uint16, np.int64, bool])
@pytest.mark.parametrize("name", [*NORMS, *OTHERS])
def test_narrow_dtypes_neither_overflow_nor_wrap_around(name, dtype):
    f = (NORMS | OTHERS)[name]
    values = np.random.default_rng(0).integers(-300, 300, (8, 4))
    values = values if dtype == np.float16 else values.clip(*_range(dtype))
    values = values.astype(dtype)
    exact = f(tb.tensor(values, dtype=np.float64)).numpy()
    for fused in (True, False):
        with tb.use_fused(fused):
            y = f(tb.tensor(values))
        assert y.dtype == (np.float16 if dtype == np.float16 else np.float64)
        expected = exact.astype(y.dtype)
        np.testing.assert_allclose(y.numpy(), expected, rtol=2e-3 if y.dtype.itemsize < 4 else 1e-9)


def _range(dtype):
    return (0, 1) if dtype is bool else (np.iinfo(dtype).min, np.iinfo(dtype).max)


def test_the_mean_of_many_large_float16():
    assert ops.mean(np.full(4000, 200, np.float16)) == 200


def test_second_derivatives_of_power_where_the_exponent_is_0():
    a, b = tb.tensor(3.0, requires_grad=True), tb.tensor(0.0, requires_grad=True)
    first = tb.grad(a**b, [a, b], create_graph=True)
    found = [tb.grad(g, x, retain_graph=True)[0].item() for g in first for x in (a, b)]
    np.testing.assert_allclose(found, [0, 1 / 3, 1 / 3, np.log(3) ** 2], rtol=1e-6)


def test_powers_of_infinity_have_finite_gradients_where_the_exponent_is_0():
    x = tb.tensor([np.inf, 0.0, 2.0], requires_grad=True)
    np.testing.assert_array_equal(tb.grad((x**0).sum(), x)[0].numpy(), 0)


def test_a_parameter_without_axes_can_be_set():
    p = tb.tensor(2.0, requires_grad=True)
    p.data = p.data * 3  # of which NumPy makes a scalar
    assert p.data.shape == ()
    assert (p.item(), p.dtype) == (6, np.float32)


FLOATS_AND_INTEGERS = ["f2", "f4", "f8", "i1", "u1", "i2", "i8", "?"]
WITH_PARAMETERS = {
    "batch_norm": ops.batch_norm,
    "layer_norm": ops.layer_norm,
    "beta alone": lambda x, beta: ops.layer_norm(x, None, beta),
    "rms_norm": ops.rms_norm,
    "group_norm": lambda x, gamma: ops.group_norm(x, 2, gamma),
    "linear": lambda x, bias: ops.linear(x, np.ones((4, 4), x.dtype), bias),
}


@pytest.mark.host("arrays of NumPy's dtypes")
@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("x", FLOATS_AND_INTEGERS)
@pytest.mark.parametrize("gamma", FLOATS_AND_INTEGERS)
def test_fused_and_composed_agree_on_the_dtype(name, x, gamma):
    """float16 with int8 stays float16, as NumPy promotes it."""
    found = []
    for fused in (True, False):
        with tb.use_fused(fused):
            try:
                found.append(WITH_PARAMETERS[name](np.ones((3, 4), x), np.ones(4, gamma)).dtype)
            except TypeError as error:
                found.append(str(error))
    assert found[0] == found[1]
