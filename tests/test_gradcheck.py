"""The gradient checker: it accepts what is right, and rejects every planted mistake."""

import numpy as np
import pytest
from numeric import draw, here

import tinybn as tb
from tinybn import ops
from tinybn.check import GradientError, gradcheck
from tinybn.op import primitive


def op(*rules, forward):
    """A primitive op with these rules, right or wrong."""

    two = len(rules) == 2
    named = (lambda xp, a, b: forward(a, b)) if two else (lambda xp, a: forward(a))
    named.__name__ = "planted"
    return primitive(*rules)(named)


def batch_norm_with(dx):
    """Batch norm of (N, C), eps 0.1, with a rule for x of one's own: dx(g, x_hat, r)."""

    def rule(g, a):
        r = 1 / ops.sqrt(ops.var(a, 0, keepdims=True) + 0.1)
        return dx(g, (a - ops.mean(a, 0, keepdims=True)) * r, r)

    return op(rule, forward=lambda x: (x - x.mean(0)) / np.sqrt(x.var(0) + 0.1))


def frozen(a):
    """`a` cut off from its history: right in value, wrong when it is differentiated."""
    return a.detach() if isinstance(a, tb.Tensor) else a


def mean(a):
    return ops.mean(a, 0, keepdims=True)


X = draw((5, 3))
SQUARE = draw((3, 3))
BATCH_NORM_RIGHT = batch_norm_with(lambda g, x_hat, r: r * (g - mean(g) - x_hat * mean(g * x_hat)))
NO_VARIANCE_TERM = batch_norm_with(lambda g, x_hat, r: r * (g - mean(g)))
NO_MEAN_TERM = batch_norm_with(lambda g, x_hat, r: r * (g - x_hat * mean(g * x_hat)))
CONSTANT_STATISTICS = batch_norm_with(lambda g, x_hat, r: r * g)

