"""Proofs succeed for what is equal, fail for what is not, and their counterexamples are true."""

import re
import sys

import compare_gradients
import numpy as np
import prove as prove_command
import pytest

import tinybn as tb
from tinybn import ops
from tinybn.check import cases, compare, prove, small_cases
from tinybn.fusion import FUSED
from tinybn.op import primitive
from tinybn.ops.reduction import recentre
from tinybn.program import program, without_dead

sympy = pytest.importorskip("sympy")

from tinybn.check.algebra import EPS, Algebra  # noqa: E402
from tinybn.check.symbolic import filled, run, symbolic  # noqa: E402


@pytest.mark.parametrize("n", [2, 3])
def test_every_fused_op_is_proved_up_to_second_order(n):
    for op, label, inputs, static in small_cases(n):
        claims = prove(op, inputs, static)
        assert [claim.order for claim in claims] == [0, 1, 2], (op, label)
        assert all(claim.proved and not claim.counterexample for claim in claims), (op, label)
    assert {case.op for case in small_cases(n)} == set(FUSED)


def test_batch_norm_is_proved_at_third_order():
    x, gamma, beta = np.zeros((3, 1)), np.zeros(1), np.zeros(1)
    claims = prove(ops.batch_norm, [x, gamma, beta], orders=3)
    assert [claim.proved for claim in claims] == [True] * 4
    assert re.fullmatch(
        r"batch_norm of x \(3, 1\), gamma \(1,\), beta \(1,\), order 3, \d+\.\d s: proved",
        str(claims[3]),
    )


def test_only_the_shapes_of_inputs_matter():
    claims = prove("linear", [[[1, 2]], tb.tensor([[3.0], [4.0]])], orders=1)
    assert [(claim.inputs, claim.proved) for claim in claims] == [
        ("x (1, 2), weight (2, 1)", True)
    ] * 2


# planted closed forms


def norm(axis):
    """Batch norm (axis 0) or layer norm (1) of x (N, C), gamma (C,) and beta (C,)."""

    def composition(x, gamma, beta, *, eps=1e-5):
        op = (ops.batch_norm, ops.layer_norm)[axis]
        return op(x, gamma, beta, eps=eps)

    return composition


def closed_form(axis=0, lost=0, r=lambda xp, var, eps: 1 / xp.sqrt(var + eps)):
    def forward(xp, x, gamma, beta, *, eps):
        d = x - x.mean(axis, keepdims=True)
        var = (d * d).sum(axis, keepdims=True) / (x.shape[axis] - lost)
        x_hat = d * r(xp, var, eps)
        return gamma * x_hat + beta, (x_hat, r(xp, var, eps))

    return forward


def gradients(dx, dgamma=lambda g, x_hat: (g * x_hat).sum(0), dbeta=lambda g: g.sum(0)):
    """dx is a function of g, x_hat, r, gamma, and of a mean along the right axis."""

    def backward(xp, needed, g, saved, x, gamma, beta, *, eps):
        x_hat, r = saved

        def mean(a):
            return a.mean(0 if r.shape[0] == 1 else 1, keepdims=True)

        return dx(g, x_hat, r, gamma, mean), dgamma(g, x_hat), dbeta(g)

    return backward


def batch(g, x_hat, r, gamma, mean):
    return gamma * r * (g - mean(g) - x_hat * mean(g * x_hat))


def layer(g, x_hat, r, gamma, mean):
    g = gamma * g
    return r * (g - mean(g) - x_hat * mean(g * x_hat))


@pytest.mark.parametrize(("axis", "dx"), [(0, batch), (0, layer), (1, layer)])
def test_a_right_closed_form_is_proved(planted, axis, dx):
    op = planted(norm(axis), closed_form(axis), gradients(dx))
    assert all(claim.proved for claim in prove(op, [np.zeros((3, 2)), np.zeros(2), np.zeros(2)]))


