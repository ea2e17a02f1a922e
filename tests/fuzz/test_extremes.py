"""Zeros, subnormal and the largest numbers, infinities and NaN, in every op and float dtype.

A number that comes out is right, or it is not finite: nothing wrong looks like a number.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinybn as tb
from fuzz.examples import share
from tinybn import ops
from tinybn.fusion import FUSED

pytestmark = pytest.mark.host("about NumPy's numbers; a GPU flushes some of the subnormal ones")

DTYPES = st.sampled_from([np.float16, np.float32, np.float64])

UNARY = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "abs": np.abs,
    "sign": np.sign,
    "negative": np.negative,
    "relu": lambda a: np.maximum(a, 0),
    "clip": lambda a: np.clip(a, -1.0, 2.0),
    "sigmoid": lambda a: np.where(a < 0, np.exp(a) / (1 + np.exp(a)), 1 / (1 + np.exp(-a))),
}
BINARY = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
COMPARISONS = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]
STATIC = {"clip": (-1.0, 2.0)}

RELATIVE = {
    "sum": lambda a: a.sum(-1),
    "mean": lambda a: a.mean(-1),
    "max": lambda a: a.max(-1),
    "min": lambda a: a.min(-1),
    "var": lambda a: a.var(-1),
    "logsumexp": lambda a: a.max(-1) + np.log(np.exp(a - a.max(-1, keepdims=True)).sum(-1)),
    "softmax": lambda a: _exp(a) / _exp(a).sum(-1, keepdims=True),
    "log_softmax": lambda a: _centred(a) - np.log(_exp(a).sum(-1, keepdims=True)),
}
"""Of the last axis, in long doubles."""


def _centred(a):
    return a - a.max(-1, keepdims=True)


def _exp(a):
    return np.exp(_centred(a))


@st.composite
def numbers(draw, dtype, count):
    """Numbers of a dtype from everywhere, the ends of its range above all."""
    info = np.finfo(dtype)
    ends = [0.0, info.smallest_subnormal, info.tiny, info.eps, info.max, np.inf, np.nan, 1.0]
    width = 8 * np.dtype(dtype).itemsize
    one = st.one_of(
        st.sampled_from([0.0, float(info.max), np.inf, -np.inf]),
        st.sampled_from([float(s * e) for e in ends for s in (1, -1)]),
        st.floats(-4, 4, width=width),
        st.floats(width=width),
    )
    return np.array(draw(st.lists(one, min_size=count, max_size=count)), dtype)


def close(found, expected, ulps, absolute=0.0):
    """`found` is `expected` (in long doubles) in its own dtype, or not finite."""
    info = np.finfo(found.dtype)
    with np.errstate(all="ignore"):
        rounded = expected.astype(found.dtype)
        error = np.abs(found.astype(np.longdouble) - expected)
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    bound = ulps * info.eps * np.abs(expected) + 4 * info.smallest_subnormal + absolute
    near = error <= bound
    lost = ~np.isfinite(found)
    assert np.all(same | near | lost), f"expected {expected}, got {found}"
    assert np.isnan(found)[np.isnan(rounded)].all(), f"NaN lost: {expected} became {found}"


@share(2)
@given(st.sampled_from([*UNARY]), DTYPES, st.data())
def test_one_input(name, dtype, data):
    a = data.draw(numbers(dtype, 4))
    with np.errstate(all="ignore"):
        y = getattr(ops, name)(tb.tensor(a), *STATIC.get(name, ())).numpy()
        expected = UNARY[name](a.astype(np.longdouble))
    assert y.dtype == dtype
    close(y, expected, 4)


@share(2)
@given(st.sampled_from([*BINARY]), DTYPES, st.data())
def test_two_inputs(name, dtype, data):
    """Of primitive ops, NumPy's own answer."""
    a, b = data.draw(numbers(dtype, 4)), data.draw(numbers(dtype, 4))
    with np.errstate(all="ignore"):
        y = getattr(ops, name)(tb.tensor(a), tb.tensor(b)).numpy()
        expected = BINARY[name](a, b)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, expected)


