"""What checks gradients takes CuPy's arrays, and finds CuPy as exact as NumPy."""

import cupy as cp
import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import ops
from tinybn.check import cases, compare, explain_batch_norm, gradcheck

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=[f"{c.op} {c.label}" for c in CASES])
def test_every_fused_op_is_as_exact_on_both_backends(case):
    rows = compare(
        case.op, case.inputs, case.static, orders=1, backends=["numpy", "cupy"], differences=False
    )
    assert {(r.backend, r.method) for r in rows} == {
        (b, m) for b in ("numpy", "cupy") for m in ("fused", "composition")
    }
    assert [r for r in rows if r.verdict != "ok"] == []


def test_compare_takes_cupys_arrays_as_inputs_and_keywords():
    x, gamma, mean, var = (
        cp.asarray(draw(shape, domain))
        for shape, domain in [((6, 3), "any"), ((3,), "any"), ((3,), "any"), ((3,), "positive")]
    )
    rows = compare(
        "batch_norm", [x, tb.tensor(gamma)], {"mean": mean, "var": var}, backends=["cupy"]
    )
    assert {r.verdict for r in rows} == {"ok"}


def test_gradcheck_takes_inputs_and_cotangents_of_both():
    x, v = draw((5, 3)), draw((5, 3), seed=1)
    gradcheck(ops.batch_norm, [cp.asarray(x)], order=2)
    gradcheck(ops.layer_norm, [tb.tensor(x)], cotangent=cp.asarray(v))
    gradcheck(ops.exp, [x], cotangent=tb.tensor(v))
    gradcheck(
        lambda a, b: a.to("cupy") * b,
        [tb.tensor(x, backend="numpy"), tb.tensor(v, backend="cupy")],
    )


def test_the_paths_of_batch_norm_are_explained_on_the_host():
    x, dy = draw((6, 3), dtype=np.float32), draw((6, 3), seed=1, dtype=np.float32)
    on_cupy = explain_batch_norm(cp.asarray(x), tb.tensor(dy), cp.ones(3, np.float32))
    for mine, theirs in zip(on_cupy, explain_batch_norm(x, dy), strict=True):
        np.testing.assert_array_equal(mine, theirs)
