"""The program as source: it reads well, and it is what runs.

The listings of batch norm and layer norm are kept in tests/program/listings, to be read in review.
After a change that is meant to change them, `RENEW_LISTINGS=1 pytest tests/program/test_source.py`
writes them anew; read the diff.
"""

import ast
import keyword
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinybn as tb
from program.steps import classifier, sgd
from tinybn.fusion import FUSED
from tinybn.ops import elementwise, reduction
from tinybn.program import exact, relaxed, without_dead
from tinybn.program.line import names_for
from tinybn.program.origin import label
from tinybn.program.source import named

pytestmark = pytest.mark.host("tests/on_cupy/test_program.py has what is compiled for CuPy")

LISTINGS = Path(__file__).parent / "listings"
RNG = np.random.default_rng(0)
X, DY = RNG.standard_normal((2, 32, 4))
GAMMA, BETA = RNG.standard_normal((2, 4))
LABELS = np.arange(32) % 5


def norm_step(norm):
    """Forward and backward pass of a norm."""

    def step(x, gamma, beta, dy):
        x, gamma, beta = (tb.tensor(a, requires_grad=True) for a in (x, gamma, beta))
        y = norm(x, gamma, beta)
        return y, *tb.grad(y, [x, gamma, beta], dy)

    return step


def training_step(optimizer, fused=False):
    """The program of an MLP's step, as users see it."""
    step, *_ = classifier(optimizer=optimizer)()
    x = RNG.standard_normal((32, 20)).astype(np.float32)
    step(x, LABELS)  # then the optimizer has its memory
    with tb.use_fused(fused):
        return tb.program(step, x, LABELS)


def executed(program, *args):
    """What the printed text returns, run by Python as it stands."""
    space = names_for(np)
    exec(str(program), space)
    return space["step"](*[args[program.inputs.index(line)] for line in program.parameters()])


NORMS = {"batch_norm": tb.ops.batch_norm, "layer_norm": tb.ops.layer_norm}
FORMS = {"composed": False, "closed_form": True}
PASSES = {"as_recorded": without_dead, "after_the_passes": relaxed}

norms = pytest.mark.parametrize("norm", NORMS)
forms = pytest.mark.parametrize("form", FORMS)


def norm_program(norm, form, passes):
    with tb.use_fused(FORMS[form]):
        return tb.program(norm_step(NORMS[norm]), X, GAMMA, BETA, DY, passes=passes)


@norms
@forms
@pytest.mark.parametrize("passes", PASSES)
def test_listings(norm, form, passes):
    file = LISTINGS / f"{norm}_{form}_{passes}.txt"
    text = str(norm_program(norm, form, PASSES[passes]))
    if os.environ.get("RENEW_LISTINGS"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@norms
@forms
@pytest.mark.parametrize("passes", [without_dead, exact, relaxed], ids=lambda p: p.__name__)
def test_the_printed_text_is_what_runs(norm, form, passes):
    args = X, GAMMA, BETA, DY
    with tb.use_fused(FORMS[form]):
        expected = norm_step(NORMS[norm])(*args)
    for a, b in zip(executed(norm_program(norm, form, passes), *args), expected, strict=True):
        if passes is relaxed:
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-12, atol=1e-13)
        else:
            np.testing.assert_array_equal(a, b.numpy(), strict=True)


@norms
def test_names_are_those_of_the_formula(norm):
    composed = {*named(norm_program(norm, "composed", without_dead)).values()}
    assert composed >= {
        *("x", "gamma", "beta", "dy", "mu", "d", "var", "x_hat"),
        *("d_x_hat", "d_gamma", "d_beta", "d_d", "d_mu", "d_x"),
    }
    closed = {*named(norm_program(norm, "closed_form", without_dead)).values()}
    assert closed >= {"x", "gamma", "beta", "dy", "mu", "d", "var", "d_x", "d_gamma", "d_beta"}


def test_who_calls_a_step_names_nothing_in_it():
    class Outer(tb.nn.Module):
        def forward(self, x):
            program = tb.program(lambda x: x * 2 + 1, x)
            return program, 0

    program, _ = Outer()(X)
    assert [*named(program).values()] == ["x", "t1", "t2"]
    assert {line.origin.layer for line in program.lines} == {None}


OPTIMIZERS = {"SGD": sgd, "Adam": lambda params: tb.optim.Adam(params, lr=0.01)}
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS)


@optimizers
def test_sections(optimizer):
    text = str(training_step(OPTIMIZERS[optimizer]))
    layers = [
        *("0 Linear(20, 16, bias=False)", "1 BatchNorm(16)", "2 ReLU()"),
        *("3 Linear(16, 16, bias=False)", "4 BatchNorm(16)", "5 ReLU()"),
        "6 Linear(16, 5)",
    ]
    parameters = [
        *("0.weight", "1.gamma", "1.beta", "3.weight", "4.gamma", "4.beta", "6.weight", "6.bias")
    ]
    assert re.findall(r"^    # (.*)$", text, re.MULTILINE) == [
        *[f"forward: {layer}" for layer in layers],
        "forward",
        "backward",
        *[f"backward: {layer}" for layer in layers[::-1]],
        "update",
        *[f"update: {name}" for name in parameters],
    ]


