"""Ops as their users see them: rules that name what they read, real functions, clear errors."""

import functools
import inspect
import pydoc
import traceback
from types import SimpleNamespace

import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import ops
from tinybn.fusion import FUSED
from tinybn.modes import current_mode, watch
from tinybn.op import primitive


def leaf(*shape, seed=0):
    return tb.tensor(draw(shape, seed=seed), requires_grad=True)


# Rules


def test_a_rule_names_what_it_reads_in_any_order():
    @primitive(
        lambda scale, b, g: g * b * scale,
        lambda g, y, b: g * y / b,
    )
    def scaled_product(xp, a, b, scale=2.0):
        return a * b * scale

    a, b = leaf(3), leaf(3, seed=1)
    for arguments in ((a, b, 5.0), (a, b)):
        ga, gb = tb.grad(scaled_product(*arguments).sum(), [a, b])
        scale = dict(enumerate(arguments)).get(2, 2.0)
        np.testing.assert_allclose(ga.numpy(), scale * b.numpy())
        np.testing.assert_allclose(gb.numpy(), scale * a.numpy())


@pytest.mark.parametrize(
    ("rule", "output", "inputs"),
    [
        (lambda g: g, False, []),
        (lambda g, y: g * y, True, []),
        (lambda g, b: g * b, False, ["b"]),
        (lambda y, a, b, k: a * b, True, ["a", "b"]),
        (lambda: 1.0, False, []),
    ],
)
def test_what_the_rules_name_is_kept_and_nothing_else(rule, output, inputs):
    @primitive(rule, None)
    def op(xp, a, b, k=1):
        return a * b

    a, b = leaf(3), leaf(3, seed=1)
    node = op(a, b)._node
    assert (node.output is not None) == output
    kept = [name for name, array in zip("ab", node.arrays, strict=True) if array is not None]
    assert kept == inputs


def test_static_arguments_reach_a_rule_in_whatever_order_they_are_given():
    @primitive(lambda g, p, q, r: g * (100 * p + 10 * q + r))
    def op(xp, a, p, q=2, *, r):
        return a * (100 * p + 10 * q + r)

    x = leaf(2)
    for call, expected in (
        (lambda: op(x, 1, r=3), 123),
        (lambda: op(x, r=3, q=5, p=1), 153),
        (lambda: op(r=3, p=1, a=x), 123),
        (lambda: op(x, 1, 7, r=3), 173),
    ):
        np.testing.assert_allclose(tb.grad(call().sum(), x)[0].numpy(), expected)


def test_a_rule_for_any_number_of_inputs_is_told_which_one_is_meant():
    @primitive(lambda g, i, arrays, weight: g * arrays[1 - i] * weight)
    def product(xp, *arrays, weight=1.0):
        return arrays[0] * arrays[1] * weight

    a, b = leaf(3), leaf(3, seed=1)
    ga, gb = tb.grad(product(a, b, weight=2.0).sum(), [a, b])
    np.testing.assert_allclose(ga.numpy(), 2 * b.numpy())
    np.testing.assert_allclose(gb.numpy(), 2 * a.numpy())


def test_a_parameter_with_a_default_of_its_own_keeps_it():
    rules = [lambda g, a, factor=factor: g * a * factor for factor in (2, 3)]
    x = leaf(3)
    for rule, factor in zip(rules, (2, 3), strict=True):
        op = primitive(rule)(lambda xp, a: a * a)
        np.testing.assert_allclose(tb.grad(op(x).sum(), x)[0].numpy(), factor * x.numpy())


def product(xp, a, b, scale=1.0):
    return a * b * scale