# The mistake, the wrong op, its right twin, the inputs, and the order at which it is wrong.
PLANTED = [
    ("times 0", op(lambda g: g * 0, forward=np.exp), op(lambda g, y: g * y, forward=np.exp), [X], 1),
    ("times 1000", op(lambda g, y: g * y * 1000, forward=np.exp), op(lambda g, y: g * y, forward=np.exp), [X], 1),
    ("sign", op(lambda g, y: -g * (1 - y * y), forward=np.tanh), op(lambda g, y: g * (1 - y * y), forward=np.tanh), [X], 1),
    ("a missing factor", op(lambda g, a: g * a, forward=lambda a: a * a), op(lambda g, a: g * 2 * a, forward=lambda a: a * a), [X], 1),
    ("off by a millionth", op(lambda g, y: g * y * (1 + 1e-6), forward=np.exp), op(lambda g, y: g * y, forward=np.exp), [X], 1),
    ("no variance term", NO_VARIANCE_TERM, BATCH_NORM_RIGHT, [X], 1),
    ("the mean as a constant", NO_MEAN_TERM, BATCH_NORM_RIGHT, [X], 1),
    ("statistics as constants", CONSTANT_STATISTICS, BATCH_NORM_RIGHT, [X], 1),
    (
        "a missing sum over the broadcast axis",
        op(lambda g: g, lambda g: g[0], forward=np.add),
        op(lambda g: g, lambda g: ops.sum(g, 0), forward=np.add),
        [X, X[0]],
        1,
    ),
    (
        "matmul transposed",
        op(lambda g, b: g @ b, lambda g, a: a.T @ g, forward=np.matmul),
        op(lambda g, b: g @ b.T, lambda g, a: a.T @ g, forward=np.matmul),
        [SQUARE, SQUARE + 1],
        1,
    ),
    (
        "right at first order, wrong at second",
        op(lambda g, a: g * 3 * frozen(a) * a, forward=lambda a: a**3),
        op(lambda g, a: g * 3 * a * a, forward=lambda a: a**3),
        [X],
        2,
    ),
    (
        "right to second order, wrong at third",
        op(lambda g, a: g * (3 * a * a + (a - frozen(a)) * (a - frozen(a))), forward=lambda a: a**3),
        op(lambda g, a: g * 3 * a * a, forward=lambda a: a**3),
        [X],
        3,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "right", "inputs", "order"), [p[1:] for p in PLANTED], ids=[p[0] for p in PLANTED]
)
def test_a_planted_mistake_is_rejected_and_its_right_twin_accepted(wrong, right, inputs, order):
    gradcheck(right, inputs, order=order)
    if order > 1:
        gradcheck(wrong, inputs, order=order - 1)
    for seed in range(3):
        with pytest.raises(GradientError, match=f"input [01] is wrong at order {order}"):
            gradcheck(wrong, inputs, order=order, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("wrong", [NO_VARIANCE_TERM, NO_MEAN_TERM])
def test_a_cotangent_of_ones_would_let_wrong_batch_norms_pass(wrong):
    def dropped(g, x_hat, r):  # of Σ y every term is 0, or cancels
        return r * (g - mean(g)) * 1000

    gradcheck(batch_norm_with(dropped), [X], cotangent=np.ones((5, 3)))
    with pytest.raises(GradientError):
        gradcheck(batch_norm_with(dropped), [X])
    if wrong is NO_VARIANCE_TERM:
        gradcheck(wrong, [X], cotangent=np.ones((5, 3)))
    with pytest.raises(GradientError):
        gradcheck(wrong, [X])


def test_the_error_shows_the_worst_elements():
    wrong = op(lambda g: g * here(np.array([1.0, 1.5, 1.0, 3.0])), forward=lambda a: 1.0 * a)
    with pytest.raises(GradientError) as error:
        gradcheck(wrong, [np.arange(4.0)], cotangent=[1.0, 2.0, 3.0, 4.0])
    lines = str(error.value).splitlines()
    assert lines[0] == (
        "gradcheck: the gradient of input 0 is wrong at order 1: 2 of 4 elements; the worst:"
    )
    assert lines[1].startswith("  [3]: expected 4, got 12; off by 8, tolerance ")
    assert lines[2].startswith("  [1]: expected 2, got 3; off by 1, tolerance ")
    assert len(lines) == 3


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1, 1e3, 1e6])
def test_right_gradients_are_accepted_at_any_scale(scale):
    x = draw((4, 3)) * scale
    for f in (
        lambda x: x * x * x,
        lambda x: 1 / (scale + x * x / scale),
        lambda x: ops.tanh(x / scale),
        lambda x: ops.log(ops.abs(x)),
        lambda x: ops.batch_norm(x, eps=1e-3 * scale**2),
        lambda x: ops.softmax(x / scale),
    ):
        gradcheck(f, [x], order=2)


@pytest.mark.parametrize("mean", [1e2, 1e4, 1e6])
def test_right_gradients_are_accepted_far_from_zero(mean):
    gradcheck(ops.batch_norm, [mean + draw((4, 2))])
    gradcheck(ops.layer_norm, [mean + draw((4, 3)), draw((3,), seed=1), draw((3,), seed=2)])


@pytest.mark.parametrize("steepness", [10, 1e3])
def test_strong_curvature_is_no_mistake(steepness):
    gradcheck(lambda x: ops.sigmoid(x * steepness), [draw((6,)) / steepness * 3], order=2)
    gradcheck(lambda x: ops.exp(-steepness * x * x), [draw((6,)) / steepness**0.5], order=2)


def test_at_a_kink_anything_between_the_slopes_is_right():
    at_kink = np.array([0.0, -1.0, 2.0])
    gradcheck(ops.relu, [at_kink])
    gradcheck(ops.abs, [at_kink])
    gradcheck(ops.maximum, [at_kink, np.array([0.0, -1.0, 1.0])])
    gradcheck(ops.max, [np.array([2.0, 1.0, 2.0])])
    for slope, fits in ((0.0, True), (0.5, True), (1.0, True), (1.1, False), (-0.1, False)):
        planted = op(
            lambda g, a, slope=slope: g * ((a > 0) + slope * (a == 0)),
            forward=lambda a: np.maximum(a, 0),
        )
        if fits:
            gradcheck(planted, [at_kink])
        else:
            with pytest.raises(GradientError, match=r"\[0\]: expected .* to .* \(a kink\), got"):
                gradcheck(planted, [at_kink])


