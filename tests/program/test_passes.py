"""Passes: each does what it says, and the program still computes the same."""

import numpy as np
import pytest

import tinybn as tb
from tinybn.program import exact, program, relaxed, without_dead
from tinybn.program.passes import reciprocals, short_sums, simplified, without_equal
from tinybn.program.source import function

X, Y = (np.random.default_rng(i).standard_normal((4, 3)) for i in range(2))


def recorded(step, *args):
    return program(step, *args, passes=lambda p: p)


def ops_of(p):
    return [line.op for line in p.lines]


def run(p, *args):
    return function(p, np)(*[args[p.inputs.index(line)] for line in p.parameters()])


def test_dead_lines():
    def step(x):
        x * 3
        return x + 1

    p = recorded(step, X)
    assert ops_of(p) == ["multiply", "add"]
    assert ops_of(without_dead(p)) == ["add"]


def test_equal_lines():
    def step(x, y):
        return (x + y) * (x + y), (x + 1) * (x + 2) * (x + 1.0)

    p = recorded(step, X, Y)
    q = without_equal(p)
    assert ops_of(q).count("add") == 4  # 1 and 1.0 are different numbers
    for a, b in zip(run(p, X, Y), run(q, X, Y), strict=True):
        np.testing.assert_array_equal(a, b)


SIMPLE = {
    "x · 1": (lambda x: x * 1, []),
    "1 · x": (lambda x: 1.0 * x, []),
    "x / 1": (lambda x: x / 1, []),
    "x - 0": (lambda x: x - 0, []),
    "x + 0 is not x where x is -0": (lambda x: x + 0, ["add"]),
    "- - x": (lambda x: np.negative(-x), []),
    "a reshape": (lambda x: x.reshape(4, 3), []),
    "two reshapes": (lambda x: x.reshape(2, 6).reshape(12), ["reshape"]),
    "a transpose": (lambda x: x.transpose((0, 1)), []),
    "a cast": (lambda x: x.astype(np.float64), []),
    "a broadcast": (lambda x: tb.ops.broadcast_to(x[:1], (4, 3)) * x, ["getitem", "multiply"]),
    "not that of an exponent": (lambda x: x ** np.full_like(x, 2), ["broadcast_to", "power"]),
    "numbers": (lambda x: x * (np.float64(2) * 3), ["multiply"]),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_what_changes_nothing(name):
    step, left = SIMPLE[name]
    p = recorded(step, X)
    q = without_dead(simplified(p))
    assert ops_of(q) == left
    np.testing.assert_array_equal(run(q, X)[0], run(p, X)[0])


def test_a_promotion_is_no_identity():
    p = without_dead(simplified(recorded(lambda x: x * np.float64(1), X.astype(np.float32))))
    assert run(p, X.astype(np.float32))[0].dtype == np.float64


SUMS = {
    "a factor": (lambda x, y: (x * y[:1]).sum(0), ["sum", "multiply"]),
    "a divisor": (lambda x, y: (x / y[:1]).sum(0), ["sum", "divide"]),
    "a sign": (lambda x, y: (-x).sum(0), ["sum", "negative"]),
    "from deep inside": (
        lambda x, y: (-(x / y[:1]) * y).sum(0),
        ["multiply", "sum", "divide", "negative"],
    ),
    "of each part": (
        lambda x, y: (x * y[:1] + y * x[:1]).sum(0),
        ["sum", "multiply", "sum", "multiply", "add"],
    ),
    "not, if one part keeps it": (
        lambda x, y: (x * y[:1] + x * y).sum(0),
        ["multiply", "multiply", "add", "sum"],
    ),
    "not along another axis": (lambda x, y: (x * y[:1]).sum(1), ["multiply", "sum"]),
    "not the mean from what it centres": (
        lambda x, y: (x - x.mean(0)).sum(0),
        ["sum", "divide", "subtract", "sum"],
    ),
}


@pytest.mark.parametrize("name", SUMS)
def test_what_moves_out_of_a_sum(name):
    step, left = SUMS[name]
    p = recorded(step, X, Y)
    q = without_dead(simplified(short_sums(simplified(p))))
    assert [op for op in ops_of(q) if op not in ("getitem", "reshape")] == left
    np.testing.assert_allclose(run(q, X, Y)[0], run(p, X, Y)[0], rtol=1e-12, atol=1e-12)


def test_what_replaces_a_line_has_its_name():
    def step(x, y):
        moved = (x * y[:1]).sum(0, keepdims=True)
        quotient = moved / y[:1, :1]
        return moved, quotient

    names = [line.origin.name for line in relaxed(recorded(step, X, Y)).lines]
    assert names == ["", "", "moved", "", "", "quotient"]


def test_long_sums_take_no_time():
    def step(x, y):
        doubled = total = x * y[:1]
        for _ in range(60):
            doubled = doubled + doubled
        for _ in range(600):
            total = total + x
        return doubled.sum(0), total.sum(0)

    p = recorded(step, X, Y)
    for a, b in zip(run(relaxed(p), X, Y), run(p, X, Y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_reciprocals():
    p = recorded(lambda x, y: (x / y[:1], x / y), X, Y)
    q = without_dead(reciprocals(p))
    assert ops_of(q) == ["getitem", "divide", "multiply", "divide"]
    for a, b in zip(run(p, X, Y), run(q, X, Y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-15)


def gradients(norm):
    def step(x, gamma, beta, dy):
        x, gamma, beta = (tb.tensor(a, requires_grad=True) for a in (x, gamma, beta))
        return tb.grad(norm(x, gamma, beta), [x, gamma, beta], dy)

    return step


@pytest.mark.parametrize(("norm", "sums"), [(tb.ops.batch_norm, 5), (tb.ops.layer_norm, 7)])
def test_the_sums_of_a_composition_become_those_of_its_closed_form(norm, sums):
    args = X, Y[0], Y[1], Y
    count = {}
    for fused in (True, False):
        with tb.use_fused(fused):
            p = program(gradients(norm), *args, passes=relaxed)
            plain = program(gradients(norm), *args)
        count[fused] = ops_of(p).count("sum")
        for a, b in zip(run(p, *args), run(plain, *args), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    assert count == {True: sums, False: sums}


def test_exact_programs_are_exact():
    for fused in (True, False):
        with tb.use_fused(fused):
            expected = gradients(tb.ops.batch_norm)(X, Y[0], Y[1], Y)
            p = program(gradients(tb.ops.batch_norm), X, Y[0], Y[1], Y, passes=exact)
        for a, b in zip(run(p, X, Y[0], Y[1], Y), expected, strict=True):
            np.testing.assert_array_equal(a, b.numpy())