@pytest.mark.parametrize(
    ("rules", "forward", "message"),
    [
        ([lambda g, b: g, lambda g, c: g], product, "rule 1 of 'product' reads c: .* g, y, a, b, scale$"),
        ([lambda g, xp: g], product, "rule 0 of 'product' reads xp: .* g, y, a, b, scale$"),
        ([lambda g, i: g], product, "reads i"),
        ([lambda g, *others: g], product, r"reads \*others"),
        ([lambda g, **others: g], product, r"reads \*\*others"),
        ([lambda g, *, b: g, lambda g: g], product, "reads b: expected, by position"),
        ([lambda g, k=1, a=2: g], product, "reads a=2: expected, by position"),
        ([None] * 4, product, "'product' has 4 rules, but 3 inputs"),
        ([lambda g: g], lambda xp, y: y, "parameters of '<lambda>' need other names"),
        ([lambda g: g], lambda xp, a, *, g: a, "need other names"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_rule_is_said_when_the_op_is_declared(rules, forward, message):
    with pytest.raises(TypeError, match=message):
        primitive(*rules)(forward)


# What a user sees of an op


@pytest.mark.parametrize("name", ["multiply", "sum", "batch_norm", "cross_entropy"])
def test_signature_help_and_source_are_those_of_the_op(name):
    op = getattr(ops, name)
    signature = inspect.signature(op)
    assert "xp" not in signature.parameters
    if name in FUSED:
        assert signature == inspect.signature(FUSED[name].composition)
    assert f"def {name}(" in inspect.getsource(op)
    assert "<lambda>" not in str(signature)
    text = pydoc.plain(pydoc.render_doc(op))
    first = next(iter(signature.parameters))
    assert f"{name}({first}" in text.replace("(\n    ", "(")  # Python 3.13 breaks long lines
    assert inspect.getdoc(op).splitlines()[0] in text
    assert op.__name__ == op.__qualname__ == name


def test_source_and_signature_of_a_primitive():
    assert "lambda g, b: g * b" in inspect.getsource(ops.multiply)
    assert list(inspect.signature(ops.sum).parameters) == ["a", "axis", "keepdims"]


def test_every_call_is_sorted_as_python_would():
    x = leaf(2, 3)
    for call in (
        lambda: ops.sum(x, 0, True),
        lambda: ops.sum(x, 0, keepdims=True),
        lambda: ops.sum(x, keepdims=True, axis=0),
        lambda: ops.sum(keepdims=True, axis=0, a=x),
        lambda: x.sum(0, True),
    ):
        np.testing.assert_array_equal(call().numpy(), x.numpy().sum(0, keepdims=True))
    gamma = leaf(3, seed=1)
    for call in (
        lambda: ops.batch_norm(x, gamma, eps=0.1),
        lambda: ops.batch_norm(x, eps=0.1, gamma=gamma),
        lambda: ops.batch_norm(x, gamma, None, mean=None, eps=0.1),
        lambda: ops.batch_norm.with_saved(gamma=gamma, x=x, eps=0.1)[0],
    ):
        np.testing.assert_array_equal(
            call().numpy(), ops.batch_norm(x, gamma, None, eps=0.1).numpy()
        )


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f.multiply(1),
        lambda f: f.multiply(),
        lambda f: f.multiply(1, 2, 3),
        lambda f: f.multiply(1, 2, c=1),
        lambda f: f.multiply(1, 2, b=3),
        lambda f: f.sum(1, 0, axis=0),
        lambda f: f.sum(1, 0, 1, 2),
        lambda f: f.sum(1, axs=0),
        lambda f: f.reshape(1),
        lambda f: f.batch_norm(1, epsilon=1),
        lambda f: f.needs_k(1),
        lambda f: f.needs_k(1, 3),
        lambda f: f.needs_k(1, j=3),
    ],
)
def test_a_wrong_call_gets_pythons_own_words(call):
    with pytest.raises(TypeError) as expected:
        call(PLAIN)
    with pytest.raises(TypeError) as error:
        call(OPS)
    assert str(error.value) == str(expected.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


PLAIN = SimpleNamespace(
    multiply=lambda a, b: None,
    sum=lambda a, axis=None, keepdims=False: None,
    reshape=lambda a, shape: None,
    batch_norm=lambda x, gamma=None, beta=None, *, mean=None, var=None, eps=1e-5: None,
    needs_k=lambda a, *, k: None,
)
for name, function in vars(PLAIN).items():
    function.__qualname__ = name


@primitive(lambda g, k: g * k)
def needs_k(xp, a, *, k):
    return a * k


OPS = SimpleNamespace(**vars(ops), needs_k=needs_k)


def test_an_error_is_one_error_that_names_the_op_and_shows_its_line():
    for call in (
        lambda: leaf(2, 3) + leaf(4),
        lambda: ops.multiply(leaf(2, 3), leaf(4)),
        lambda: ops.sum(leaf(2), axis=3),
        lambda: ops.matmul(leaf(2, 3), leaf(2, 3)),
        lambda: ops.reshape(leaf(2, 3), (4,)),
        lambda: ops.add(leaf(2), "text"),
    ):
        with pytest.raises((ValueError, TypeError)) as error:
            call()
        text = "".join(traceback.format_exception(error.value))
        assert "During handling" not in text
        assert "direct cause" not in text
        assert "KeyError" not in text
    with pytest.raises(ValueError, match=r"add\(float64 \(2, 3\), float64 \(4,\)\): ") as error:
        leaf(2, 3) + leaf(4)
    assert "return a + b" in "".join(traceback.format_exception(error.value))


# Watching


def test_watch_is_told_of_every_recorded_output_right_after_it_is_made():
    x, seen = leaf(4, 3), []
    with watch(None, lambda node, array: seen.append((node, array))):
        h = ops.relu(x)
        assert [node for node, _ in seen] == [h._node]
        y = ops.batch_norm(h)
        ops.relu(x.data)  # arrays record nothing
        with tb.no_grad():
            ops.relu(x)
        y.sum().backward()
    assert [node.op.name for node, _ in seen] == ["relu", "batch_norm", "sum"]
    assert seen[0][1] is h.data
    assert seen[1][1] is y.data
    ops.relu(x)
    assert len(seen) == 3


def test_watch_sees_outputs_of_compositions_and_of_recorded_gradients():
    x, seen = leaf(4, 3), []
    with tb.use_fused(False), watch(None, lambda node, array: seen.append(node.op.name)):
        y = ops.batch_norm(x)
        assert {"mean", "sqrt", "divide"} <= set(seen)
        count = len(seen)
        tb.grad(y.sum(), x, create_graph=True)
    assert len(seen) > count + 1


def test_watch_reports_and_outputs_together_and_ends_with_its_block():
    x, reports, outputs = leaf(3), [], []
    with watch(reports.append, outputs=lambda node, array: outputs.append(node)):
        (x * x).sum().backward()
    assert [node.op.name for node in outputs] == ["multiply", "sum"]
    assert {c.node for c in reports} == set(outputs)
    assert current_mode().report is current_mode().outputs is None


# What is wrong with an op that a user declares


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        ((1, 2), "tuple"),
        (None, "NoneType"),
        ([1.0], "list"),
        (1.5, "float"),
        (tb.tensor(1.0), "Tensor"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("recorded", [True, False])
def test_a_function_that_returns_no_array_is_refused(returned, what, recorded):
    op = primitive(lambda g: g)(lambda xp, a: returned)
    x = leaf(3) if recorded else leaf(3).detach()
    with pytest.raises(
        TypeError, match=f"<lambda>: expected its array function .* array, got {what}$"
    ):
        op(x)
    if what != "float":  # a number from numbers is one
        with pytest.raises(TypeError, match="expected its array function"):
            op(draw((3,)))


def test_a_tensor_in_place_of_a_static_argument_is_refused():
    fewer = primitive(lambda g, b: g * b)(lambda xp, a, b: a * b)
    for b in (leaf(2, 3), leaf(2, 3).detach()):
        with pytest.raises(
            TypeError, match="got Tensor; b has no gradient rule, so it can't be a Tensor"
        ):
            fewer(leaf(2, 3), b)
    with pytest.raises(TypeError, match="axis has no gradient rule, so it can't be a Tensor: pass"):
        ops.sum(leaf(2, 3), axis=leaf(1))


def test_an_error_in_a_rule_names_the_op():
    @primitive(lambda g: g * z)  # noqa: F821
    def forgets_z(xp, a, z=2.0):
        return a * z

    @primitive(lambda g: g @ g)
    def odd(xp, a):
        return a * 1

    for op, kind in ((forgets_z, NameError), (odd, ValueError)):
        for order in (False, True):
            x = leaf(2, 3)
            with pytest.raises(kind) as error:
                tb.grad(op(x).sum(), x, create_graph=order)
            (note,) = error.value.__notes__
            assert note.startswith(f"in a gradient rule of {op.op.name!r}; a rule reads what")


def test_partial_functions_and_objects_are_array_functions():
    class Scaled:
        def __call__(self, xp, a):
            return a * 3

    def scaled(xp, a, k, *, b=0):
        return a * k + b

    for forward, name in (
        (functools.partial(scaled, b=1), "scaled"),
        (functools.partial(functools.partial(scaled), b=1), "scaled"),
        (Scaled(), "Scaled"),
    ):
        static = {"k": 3} if name == "scaled" else {}
        op = primitive(lambda g: 3 * g)(forward)
        assert op.op.name == name
        x = leaf(3)
        assert f"from {name}" in repr(op(x, **static))
        np.testing.assert_array_equal(tb.grad(op(x, **static).sum(), x)[0].numpy(), [3, 3, 3])
    with tb.no_grad():
        assert not op(x).requires_grad
    half = functools.partial(ops.multiply, 0.5)
    assert not tb.no_grad()(half)(x).requires_grad
    with pytest.raises(TypeError, match="can't decorate the generator 'steps'"):
        tb.no_grad()(functools.partial(steps, 3))


def steps(n):
    yield from range(n)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: primitive()(product), r"expected a rule \(or None\) per input, got none"),
        (lambda: primitive(product, 3), r"expected a rule \(or None\) per input, got"),
        (lambda: primitive(None)(3), "primitive: expected a function, got int"),
        (lambda: primitive(product)(leaf(3)), "primitive: expected a function, got Tensor"),
        (lambda: tb.fused(composition=3)(product), "composition of a fused op: expected a function"),
        (lambda: tb.fused(product)(leaf(3)), "fused: expected a function, got Tensor"),
    ],
)  # fmt: skip
def test_what_is_no_function_is_refused(declare, message):
    with pytest.raises(TypeError, match=message):
        declare()