WRONG = {
    "no mean": lambda g, h, r, gamma, mean: gamma * r * (g - h * mean(g * h)),
    "no variance": lambda g, h, r, gamma, mean: gamma * r * (g - mean(g)),
    "statistics as constants": lambda g, h, r, gamma, mean: gamma * r * g,
    "sign": lambda g, h, r, gamma, mean: gamma * r * (g - mean(g) + h * mean(g * h)),
    "n - 1": lambda g, h, r, gamma, mean: gamma * r * (g - mean(g) - h * mean(g * h) * 3 / 2),
    "no r": lambda g, h, r, gamma, mean: gamma * (g - mean(g) - h * mean(g * h)),
    "zero": lambda g, h, r, gamma, mean: g * 0,
    "a digit": lambda *a: batch(*a) * (1 + 1e-12),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_gradient_is_refuted(planted, mistake):
    op = planted(norm(0), closed_form(), gradients(WRONG[mistake]))
    check_refuted(op, order=1, tolerance=1e-14 if mistake == "a digit" else 1e-2)


def test_gamma_outside_of_the_sums_is_wrong_in_layer_norm(planted):
    check_refuted(planted(norm(1), closed_form(1), gradients(batch)), order=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dgamma": lambda g, x_hat: (g * x_hat).mean(0)},
        {"dgamma": lambda g, x_hat: x_hat.sum(0)},
        {"dbeta": lambda g: g.mean(0)},
        {"dbeta": lambda g: g[0] + 2 * g[1] + g[2]},
    ],
)
def test_wrong_gradients_of_the_parameters_are_refuted(planted, wrong):
    check_refuted(planted(norm(0), closed_form(), gradients(batch, **wrong)), order=1)


@pytest.mark.parametrize(
    "forward",
    [
        closed_form(lost=1),
        closed_form(r=lambda xp, var, eps: 1 / xp.sqrt(var)),
        closed_form(r=lambda xp, var, eps: 1 / (xp.sqrt(var) + eps)),
        closed_form(r=lambda xp, var, eps: 1 / (var + eps)),
    ],
    ids=["n - 1", "no eps", "eps outside of the root", "no root"],
)
def test_a_wrong_output_is_refuted(planted, forward):
    check_refuted(planted(norm(0), forward, gradients(batch)), order=0)


def check_refuted(op, order, tolerance=1e-2):
    """The last claim has a counterexample, and what it says is what float64 says."""
    *proved, claim = prove(op, [np.zeros((3, 2)), np.zeros(2), np.zeros(2)])
    assert all(c.proved for c in proved)
    assert not claim.proved
    assert claim.order == order
    inputs, element, values = claim.counterexample
    assert list(inputs) == ["eps", "x", "gamma", "beta", "dy"][: 4 + order]
    assert max(abs(a).max() for a in inputs.values()) <= 3
    assert str(claim).endswith(f"refuted: {claim.counterexample}")
    assert all(f"{value} by the {method}" in str(claim) for method, value in values.items())
    found = {}
    for method, closed in (("fused op", True), ("composition", False)):
        x, gamma, beta = (
            tb.tensor(inputs[name].astype(float), requires_grad=True)
            for name in ("x", "gamma", "beta")
        )
        with tb.use_fused(closed):
            y = op(x, gamma, beta, eps=float(inputs["eps"]))
            results = {"output": y}
            if order:
                gs = tb.grad(y, [x, gamma, beta], inputs["dy"].astype(float))
                results = dict(zip(["d_x", "d_gamma", "d_beta"], gs, strict=True))
        label, *index = re.findall(r"\w+", element)
        found[method] = results[label].numpy()[tuple(map(int, index))]
        np.testing.assert_allclose(found[method], float(values[method]), rtol=1e-13, atol=1e-15)
    assert abs(found["fused op"] - found["composition"]) > tolerance


def test_shapes_are_compared_too(planted):
    def forward(xp, x):
        return x[None], ()

    op = planted(lambda x: x * 1, forward, lambda xp, needed, g, saved, x: (g[0],))
    with pytest.raises(ValueError, match=r"the shape of result 0 is \(1, 2\) by the fused op"):
        prove(op, [np.zeros(2)])


