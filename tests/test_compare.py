"""The comparison accepts what is right, and rejects a closed form or a composition that is not."""

import json
import sys

import compare_gradients
import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import ops
from tinybn.check import GradientError, cases, compare
from tinybn.fusion import FUSED
from tinybn.op import primitive


def scaled(x):
    """Batch norm without ε, gamma or beta."""
    return ops.batch_norm(x, eps=0.0)


def forward(xp, x):
    d = x - x.mean(0)
    r = 1 / xp.sqrt((d * d).mean(0))
    return d * r, (d * r, r)


def right(xp, needed, g, saved, x):
    y, r = saved
    return (r * (g - g.mean(0) - y * (g * y).mean(0)),)


@pytest.fixture(autouse=True, params=[np.longdouble, np.float64])
def _reference(request, monkeypatch):
    """Every test passes where longdouble is float64, too."""
    monkeypatch.setattr(sys.modules["tinybn.check.compare"], "EXACT", np.dtype(request.param))


def misses(rows):
    return {(r.method, r.dtype, r.order) for r in rows if r.verdict not in ("ok", "")}


X = draw((6, 3))


def test_a_right_closed_form_is_accepted_on_every_dtype_and_order(planted):
    rows = compare(planted(scaled, forward, right), [X])
    assert misses(rows) == set()
    assert rows.check() is rows
    head, *lines = str(rows).splitlines()
    assert head.split()[:3] == ["op", "backend", "dtype"]
    assert len(lines) == len(rows)
    assert all(line.endswith("ok") for line in lines)
    assert {(r.method, r.dtype) for r in rows} == {
        (m, d) for m in ("fused", "composition") for d in ("float32", "float64")
    } | {("differences", "float64")}
    assert {r.order for r in rows} == {0, 1, 2, 3}
    assert all(r.max_ulp < 16 for r in rows if r.method == "fused")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda xp, needed, g, saved, x: (g * 0,),
        lambda xp, needed, g, saved, x: (right(xp, needed, g, saved, x)[0] * 1000,),
        lambda xp, needed, g, saved, x: (-right(xp, needed, g, saved, x)[0],),
        lambda xp, needed, g, saved, x: (right(xp, needed, g, saved, x)[0] * (1 + 1e-5),),
        lambda xp, needed, g, saved, x: (saved[1] * (g - g.mean(0)),),  # no variance
        lambda xp, needed, g, saved, x: (saved[1] * (g - saved[0] * (g * saved[0]).mean(0)),),
        lambda xp, needed, g, saved, x: (saved[1] * g,),  # the statistics as constants
    ],
)
def test_a_wrong_closed_form_is_rejected_at_the_order_where_it_is_wrong(planted, wrong):
    rows = compare(planted(scaled, forward, wrong), [X], orders=2)
    with pytest.raises(
        GradientError, match=r"\d+ of \d+ results are off:\n\nop  .*verdict\n"
    ) as error:
        rows.check()
    assert str(error.value).count("MISS") == len(rows.misses) > 0
    assert misses(rows) == {("fused", "float32", 1), ("fused", "float64", 1)}


def test_a_wrong_output_is_rejected(planted):
    def off(xp, x):
        y, saved = forward(xp, x)
        return y * (1 + 1e-11), saved

    rows = compare(planted(scaled, off, right), [X], orders=1)
    assert misses(rows) == {("fused", "float64", 0)}  # in float32, 1 + 1e-11 is 1


def test_shapes_are_compared_before_numbers(planted):
    def extended(xp, x):
        y, saved = forward(xp, x)
        return y[None], saved

    def backward(xp, needed, g, saved, x):
        return right(xp, needed, g[0], saved, x)

    rows = compare(planted(scaled, extended, backward), [X], orders=1)
    bad = [r for r in rows if r.verdict not in ("ok", "")]
    assert {(r.method, r.order) for r in bad} == {("fused", 0)}
    assert bad[0].verdict == "got float32 (1, 6, 3), expected float32 (6, 3)"
    assert np.isnan(bad[0].max_ulp)


def test_a_gradient_of_the_wrong_shape_stops_the_engine(planted):
    def narrow(xp, needed, g, saved, x):
        return (right(xp, needed, g, saved, x)[0][:3],)

    with pytest.raises(TypeError, match=r"rule 0 of 'planted'.*its shape is \(3, 3\)"):
        compare(planted(scaled, forward, narrow), [X], orders=1)


def test_a_wrong_dtype_is_rejected(planted):
    def wide(xp, x):
        y, saved = forward(xp, x)
        return y.astype(np.float64), saved

    rows = compare(planted(scaled, wide, right), [X], orders=0)
    assert misses(rows) == {("fused", "float32", 0)}