@pytest.mark.parametrize("distance", [1e-2, 1e-5])
def test_near_a_kink_only_the_near_slope_is_right(distance):
    x = np.array([distance, -distance, 1.0])
    gradcheck(ops.relu, [x])
    half = op(lambda g: g * 0.5, forward=lambda a: np.maximum(a, 0))
    with pytest.raises(GradientError, match="3 of 3 elements"):
        gradcheck(half, [x])


def test_near_the_end_of_a_domain_smaller_steps_are_taken():
    gradcheck(ops.log, [np.array([1e-9, 1.0, 5.0])], order=2)
    gradcheck(ops.sqrt, [np.array([1e-6, 1.0, 5.0])])


def test_inputs_may_be_many_tensors_and_unused():
    a, b, unused = draw((2, 3)), tb.tensor(draw((3,))), draw((4,))
    gradcheck(lambda a, b, c: ops.exp(a) * b, [a, b, unused], order=2)
    assert b.grad is None


def test_a_function_that_is_linear_has_no_second_derivative_to_get_wrong():
    gradcheck(lambda x: 3 * x.sum(0), [X], order=3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: gradcheck(ops.exp, [X.astype(np.float32)]), TypeError, "input 0 is float32.*astype"),
        (lambda: gradcheck(ops.exp, [np.arange(3)]), TypeError, "input 0 is int64"),
        (lambda: gradcheck(ops.add, [X, [1.0, 2.0, 3.0]]), TypeError, "input 1 is float32"),
        (lambda: gradcheck(ops.exp, [np.array([1.0, np.nan])]), ValueError, "input 0 holds NaN or inf"),
        (lambda: gradcheck(ops.exp, [np.ones((0, 3))]), ValueError, r"input 0 of shape \(0, 3\) has no"),
        (lambda: gradcheck(ops.exp, []), TypeError, "at least one input, got list of none"),
        (lambda: gradcheck(ops.exp, X), TypeError, "list or tuple of at least one input, got ndarray"),
        (lambda: gradcheck(ops.exp, [X], order=0), ValueError, "order of 1, 2, …, got 0"),
        (lambda: gradcheck(ops.exp, [X], order=1.5), ValueError, "got 1.5"),
        (lambda: gradcheck(ops.log, [X]), ValueError, "output of fn holds NaN"),
        (lambda: gradcheck(lambda x: x.numpy(), [X]), TypeError, "return a Tensor, got ndarray"),
        (lambda: gradcheck(lambda x: x.detach(), [X]), ValueError, "does not depend on the inputs"),
        (lambda: gradcheck(lambda x: x.astype(np.float32), [X]), TypeError, "return float64, got float32"),
        (lambda: gradcheck(lambda x: x * np.random.default_rng().random(), [X]), ValueError, "two outputs for the same inputs"),
        (lambda: gradcheck(ops.exp, [X], cotangent=np.ones(3)), ValueError, r"cotangent of shape \(5, 3\).*got \(3,\)"),
    ],
)  # fmt: skip
def test_what_can_not_be_checked_is_refused(call, kind, message):
    with np.errstate(invalid="ignore"), pytest.raises(kind, match="gradcheck: .*" + message):
        call()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("gap", [5, 10, 11, 12, 15, 20, 30, 40])
def test_a_small_result_of_large_intermediates_is_no_mistake(gap, order):
    """The loss is about exp(-gap), but made of 1 + exp(-gap), whose rounding it inherits."""
    for logits in ([[gap, 0.0, -1.0]], [[gap, gap - 1.0, 0.0], [0.0, 0.0, 1.0]]):
        labels = np.zeros(len(logits), int)
        gradcheck(
            lambda z, y=labels: ops.cross_entropy(z, y),
            [here(np.array(logits, float))],
            order=order,
        )


@pytest.mark.parametrize("gap", [1, 11, 15])
@pytest.mark.parametrize(
    "mistake", [lambda g: 1.001 * g, lambda g: (1 + 1e-5) * g, lambda g: g + 1e-6], ids=[1, 2, 3]
)
def test_small_mistakes_in_small_gradients_are_rejected(mistake, gap):
    @primitive(mistake)
    def same(xp, a):
        return a * 1

    logits = here(draw((3, 4)) + gap * np.eye(3, 4))
    with pytest.raises(GradientError):
        gradcheck(lambda z: ops.cross_entropy(same(z), np.arange(3)), [logits])