# what a closed form and its composition have in common can be wrong, too


@primitive(lambda g, y, x: g * x)
def half_of_its_gradient(xp, x):
    return x * x


@primitive(lambda g, y, x: g * (2 * (x.detach() if isinstance(x, tb.Tensor) else x)))
def a_constant_gradient(xp, x):
    return x * x


def test_a_wrong_rule_is_refuted_by_the_derivative(planted):
    op = planted(
        half_of_its_gradient,
        lambda xp, x: (x * x, ()),
        lambda xp, needed, g, saved, x: (g * x,),
    )
    claim = prove(op, [np.zeros(2)])[-1]
    assert (claim.order, claim.proved) == (1, False)
    assert claim.counterexample.values == {"fused op": 1, "derivative": 2}


def test_a_rule_that_is_wrong_at_second_order_is_refuted_there(planted):
    op = planted(
        a_constant_gradient,
        lambda xp, x: (x * x, ()),
        lambda xp, needed, g, saved, x: (g * 2 * x,),
    )
    claim = prove(op, [np.zeros(2)])[-1]
    assert (claim.order, claim.proved) == (2, False)
    assert claim.counterexample.values == {"fused op": 0, "derivative": 2}


# the peak of cross-entropy


@pytest.mark.parametrize(("back", "proved"), [(1, True), (0, False), (2, False)])
def test_a_peak_must_cancel(planted, back, proved):
    def forward(xp, z):
        peak = z.max(axis=1, keepdims=True)
        e = xp.exp(z - peak)
        total = e.sum(axis=1, keepdims=True)
        return (xp.log(total) + back * peak).sum(), e / total

    op = planted(
        lambda z: ops.sum(ops.logsumexp(z, axis=1)),
        forward,
        lambda xp, needed, g, p, z: (g * p,),
    )
    claim = prove(op, [np.zeros((2, 3))])[-1]
    assert claim.proved == proved
    assert proved or claim.counterexample


def test_a_peak_that_does_not_cancel_proves_nothing(planted):
    op = planted(
        lambda z: z - ops.max(z, axis=1, keepdims=True),
        lambda xp, z: (z - z.max(axis=1, keepdims=True), ()),
        lambda xp, needed, g, saved, z: (g,),
    )
    (claim,) = prove(op, [np.zeros((2, 3))], orders=0)
    assert (claim.proved, claim.counterexample) == (False, None)


# centring


def test_recentre_is_the_identity_on_what_is_centred():
    def step(x):
        d = x - ops.mean(x, 0, keepdims=True)
        return recentre(d, 0), d

    algebra = Algebra(7)
    x = symbolic(algebra, filled({"x": (3, 2)}, algebra.free[1:])["x"])
    recentred, d = run(program(step, np.zeros((3, 2)), passes=without_dead), [x])
    assert all(algebra.is_zero(a - b) for a, b in zip(recentred.flat, d.flat, strict=True))
    assert not any(algebra.is_zero(a - b) for a, b in zip(d.flat, x.flat, strict=True))


# the algebra


@pytest.fixture
def algebra():
    return Algebra(4)


EQUAL = {
    "a root": lambda a, b, c: (np.sqrt(a) * np.sqrt(a), a),
    "one over a root": lambda a, b, c: (1 / np.sqrt(a + b), np.sqrt(a + b) / (a + b)),
    "a multiple of a root": lambda a, b, c: (a / (2 * np.sqrt(b)), a * np.sqrt(b) / b / 2),
    "roots of roots": lambda a, b, c: (np.sqrt(a + np.sqrt(b)) ** 2 - a, np.sqrt(b)),
    "fractions": lambda a, b, c: (a / b + b / a, (a * a + b * b) / (a * b)),
    "a fraction of fractions": lambda a, b, c: (1 / (1 / a + 1 / b), a * b / (a + b)),
    "powers": lambda a, b, c: (a**3 * b**-2.0, a * a * a / (b * b)),
    "exponentials": lambda a, b, c: (np.exp(a + b) / np.exp(a), np.exp(b)),
    "logarithms": lambda a, b, c: (np.log(np.exp(a - c) + np.exp(b - c)) + c, np.log(np.exp(a) + np.exp(b))),
    "constants": lambda a, b, c: (a * 0.16666666666666666 + 0.1, (a + 0.6) / 6),
}  # fmt: skip