@optimizers
@pytest.mark.parametrize("fused", [True, False], ids=["closed form", "composition"])
def test_names_of_a_training_step(optimizer, fused):
    program = training_step(OPTIMIZERS[optimizer], fused)
    names = named(program)
    assert len({*names.values()}) == len(names)
    for name in names.values():
        assert name.isidentifier()
        assert not keyword.iskeyword(name)
    memory = {"SGD": ["velocity_0_weight"], "Adam": ["m_0_weight", "v_0_weight"]}[optimizer]
    wanted = ["weight_0", "gamma_1", "beta_1", "running_mean_1", "num_batches_tracked", *memory]
    assert {*names.values()} >= {
        *wanted,
        *[f"new_{name}" for name in wanted],
        *("lr", "step", "x", "labels", "mu_1", "var_1", "mu_4", "d_weight_0", "d_gamma_4"),
    }
    assert [names[line] for line in program.inputs[-2:]] == ["x", "labels"]
    assert names[program.outputs[-1]] == ("cross_entropy" if fused else "loss")


def test_names_that_the_source_needs_itself_are_left_to_it():
    def step(np, index):
        put = np * 2
        put[1:] = 5
        add_at = put[index]
        return add_at, tb.ops.exp(add_at)

    program = tb.program(step, X, np.array([0, 1]))
    assert not {*named(program).values()} & names_for(np).keys()
    y = executed(program, X, np.array([0, 1]))[0]
    np.testing.assert_array_equal(y, [X[0] * 2, np.full(4, 5)])


def test_equal_names_are_numbered():
    def step(x):
        t1 = x + 1
        x = t1 * 2
        x = x * 3
        x__2 = x + t1
        return -x__2, x

    names = [*named(tb.program(step, X)).values()]
    assert len({*names}) == len(names) == 6
    assert names[:2] == ["x", "t1"]


@optimizers
def test_lines_are_data(optimizer):
    program = training_step(OPTIMIZERS[optimizer])
    known = {*program.inputs}
    for line in program.lines:
        assert {a for a in line.inputs if a.op != "constant"} <= known
        known.add(line)
        assert isinstance(line.op, str)
        assert all(isinstance(n, int) for n in line.shape)
        assert isinstance(line.dtype, np.dtype)
        assert line.origin.section in ("forward", "backward", "update")
        if line.origin.rule:
            op, name = line.origin.rule
            assert line.origin.section == "backward"
            assert name in declared(op)
    assert {*program.outputs} <= known
    layer = ("1", "BatchNorm(16)")
    assert {line.origin.rule for line in program.lines if line.origin.layer == layer} == {
        *[None, ("add", "b"), ("multiply", "a"), ("multiply", "b"), ("sqrt", "a")],
        *[("divide", "a"), ("divide", "b"), ("subtract", "b"), ("mean", "a")],
    }


def declared(op):
    """The names of an op's inputs."""
    homes = [tb.ops, elementwise, reduction]
    op = FUSED.get(op) or next(getattr(h, op) for h in homes if hasattr(h, op)).op
    return op.names


def test_every_line_of_a_backward_pass_knows_its_rule():
    for fused in FORMS:
        for line in norm_program("batch_norm", fused, without_dead).lines:
            assert (line.origin.rule is not None) == (line.origin.section == "backward")
            assert line.origin.user.startswith(f"{__file__}:")


def test_sums_of_contributions_are_named():
    def step(x, v):
        x = tb.tensor(x, requires_grad=True)
        (first,) = tb.grad((x * x * v).sum(), x, create_graph=True)
        (second,) = tb.grad((first * first).sum(), x)
        second *= 2
        return first, second

    p = tb.program(step, X, DY)
    assert [label(line) for line in p.outputs] == ["d_x", "second"]
    sums = [line for line in p.lines if line.op == "add" and line.origin.section == "backward"]
    assert [label(line) for line in sums] == ["d_x", "d_d_x", "d_x"]


def test_shapes_and_dtypes_are_those_that_numpy_gives():
    program = training_step(sgd)
    text = str(program)
    names = named(program)
    body = ast.parse(text).body[0].body
    assert isinstance(body[-1], ast.Return)
    space = names_for(np)
    given = {
        names[line]: line.kind(1) if line.kind else np.ones(line.shape, line.dtype)
        for line in program.parameters()
    }
    exec(compile(ast.Module(body[:-1], []), "listing", "exec"), space | given, result := {})
    for line in program.lines:
        if line.op != "constant":
            value = result[names[line]]
            assert np.shape(value) == line.shape
            if line.kind is None:
                assert value.dtype == line.dtype


def test_the_command():
    run = [sys.executable, "-m", "tinybn", "program"]
    text = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    recorded, passed = text.split("After the passes")
    assert max(map(len, text.splitlines())) <= 200
    for part, sums in ((recorded, (7, 5)), (passed, (5, 5))):
        found = re.search(r"composition: \d+ lines, (\d+) sums +closed form: \d+ lines, (\d+) sums", part)  # fmt: skip
        assert tuple(map(int, found.groups())) == sums
        assert part.count("def step(") == part.count("return d_x") == 2
        left = part.index("closed form:") - part.index("composition:")
        columns = [(row[:left], row[left:]) for row in part.splitlines() if "sum(" in row]
        counted = [sum("sum(" in column[k] for column in columns) for k in (0, 1)]
        assert tuple(counted) == sums
