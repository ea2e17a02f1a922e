"""The paths of the gradient of batch norm: by hand, and against the closed form."""

import numpy as np
import pytest
from numeric import draw, here

import tinybn as tb
from tinybn import ops
from tinybn.check import explain_batch_norm

COOKIES = [[2.0], [10.0], [6.0]]


def test_the_cookie_comes_out_to_six_digits():
    e = explain_batch_norm(COOKIES, [[1.0], [0.0], [0.0]], eps=0.0)
    for found, expected in (
        (e.mean, [6]),
        (e.variance, [10.666667]),
        (e.x_hat, [-1.224745, 1.224745, 0]),
        (e.direct, [0.306186, 0, 0]),
        (e.through_mean, [-0.102062, -0.102062, -0.102062]),
        (e.through_variance, [-0.153093, 0.153093, 0]),
        (e.through_both, [0, 0, 0]),
        (e.total, [0.051031, 0.051031, -0.102062]),
        (e.closed_form, [0.051031, 0.051031, -0.102062]),
    ):
        np.testing.assert_allclose(found.ravel(), expected, atol=5e-7)
    assert (e.through_both == 0).all()


def test_the_path_that_is_0_stays_within_rounding_far_from_zero():
    x, dy = 1e4 + draw((64, 3)), draw((64, 3), seed=1)
    e = explain_batch_norm(x.astype(np.float32), dy.astype(np.float32))
    assert np.abs(e.through_both).max() < 1e-8 * np.abs(e.direct).max()


def test_the_cookie_is_printed_with_its_numbers():
    text = str(explain_batch_norm(COOKIES, [[1.0], [0.0], [0.0]], eps=0.0))
    assert "  through the variance    -0.153093   0.153093   0.000000   norm 0.216506\n" in text
    assert "  sum                      0.051031   0.051031  -0.102062   norm 0.125\n" in text
    assert "The closed form is at most" in text


@pytest.mark.parametrize("shape", [(6, 3), (2, 3), (4, 3, 5), (2, 3, 4, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_the_paths_add_up_to_the_gradient(shape, dtype, tolerance):
    x, dy = draw(shape, dtype=dtype), draw(shape, seed=1, dtype=dtype)
    gamma = draw((3,), seed=2, dtype=dtype)
    gamma[1] = 0
    e = explain_batch_norm(x, tb.tensor(dy), gamma, eps=0.1)
    t = tb.tensor(x, requires_grad=True)
    (expected,) = tb.grad(ops.batch_norm(t, here(gamma), eps=0.1), t, here(dy))
    paths = e.direct + e.through_mean + e.through_variance + e.through_both
    for found in (paths, e.total, e.closed_form):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected.numpy(), atol=tolerance)
    np.testing.assert_allclose(e.through_both, 0, atol=tolerance)
    axis = (0, *range(2, len(shape)))
    r = 1 / np.sqrt(x.var(axis, keepdims=True) + 0.1)
    np.testing.assert_allclose(e.direct, r * e.dy, atol=tolerance)
    through_mean = np.broadcast_to(-r * e.dy.mean(axis, keepdims=True), shape)
    np.testing.assert_allclose(e.through_mean, through_mean, atol=tolerance)


def test_many_values_are_printed_as_norms():
    text = str(explain_batch_norm(draw((64, 4)), draw((64, 4), seed=1)))
    assert len(text.splitlines()) == 9
    assert all(len(line) < 80 for line in text.splitlines())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: explain_batch_norm(COOKIES, [1.0, 0.0, 0.0]), r"dy of shape \(3, 1\).*got \(3,\)"),
        (lambda: explain_batch_norm([1.0, 2.0], [1.0, 2.0]), r"x of shape \(N, C\)"),
        (lambda: explain_batch_norm(COOKIES, COOKIES, [1.0, 2.0]), r"gamma of shape \(1,\)"),
        (lambda: explain_batch_norm([[1.0]], [[1.0]]), "one value per channel"),
        (lambda: explain_batch_norm(COOKIES, COOKIES, eps=-1), "eps >= 0"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