@pytest.mark.parametrize("name", EQUAL)
def test_equal_elements_differ_by_zero(algebra, name):
    symbols = [symbolic(algebra, p) for p in algebra.free[1:]]
    a, b = EQUAL[name](*symbols)
    assert algebra.is_zero((a - b).item())
    assert not algebra.is_zero((a - b * (1 + 1e-12)).item())
    assert not algebra.is_zero((a - b + symbols[0]).item())


DERIVED = {
    "polynomial": lambda m, a, b: 3 * a**3 * b - a / 2 + 1,
    "root": lambda m, a, b: m.sqrt(a * a + b) * a,
    "quotient": lambda m, a, b: a / (a * a + b + 1),
    "exponential": lambda m, a, b: m.exp(a * b - a) * b,
    "logarithm": lambda m, a, b: m.log(a * a + b),
    "all": lambda m, a, b: m.log(m.exp(a) / m.sqrt(a + b) + b),
}


@pytest.mark.parametrize("name", DERIVED)
def test_derivatives_are_sympys(algebra, name):
    """The chain rule of the algebra, against SymPy's own, at some numbers."""
    _, a, b, _ = algebra.free
    derived = DERIVED[name](np, symbolic(algebra, a), symbolic(algebra, b))
    slope = algebra.polynomial(algebra.derivative(derived.item(), a))
    x, y = sympy.symbols("x y")
    for at in ((1, 2), (3, 1)):
        found = slope.as_expr(*algebra.numbers([1, *at, 1]))
        expected = sympy.diff(DERIVED[name](sympy, x, y), x).subs({x: at[0], y: at[1]})
        assert abs(float(found - expected)) < 1e-12


def test_floats_are_the_simplest_fractions_that_round_to_them(algebra):
    for number, exact in ((1 / 6, (1, 6)), (0.1, (1, 10)), (2, (2, 1)), (True, (1, 1))):
        assert algebra.polynomial(number) == sympy.QQ(*exact)
    assert algebra.polynomial(1 + 2**-52) == sympy.QQ(2**52 + 1, 2**52)
    assert algebra.polynomial(EPS) == algebra.free[0]


# what cannot be proved


def test_comparisons_are_refused(planted):
    op = planted(
        lambda x: ops.maximum(x, 0),
        lambda xp, x: (xp.maximum(x, 0), ()),
        lambda xp, needed, g, saved, x: (xp.where(x > 0, g, 0),),
    )
    with pytest.raises(TypeError, match=r"a proof can't handle np\.maximum of symbols"):
        prove(op, [np.zeros(2)])


@pytest.mark.parametrize("index", [[0, 0], slice(1)])
def test_gradients_of_indexing_are_refused(planted, index):
    op = planted(
        lambda x: x[index].sum(),
        lambda xp, x: (x[index].sum(), ()),
        lambda xp, needed, g, saved, x: (x * 0,),
    )
    with pytest.raises(TypeError, match=r"of symbols|not 'PolyElement'"):
        prove(op, [np.zeros(2)])


def test_powers_that_are_not_whole_are_refused(planted):
    op = planted(
        lambda x: x**0.5,
        lambda xp, x: (x * 0 + 1, ()),
        lambda xp, needed, g, saved, x: (g * 0,),
    )
    with pytest.raises(TypeError, match=r"only handle whole powers, got 0\.5"):
        prove(op, [np.zeros(2)])