@share(0.5)
@given(st.sampled_from(COMPARISONS), DTYPES, st.data())
def test_comparisons(name, dtype, data):
    a, b = data.draw(numbers(dtype, 4)), data.draw(numbers(dtype, 4))
    y = getattr(ops, name)(tb.tensor(a), b).numpy()
    np.testing.assert_array_equal(y, getattr(np, name)(a, b))
    assert y.dtype == bool


@share(3)
@given(st.sampled_from([*RELATIVE]), DTYPES, st.integers(1, 4), st.data())
def test_reductions(name, dtype, count, data):
    """Finite numbers give right ones, or what is not finite; NaN stays NaN."""
    a = data.draw(numbers(dtype, count))
    with np.errstate(all="ignore"):
        y = getattr(ops, name)(tb.tensor(a), axis=-1).numpy()
        expected = np.asarray(RELATIVE[name](a.astype(np.longdouble)))
    assert y.dtype == dtype
    if np.isfinite(a).all():
        scale = np.abs(a.astype(np.longdouble)).max()
        squared = scale**2 if name == "var" else scale
        bounded = name == "softmax"
        close(y, expected, 16, 8 * np.finfo(dtype).eps * (1 if bounded else squared))
    elif np.isnan(a).any():
        assert np.isnan(y).any()


NORMS = {
    "layer_norm": lambda x: ops.layer_norm(x, eps=1e-5),
    "rms_norm": lambda x: ops.rms_norm(x, eps=1e-5),
    "batch_norm": lambda x: ops.batch_norm(x.reshape(-1, 1)),
    "sync_batch_norm": lambda x: tb.distributed.sync_batch_norm(
        x.reshape(-1, 1), comm=tb.distributed.ALONE
    ),
    "group_norm": lambda x: ops.group_norm(x, 1),
    "instance_norm": lambda x: ops.instance_norm(x.reshape(1, 1, -1)),
    "cross_entropy": lambda x: ops.cross_entropy(x, np.array([1])),
    "linear": lambda x: ops.linear(x, np.eye(4, 3).astype(x.dtype)),
}


def test_every_fused_op_is_here():
    assert NORMS.keys() == FUSED.keys()


def both(name, a):
    """The output and the gradient, fused and composed."""
    for fused in (True, False):
        with tb.use_fused(fused), np.errstate(all="ignore"):
            x = tb.tensor(a[None], requires_grad=True)
            y = NORMS[name](x)
            (g,) = tb.grad(y, x, np.linspace(-1, 2, y.size).reshape(y.shape))
        assert y.dtype == g.dtype == a.dtype
        yield y.numpy(), g.numpy()


@pytest.mark.parametrize("name", [*NORMS])
@share(0.4)
@given(DTYPES, st.data())
def test_nan_stays(name, dtype, data):
    """One NaN in what is normalized makes all of it NaN, and the gradient, too."""
    a = data.draw(numbers(dtype, 4))
    a[data.draw(st.integers(0, 3))] = np.nan
    for y, g in both(name, a):
        assert np.isnan(y).any()
        assert name == "linear" or np.isnan(g).any()


@pytest.mark.parametrize("name", [*NORMS])
@share(0.4)
@given(DTYPES, st.data())
def test_fused_is_composed_at_moderate_ends(name, dtype, data):
    """Without overflow of squares, both give the same, in float16, too."""
    info = np.finfo(dtype)
    ends = [0.0, info.smallest_subnormal, info.tiny, info.eps, 1.0, 100.0, -300.0, 7.5]
    a = np.array(data.draw(st.lists(st.sampled_from(ends), min_size=4, max_size=4)), dtype)
    (y0, g0), (y1, g1) = both(name, a)
    for found, expected in ((y0, y1), (g0, g1)):
        scale = 1 + np.abs(expected.astype(float)).max()
        np.testing.assert_allclose(
            found, expected, rtol=1e-2 if dtype == np.float16 else 2e-3, atol=64 * info.eps * scale
        )


@pytest.mark.parametrize("name", [*NORMS])
@share(0.4)
@given(DTYPES, st.data())
def test_fused_and_composed_are_lost_together(name, dtype, data):
    """The one is NaN or infinite where the other is."""
    a = data.draw(numbers(dtype, 4))
    (y0, g0), (y1, g1) = both(name, a)
    np.testing.assert_array_equal(np.isfinite(y0), np.isfinite(y1))
    np.testing.assert_array_equal(np.isfinite(g0), np.isfinite(g1))