def test_a_composition_with_a_wrong_rule_is_caught_by_differences(planted):
    @primitive(lambda g, a: g * a)  # half of it
    def square(xp, a):
        return a * a

    op = planted(
        lambda x: square(x),
        lambda xp, x: (x * x, ()),
        lambda xp, needed, g, saved, x: (g * x,),
    )
    assert misses(compare(op, [X], orders=1)) == {("differences", "float64", 1)}


def test_a_rule_that_is_wrong_at_second_order_is_caught_by_differences(planted):
    @primitive(lambda g, a: g * 3 * a * (a.detach() if isinstance(a, tb.Tensor) else a))
    def cube(xp, a):
        return a**3

    op = planted(
        lambda x: cube(x),
        lambda xp, x: (x**3, ()),
        lambda xp, needed, g, saved, x: (3 * g * x * x,),
    )
    assert misses(compare(op, [X], orders=2)) == {("differences", "float64", 2)}


def test_a_rival_is_shown_without_a_verdict():
    def rival(arrays, weights, orders):
        return [[arrays[0] * 0], [arrays[0]]]

    rows = [
        r for r in compare("rms_norm", [X], orders=1, rivals={"zero": rival}) if r.method == "zero"
    ]
    assert [(r.dtype, r.order, r.verdict) for r in rows] == [
        (d, k, "") for d in ("float32", "float64") for k in (0, 1)
    ]
    assert rows[0].max_rel == 1


def test_a_gradient_that_is_zero_is_measured_by_the_order_below():
    """With one class, the loss is 0 for all logits, and so are its derivatives but for rounding."""
    labels = {"labels": np.zeros(3, int)}
    assert {r.verdict for r in compare("cross_entropy", [30 * draw((3, 1))], labels)} == {"ok"}


def test_a_gradient_that_is_all_cancellation_is_measured_by_its_terms():
    x = draw((2, 3))
    rows = compare("batch_norm", [x, draw((3,), seed=1)], orders=1)
    (row,) = [
        r for r in rows if (r.method, r.dtype, r.order, r.input) == ("fused", "float32", 1, "x")
    ]
    assert row.max_rel > 1e-5  # of what is left, nothing is exact
    assert row.max_ulp < 4


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: compare("relu", [X]), TypeError, "'relu' has no composition.*batch_norm"),
        (lambda: compare(ops.relu, [X]), TypeError, "relu has no composition"),
        (lambda: compare(3, [X]), TypeError, "int has no composition"),
        (lambda: compare("rms_norm", [np.arange(3)]), ValueError, r"got int64 \(3,\)"),
        (lambda: compare("rms_norm", [np.array([1.0, np.inf])]), ValueError, "with NaN or inf"),
        (lambda: compare("batch_norm", [X, np.ones(4)]), ValueError, r"gamma of shape \(3,\)"),
        (lambda: compare("linear", [X, np.ones((4, 2))]), ValueError, "does not fit weight"),
        (lambda: compare("group_norm", [X]), TypeError, "groups"),
    ],
)  # fmt: skip
def test_what_can_not_be_compared_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_every_fused_op_has_cases_and_one_without_is_named(planted):
    declared = cases()
    assert {case.op for case in declared} == set(FUSED)
    for op in ("batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"):
        own = [case for case in declared if case.op == op]
        assert any("mean 1e4" in case.label for case in own)
        assert any("constant" in case.label for case in own)
        assert any(0 in case.inputs[1] for case in own if len(case.inputs) > 1)
    planted(scaled, forward, right)
    with pytest.raises(LookupError, match="planted"):
        cases()


def test_the_command_writes_its_files_and_prints_a_verdict(tmp_path, capsys):
    status = compare_gradients.main(
        ["--op", "cross_entropy", "--orders", "1", "--out", str(tmp_path)]
    )
    assert status == 0
    printed = capsys.readouterr().out
    assert "results are right" in printed
    rows = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert {row["op"] for row in rows} == {"cross_entropy"}
    assert (tmp_path / "errors.png").stat().st_size > 10_000


def test_the_command_exits_with_1_on_a_miss(tmp_path, capsys, monkeypatch):
    op = FUSED["cross_entropy"]
    closed_form = op.closed_form
    monkeypatch.setattr(
        op, "closed_form", lambda *args, **kw: (closed_form(*args, **kw)[0] * 1.001,)
    )
    arguments = ["--op", "cross_entropy", "--orders", "1", "--out", str(tmp_path), "--no-plot"]
    assert compare_gradients.main(arguments) == 1
    assert "MISS" in capsys.readouterr().out
