"""Random graphs in every dtype, and in mixtures: dtypes as documented, and numbers of float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import tinybn as tb
from fuzz.examples import share
from fuzz.graphs import TABLE, graphs

pytestmark = pytest.mark.host("the dtypes of NumPy")

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
OTHERS = st.sampled_from([np.int8, np.uint8, np.int32, np.int64, np.bool_])
TOLERANCE = {np.float16: 0.1, np.float32: 2e-4, np.float64: 1e-8}


def run(graph, arrays, fused):
    """The values, and the gradients of a mixture of the floating-point ones."""
    with tb.use_fused(fused), np.errstate(all="ignore"):
        xs = [tb.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
        values = graph.values(xs, TABLE)
        rng = np.random.default_rng(graph.seed)
        weights = [rng.standard_normal(v.shape) for v in values]
        terms = [
            (v.astype(np.float64) * w).sum()
            for v, w in zip(values, weights, strict=True)
            if v.requires_grad
        ]
        leaves = [x for x in xs if x.requires_grad]
        gs = tb.grad(terms, leaves, allow_unused=True)
    for x, g in zip(leaves, gs, strict=True):
        assert g is not None
        assert (g.dtype, g.shape) == (x.dtype, x.shape)
    return values, gs


def check_close(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        a, b = a.numpy().astype(float), b.numpy().astype(float)
        scale = tolerance * (1 + np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=scale)


@share(2.5)
@given(graphs(low=0, most=5), FLOATS)
def test_one_dtype(graph, dtype):
    """It stays, in values and gradients, fused and composed, near to the numbers of float64."""
    arrays = [a.astype(dtype) for a in graph.leaves()]
    values, gradients = run(graph, arrays, True)
    assert {v.dtype for v in values} == {np.dtype(dtype)}
    others, slopes = run(graph, arrays, False)
    assert [v.dtype for v in others] == [v.dtype for v in values]
    check_close(values, others, TOLERANCE[dtype])
    wide, wide_slopes = run(graph, [a.astype(np.float64) for a in arrays], True)
    if dtype != np.float16 and not any(_jumps(step) for step in graph.steps):
        check_close(values, wide, TOLERANCE[dtype])
        check_close(gradients, wide_slopes, 50 * TOLERANCE[dtype])
        check_close(slopes, wide_slopes, 50 * TOLERANCE[dtype])


def _jumps(step):
    """Whether rounding can choose another branch, which has another slope."""
    return step.kind in {"max", "min", "maximum", "minimum", "where", "sign", "abs", "relu", "clip"}


@share(2.5)
@given(graphs(most=4), st.data())
def test_mixed_dtypes(graph, data):
    """Fused and composed give the same dtypes and numbers, or refuse together."""
    chosen = [data.draw(FLOATS)]
    chosen += [data.draw(FLOATS | OTHERS) for _ in graph.shapes[1:]]
    arrays = [
        (a if np.dtype(d).kind == "f" else np.abs(a * 3)).astype(d)
        for a, d in zip(graph.leaves(), chosen, strict=True)
    ]
    outcomes = []
    for fused in (True, False):
        try:
            outcomes.append(run(graph, arrays, fused))
        except (TypeError, ValueError) as error:
            event("refused")
            outcomes.append(str(error).splitlines()[0])
    first, second = outcomes
    if isinstance(first, str) or isinstance(second, str):
        assert first == second
        return
    for a, b in zip(first[0], second[0], strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
    coarsest = max((d for d in chosen if np.dtype(d).kind == "f"), key=lambda d: TOLERANCE[d])
    check_close(first[0], second[0], TOLERANCE[coarsest])
    if coarsest != np.float16:
        check_close(first[1], second[1], 50 * TOLERANCE[coarsest])