def test_a_hidden_eps_is_neither_proved_nor_refuted(planted):
    """It is right, but the symbol ε does not get into its program."""
    forward = closed_form(r=lambda xp, var, eps: 1 / xp.sqrt((2 * var + 2 * eps) / 2))
    (claim,) = prove(
        planted(norm(0), forward, gradients(batch)), [np.zeros((3, 2)), np.zeros(2), np.zeros(2)]
    )
    assert (claim.proved, claim.counterexample) == (False, None)
    assert str(claim).endswith("neither proved nor refuted")


@pytest.mark.parametrize("op", [ops.exp, "exp"])
def test_only_fused_ops_can_be_proved(op):
    with pytest.raises(TypeError, match=r"prove: '?exp'? has no composition"):
        prove(op, [np.zeros(2)])


def test_division_by_zero_is_refused(algebra):
    with pytest.raises(ZeroDivisionError, match="divides by 0"):
        algebra.inverse(algebra.free[2] - algebra.free[2])


def test_without_sympy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sympy", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tinybn\[prove\]'"):
        prove("linear", [np.zeros((1, 2)), np.zeros((2, 1))])


def test_every_fused_op_must_have_a_small_case(planted):
    planted(norm(0), closed_form(), gradients(batch))
    with pytest.raises(LookupError, match="planted"):
        small_cases(2)


# the commands


@pytest.fixture
def wrong(monkeypatch):
    """Cross-entropy with a gradient that is twice what it should be."""
    op = FUSED["cross_entropy"]
    right = op.closed_form
    monkeypatch.setattr(op, "closed_form", lambda *args, **kw: (right(*args, **kw)[0] * 2,))


ARGUMENTS = ["--op", "cross_entropy", "rms_norm", "--orders", "1"]


def test_the_command_prints_a_line_per_claim(capsys):
    assert prove_command.main([*ARGUMENTS, "--n", "2", "3"]) == 0
    *claims, _, total = capsys.readouterr().out.splitlines()
    assert len(claims) == 8
    assert all(line.startswith(("n = 2: ", "n = 3: ")) for line in claims)
    assert all(line.endswith(" s: proved") for line in claims)
    assert total.startswith("All 8 claims are proved, in ")


def test_the_command_exits_with_1_if_a_claim_is_refuted(capsys, wrong):
    assert prove_command.main([*ARGUMENTS, "--n", "2"]) == 1
    printed = capsys.readouterr().out
    assert "order 1" in printed
    assert "d_logits[0, 0] is -1/2 by the fused op but -1/4 by the composition" in printed
    assert "labels = [0, 1]" in printed
    assert "1 of 4 claims are not proved" in printed


def test_the_command_needs_sympy(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sympy", None)
    assert prove_command.main(ARGUMENTS) == 2
    assert "pip install 'tinybn[prove]'" in capsys.readouterr().err


def test_compare_has_a_column_for_what_is_proved(capsys, monkeypatch, wrong):
    proofs = compare_gradients.proofs(["cross_entropy", "linear"], 1)
    assert {key: [claim.proved for claim in claims] for key, claims in proofs.items()} == {
        ("cross_entropy", 0): [True] * 3,
        ("cross_entropy", 1): [False] * 3,
        ("linear", 0): [True] * 3,
        ("linear", 1): [True] * 3,
    }
    (case,) = [c for c in cases() if (c.op, c.label) == ("linear", "(1, 1) to 1")]
    rows = compare(case.op, case.inputs, orders=2, dtypes=["float32"], differences=False)
    table = compare_gradients.summary([(case.label, row) for row in rows], proofs)
    header, _, *lines = table.splitlines()
    assert header.split()[-1] == "proved"
    assert [line.split("ok")[1].strip() for line in lines] == ["n = 2, 3, 4"] * 2 + ["-"]
    monkeypatch.setitem(sys.modules, "sympy", None)
    assert compare_gradients.proofs(["linear"], 1) == {}


def test_compare_fails_if_a_claim_is_refuted(capsys, tmp_path, wrong):
    arguments = ["--op", "cross_entropy", "--orders", "1", "--out", str(tmp_path), "--no-plot"]
    assert compare_gradients.main(arguments) == 1
    assert "refuted: d_logits" in capsys.readouterr().out
