"""The exercises: answers are right, holes are seen, and every mistake gets a message that helps."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tinybn.exercises import command, recorded, text
from tinybn.exercises.hints import HINTS
from tinybn.exercises.judge import RIGHT, TO_DO, WRONG, advice_on, judge
from tinybn.exercises.learner import Learner, Problem, own_registry
from tinybn.exercises.mistakes import MISTAKES
from tinybn.exercises.tasks import TASKS
from tinybn.fusion import FUSED

pytestmark = pytest.mark.host("the exercises are about NumPy arrays")

ANSWERS = {
    "four_steps.mean": "mean = x.mean(axis=0)",
    "four_steps.var": "var = ((x - mean) ** 2).mean(axis=0)",
    "four_steps.x_hat": "x_hat = (x - mean) / np.sqrt(var + eps)",
    "four_steps.y": "y = gamma * x_hat + beta",
    "d_x_hat": "return dy * gamma",
    "d_var": "return np.sum(d_x_hat * (x - mean), axis=0) * -0.5 * (var + eps) ** -1.5",
    "d_mean": "return -np.sum(d_x_hat, axis=0) / np.sqrt(var + eps)",
    "d_x.direct": "direct = d_x_hat / np.sqrt(var + eps)",
    "d_x.mean": "through_mean = d_mean / len(x)",
    "d_x.var": "through_var = d_var * 2 * (x - mean) / len(x)",
    "short_form": "return gamma / np.sqrt(var + eps) * (dy - dy.mean(axis=0) - x_hat * (dy * x_hat).mean(axis=0))",
    "layer_norm.g": "g = gamma * dy",
    "layer_norm.along": "along = (g * x_hat).mean(axis=-1, keepdims=True)",
    "layer_norm": "return (g - g.mean(axis=-1, keepdims=True) - x_hat * along) / np.sqrt(var + eps)",
    "running_statistics.mean": "new_mean = (1 - momentum) * running_mean + momentum * x.mean(axis=0)",
    "running_statistics.var": "new_var = (1 - momentum) * running_var + momentum * x.var(axis=0, ddof=1)",
    "primitive.rule": "return -g * y**3 / 2",
    "primitive": "return 1 / xp.sqrt(a)",
    "fused.parts": "return x / tb.ops.sqrt(tb.ops.mean(x * x, axis=-1, keepdims=True) + eps)",
    "fused.r": "r = 1 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)",
    "fused.x_hat": "x_hat = x * r",
    "fused": "d_x = r * (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True))",
    "find_the_bug": "along_x_hat = (g * x_hat).mean(axis=0)",
    "find_the_bug.dy": "return rng.standard_normal(y.shape)",
}
"""The right line of each hole, as it is in the solution."""


def learner(tmp_path, *changes, holes=False):
    """The solved file (or the one with holes), in which some lines are replaced."""
    source = text.with_holes() if holes else text.solved()
    for where, line in changes:
        old = ANSWERS.get(where, where)
        start = source.index(f"- {where.partition('.')[0]}\n") if where in ANSWERS else 0
        before, after = source[:start], source[start:]
        assert f"    {old}\n" in after
        source = before + after.replace(old, line, 1)
    path = tmp_path / "mine.py"
    path.write_text(source, encoding="utf-8")
    with own_registry():
        return Learner(path)


def verdict(tmp_path, where, line):
    with own_registry():
        return judge(where.partition(".")[0], learner(tmp_path, (where, line)))


@pytest.mark.parametrize("name", text.names())
def test_the_solutions_are_right(name, tmp_path):
    assert judge(name, learner(tmp_path)).state == RIGHT


@pytest.mark.parametrize("name", text.names())
def test_an_empty_hole_is_still_to_do(name, tmp_path):
    assert judge(name, learner(tmp_path, holes=True)).state == TO_DO


SUM0, ROOT = "np.sum(d_x_hat * (x - mean), axis=0)", "np.sqrt(var + eps)"
G, ALONG = "gamma * dy", "gamma * dy * x_hat"


def short(g="gamma * dy", mean="(gamma * dy).mean(axis=0)", along=f"({ALONG}).mean(axis=0)"):
    return f"return ({g} - {mean} - x_hat * {along}) / np.sqrt(var + eps)"


def layer(mean="g.mean(axis=-1, keepdims=True)", along="along", by=ROOT):
    return f"return (g - {mean} - x_hat * {along}) / {by}"


OTHER_RIGHT_ANSWERS = [
    ("four_steps.mean", "mean = x.sum(0, keepdims=True) / len(x)"),
    ("four_steps.var", "var = np.var(x, axis=0)"),
    ("d_var", "return (-0.5 * d_x_hat * (x - mean) / (var + eps) ** 1.5).sum(0, keepdims=True)"),
    (
        "d_mean",
        f"return -(d_x_hat / {ROOT}).sum(0) + d_var * (-2 * (x - mean)).mean(0)",
    ),
    ("d_x.mean", "through_mean = np.ones_like(x) * d_mean / len(x)"),
    ("short_form", short()),
    ("primitive.rule", "return g * (-0.5) * a**-1.5"),
    ("find_the_bug.dy", "return np.arange(y.size).reshape(y.shape) ** 2"),
    ("running_statistics.mean", "new_mean = running_mean + momentum * (x.mean(0) - running_mean)"),
]


@pytest.mark.parametrize(("where", "line"), OTHER_RIGHT_ANSWERS)
def test_other_right_answers_are_right(where, line, tmp_path):
    found = verdict(tmp_path, where, line)
    assert found.state == RIGHT, found.message


WRONG_ANSWERS = [
    # the four steps
    ("four_steps.mean", "mean = x.mean()", "whole array"),
    ("four_steps.mean", "mean = x.mean(axis=1)", "along the rows|shapes of two arrays"),
    ("four_steps.mean", "mean = x.sum(axis=0)", "n times the right answer: divide by n"),
    ("four_steps.mean", "mean = x.sum(axis=0) / (len(x) - 1)", r"n/\(n - 1\)"),
    ("four_steps.mean", "mean = np.median(x, axis=0)", "median"),
    ("four_steps.var", "var = x.var(axis=0, ddof=1)", "divide by n - 1. It is n here"),
    ("four_steps.var", "var = x.std(axis=0)", "standard deviation"),
    ("four_steps.var", "var = (x**2).mean(axis=0)", "Subtract the mean before you square"),
    ("four_steps.var", "var = (x - mean).mean(axis=0)", "square is missing"),
    ("four_steps.var", "var = ((x - mean) ** 2).mean()", "whole array"),
    ("four_steps.var", "var = ((x - mean) ** 2).sum(axis=0)", "divide by n"),
    ("four_steps.var", "var = abs(x - mean).mean(axis=0)", "absolute values"),
    ("four_steps.x_hat", "x_hat = (x - mean) / (np.sqrt(var) + eps)", "outside of the root"),
    ("four_steps.x_hat", "x_hat = (x - mean) / np.sqrt(var)", "eps is missing"),
    ("four_steps.x_hat", "x_hat = (x - mean) / (var + eps)", "square root is missing"),
    ("four_steps.x_hat", "x_hat = x / np.sqrt(var + eps)", "mean is not subtracted"),
    ("four_steps.x_hat", "x_hat = x - mean / np.sqrt(var + eps)", "Put brackets"),
    ("four_steps.y", "y = gamma * x_hat", "beta is not added"),
    ("four_steps.y", "y = gamma * x + beta", "x_hat, not x"),
    ("four_steps.y", "y = gamma * (x_hat + beta)", "after multiplying"),
    # the way back, step by step
    ("d_x_hat", "return dy", "gamma is missing"),
    ("d_x_hat", "return dy / gamma", "Dividing fails where gamma is 0"),
    ("d_x_hat", "return (dy * gamma).sum(axis=0)", "nothing to sum"),
    ("d_x_hat", "return -dy * gamma", "sign is wrong"),
    ("d_x_hat", "return dy * gamma * (1 + 1e-7)", "yours"),
    ("d_var", f"return {SUM0} * 0.5 * (var + eps) ** -1.5", "sign is wrong"),
    ("d_var", f"return -{SUM0} * (var + eps) ** -1.5", "twice.*factor ½"),
    ("d_var", f"return {SUM0} * -0.5 * (var + eps) ** -0.5", "exponent is still -0.5"),
    ("d_var", f"return -{SUM0} / (var + eps)", "gradient of √"),
    ("d_var", "return d_x_hat * (x - mean) * -0.5 * (var + eps) ** -1.5", "one number per element"),
    ("d_var", "return np.sum(d_x_hat * x, axis=0) * -0.5 * (var + eps) ** -1.5", "x where"),
    ("d_var", "return np.mean(d_x_hat * (x - mean), axis=0) * -0.5 * (var + eps) ** -1.5", "1/n"),
    ("d_var", f"return {SUM0} * -0.5 * var ** -1.5", "eps is missing"),
    ("d_var", f"return {SUM0} * -0.5 * (np.sqrt(var) + eps) ** -3", "outside of the root"),
    ("d_var", "return np.sum(d_x_hat * (x - mean)) * -0.5 * (var + eps) ** -1.5", "whole array"),
    ("d_mean", f"return np.sum(d_x_hat, axis=0) / {ROOT}", "sign is wrong"),
    ("d_mean", f"return -np.mean(d_x_hat, axis=0) / {ROOT}", "1/n"),
    ("d_mean", "return -np.sum(d_x_hat, axis=0)", "division by √"),
    ("d_mean", f"return -d_x_hat / {ROOT}", "one number per element"),
    ("d_mean", f"return -np.sum(d_x_hat / {ROOT})", "whole array"),
    ("d_mean", f"return -np.sum(d_x_hat / {ROOT}, axis=1)", "along the rows"),
    ("d_mean", f"return -d_x_hat.sum(0) / {ROOT} + d_var * (-2 * x).mean(0)", "use x where"),
    ("d_x.direct", "direct = d_x_hat", "division by √"),
    ("d_x.mean", "through_mean = 0", "forgot the path through the mean"),
    ("d_x.mean", "through_mean = d_mean", "weight 1/n"),
    ("d_x.mean", "through_mean = d_mean / (len(x) - 1)", "divide by n - 1"),
    ("d_x.var", "through_var = 0 * x", "forgot the path through the variance"),
    ("d_x.var", "through_var = d_var * (x - mean) / len(x)", "half.*factor 2 is missing"),
    ("d_x.var", "through_var = d_var * 2 * x / len(x)", "x where"),
    ("d_x.var", "through_var = d_var * 2 * (x - mean)", "n times"),
    ("d_x.var", "through_var = d_var * 2 * (x - mean) / (len(x) - 1)", "divide by n - 1"),
    # closed forms
    ("short_form", short(mean="0"), "forgot the path through the mean"),
    ("short_form", short(along="0"), "path through the variance is missing"),
    ("short_form", short(along="(gamma * dy).mean(0) * x_hat.mean(0)"),
     "product of two means. Then it is 0.*multiply first"),
    ("short_form", short("dy", "dy.mean(0)", "(dy * x_hat).mean(0)"), "gamma is missing"),
    ("short_form", short(mean=f"({G}).sum(0)", along=f"({ALONG}).sum(0)"), "divide both sums by n"),
    ("short_form", short(along=f"-({ALONG}).mean(0)"), "wrong sign"),
    ("short_form", short(mean=f"({G}).mean()", along=f"({ALONG}).mean()"), "whole array"),
    ("short_form", short() + " * np.sqrt(var + eps)", "division by √"),
    ("short_form", "return gamma * dy / np.sqrt(var + eps)", "through the mean.*through the var"),
    (
        "layer_norm.g",
        "return gamma * (dy - dy.mean(-1, keepdims=True) - x_hat * (dy * x_hat)"
        ".mean(-1, keepdims=True)) / np.sqrt(var + eps)",
        "gamma is outside of the means",
    ),
    ("layer_norm.g", "g = dy", "gamma is missing"),
    ("layer_norm.along", "along = (dy * x_hat).mean(axis=-1, keepdims=True)", "in the last term"),
    ("layer_norm.along", "along = (g * x_hat).mean(axis=-1)", "keepdims=True"),
    ("layer_norm", layer("g.mean(axis=0)", "(g * x_hat).mean(axis=0)"), "as batch norm does"),
    ("layer_norm", layer("0"), "forgot the path through the mean"),
    ("layer_norm", layer(along="0"), "path through the variance is missing"),
    ("layer_norm", layer(along="g.mean(-1, keepdims=True) * x_hat.mean(-1, keepdims=True)"),
     "product of two means. Then it is 0.*multiply first"),
    ("layer_norm", layer(by="np.sqrt(var)"), "eps is missing"),
    # running statistics
    ("running_statistics.mean", "new_mean = momentum * running_mean + (1 - momentum) * x.mean(0)",
     "momentum is the weight of the new value"),
    ("running_statistics.mean", "new_mean = x.mean(axis=0)", "forgets the old value"),
    ("running_statistics.mean", "new_mean = running_mean + momentum * x.mean(0)", "only 1 - mom"),
    ("running_statistics.var", "new_var = (1 - momentum) * running_var + momentum * x.var(axis=0)",
     "biased variance"),
    ("running_statistics.var",
     "new_var = momentum * running_var + (1 - momentum) * x.var(0, ddof=1)", "weight of the new"),
    ("running_statistics.var", "new_var = (1 - momentum) * running_var + momentum * x.std(0)",
     "standard deviation"),
    # own ops
    ("primitive", "return xp.sqrt(a)", "divide 1 by it"),
    ("primitive.rule", "return g * y**3 / 2", "sign is wrong"),
    ("primitive.rule", "return -g * y**3", "twice"),
    ("primitive.rule", "return -g * y / 2", "exponent of a is still"),
    ("primitive.rule", "return -(y**3) / 2", "g is missing"),
    ("primitive.rule", "return -g * np.power(a, -1.5) / 2", "operators|NumPy"),
    ("primitive.rule", "return -g * (y.data if hasattr(y, 'shape') and not isinstance(y, np.ndarray) else y) ** 3 / 2",
     "gradient of its gradient"),
    ("fused.parts", "return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)", "NumPy"),
    ("fused.parts",
     "return x / tb.ops.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)",
     "also runs on Tensors.*tb.ops.mean"),
    ("fused.parts", "return x / tb.ops.sqrt(tb.ops.mean(x * x, axis=0, keepdims=True) + eps)",
     "each row"),
    ("fused.parts",
     "return tb.tensor(x.data) / tb.ops.sqrt(tb.ops.mean(x.data**2, axis=-1, keepdims=True) + eps)",
     "lost its history"),
    ("fused.parts",
     "return x / tb.ops.sqrt(tb.ops.mean(x.data**2, axis=-1, keepdims=True) + eps)",
     "numbers are right, but autodiff finds another gradient"),
    ("fused.r", "r = xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)", "multiply by it"),
    ("fused.x_hat", "x_hat = (x - x.mean(axis=-1, keepdims=True)) * r", "subtracts no mean"),
    ("fused", "d_x = r * g", "r depends on x, too"),
    ("fused", "d_x = r * (g - g.mean(-1, keepdims=True) - x_hat * (g * x_hat).mean(-1, keepdims=True))",
     "as layer norm does"),
    ("fused", "d_x = g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True)", "factor r is missing"),
    ("fused", "d_x = r * (g - x_hat * (g * x_hat).mean(-1, keepdims=True)) + (x.dtype == np.float32)",
     "tb.check.compare also tries float32.*MISS"),
    # the bug
    ("find_the_bug", "along_x_hat = (dy * x_hat).mean(axis=0)", "gamma is missing"),
    ("find_the_bug", "along_x_hat = (g * x_hat).sum(axis=0)", "needs a mean, not a sum"),
    ("find_the_bug", "along_x_hat = 0", "Your term along x_hat is 0"),
    ("find_the_bug", "along_x_hat = x_hat.mean(0) * g.mean(0)", "product of two means"),
    ("find_the_bug.dy", "return y * 0", "does not depend on x"),
    ("find_the_bug.dy", "return rng.standard_normal(3)", "array of shape"),
    # whatever else can come back, and errors
    ("short_form", short() + " * np.float32(1) if dy.ndim == 0 else np.zeros(dy.shape, np.int32)",
     "0 everywhere|dtype is int32"),
    ("short_form", short().replace("return ", "return np.float32(") + ")", "dtype is float32"),
    ("short_form", "return [dy, [1]]", "returned a list"),
    ("short_form", "return np.array([['a']] * 3)", "array of numbers"),
    ("d_x.mean", "through_mean = None", "returned nothing"),
    ("d_x.mean", "through_mean = [[1, 2], [3]]", "returned a list"),
    ("d_x.mean", "through_mean = '0'", "array of numbers"),
    ("d_x.mean", "through_mean = 1j", "array of numbers"),
    ("d_x.mean", "through_mean = d_mean / len(x) * (x > 0)", r"\[0, 0\]|numbers differ|yours"),
    ("d_x.mean", "through_mean = np.zeros(0)", r"shape is \(0,\)"),
    ("d_x.mean", "through_mean = x[None] * 0 + d_mean / len(x) + 1", "yours"),
    ("d_x_hat", "dy * gamma", r"nothing \(None\): is a `return` missing"),
    ("d_x_hat", "return (dy * gamma).tolist()", "returned a list"),
    ("d_x_hat", "return tb.tensor(dy * gamma)", "returned a Tensor"),
    ("d_x_hat", "return 'dy * gamma'", "array of numbers"),
    ("d_x_hat", "return (dy * gamma).astype(np.float32)", "dtype is float32"),
    ("d_x_hat", "return (dy * gamma).T", r"shape is \(1, 3\), and should be \(3, 1\)"),
    ("d_x_hat", "return dy * gamma / 0", "inf or a NaN: is something divided by 0"),
    ("d_x_hat", "dy *= gamma; return dy", "changes an argument in place"),
    ("d_x_hat", "return dy * gama", "NameError.*Did you mean gamma"),
    ("d_x_hat", "return dy.multiply(gamma)", "AttributeError"),
    ("d_x_hat", "return d_x_hat(dy, gamma)", "calls itself"),
    ("d_x_hat", "exit()", r"Take exit\(\) out"),
    ("d_var", "return d_x_hat(x, mean)", "An argument has the name of a function"),
    ("d_mean", f"return -(d_x_hat / {ROOT}).sum(axis=1) * x", "shapes of two arrays"),
    ("return mean, var, x_hat, y", "return y", "must return 4 things"),
    ("return (d_x,)  # a tuple: one gradient per input", "return d_x", "tuple of one gradient"),
    ("return x_hat, (x_hat, r)", "return x_hat", r"return x_hat, \(x_hat, r\)"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "line", "message"), WRONG_ANSWERS)
def test_a_mistake_gets_a_message_that_helps(where, line, message, tmp_path):
    names = {
        "return mean, var, x_hat, y": "four_steps",
        "return (d_x,)  # a tuple: one gradient per input": "fused",
        "return x_hat, (x_hat, r)": "fused",
    }
    mine = learner(tmp_path, (where, line))
    with own_registry():
        found = judge(names.get(where, where.partition(".")[0]), mine)
    assert found.state in ((WRONG, TO_DO) if where == "find_the_bug.dy" else (WRONG,))
    assert re.search(message, " ".join(found.message.split())), found.message
    assert "Traceback" not in found.message
    assert "tinybn/" not in found.message
    assert all(len(line) <= 95 or line.startswith("    ") for line in found.message.splitlines())


def test_every_formula_of_a_mistake_is_wrong_somewhere():
    for name, results in MISTAKES.items():
        cases = TASKS[name].cases()
        assert results.keys() <= {*TASKS[name].results}
        for result, mistakes in results.items():
            for formula, advice in mistakes:
                found = [_value(formula, case) for case in cases]
                right = [getattr(c, "x_hat" if "compo" in result else result) for c in cases]
                assert any(
                    f is None or f.shape != r.shape or not np.allclose(f, r, atol=1e-7)
                    for f, r in zip(found, right, strict=True)
                ), (name, result, advice)
                assert any(f is not None for f in found), (name, result, advice)


def test_every_mistake_gets_its_own_advice():
    for name, results in MISTAKES.items():
        cases = TASKS[name].cases()
        for result, mistakes in results.items():
            for formula, advice in mistakes:
                found = [_value(formula, case) for case in cases]
                found = [Problem("its shape") if f is None else f for f in found]
                assert advice_on(name, result, found, cases) == advice, (name, result)


def _value(formula, case):
    try:
        with np.errstate(all="ignore"):
            return np.asarray(formula(case))
    except ValueError:
        return None


def test_the_answers_of_this_file_are_those_of_the_solution():
    lines = [line.strip() for line in text.solved().splitlines()]
    assert [line for line in ANSWERS.values() if line not in lines] == []
    holes = re.findall(r"^    (?:return|\w+ =) \.\.\.$", text.with_holes(), re.MULTILINE)
    assert len(holes) == len(ANSWERS) - 4  # layer_norm has three lines, find_the_bug no hole


def test_what_is_right_before_a_hole_is_said(tmp_path):
    mine = learner(tmp_path, ("mean = ...", "mean = x.mean(axis=0)"), holes=True)
    assert judge("four_steps", mine) == (TO_DO, "Right so far: mean. Still to do: var.")
    mine = learner(tmp_path, ("mean = ...", "mean = x.mean(axis=0) + 1"), holes=True)
    assert judge("four_steps", mine).state == WRONG
    mine = learner(tmp_path, ("y = ...", "y = gamma * x_hat + beta"), holes=True)
    assert "There is still a `...` to replace above line 4" in judge("four_steps", mine).message


def test_a_gradient_that_fits_no_mistake_is_shown_path_by_path(tmp_path):
    message = verdict(tmp_path, "short_form", short(along="dy.mean(0) * x_hat")).message
    assert "The recorded backward pass adds up, at [1, 0]" in message
    numbers = re.findall(r"(?:direct|through \w+) +(\S+)", message)
    assert numbers == ["0", "-0.102062", "0.153093"]
    assert "0.051031" in message  # their sum


def test_numbers_that_differ_late_are_shown_to_differ(tmp_path):
    without_eps = f"return {SUM0} * -0.5 * var ** -1.5"
    for where, line in [("d_var", without_eps), ("d_x_hat", "return dy * gamma * (1 + 3e-9)")]:
        message = verdict(tmp_path, where, line).message
        rows = re.findall(r"^    \[[\d, ]+\] +(\S+) +(\S+)$", message, re.MULTILINE)
        assert rows
        assert all(yours != expected for yours, expected in rows)
        assert max(len(number) for row in rows for number in row) < 18


def test_a_right_dy_is_told_even_if_the_bug_is_still_there(tmp_path):
    right = (ANSWERS["find_the_bug.dy"], "return 2 * y")
    for dy in right:
        mine = learner(tmp_path, ("return np.ones(y.shape)", dy), holes=True)
        state, message = judge("find_the_bug", mine)
        assert state == TO_DO
        assert "The bug is still there" in message
        assert "Your a_dy_that_sees_it is right" in " ".join(message.split())
    for dy in ("return np.ones(y.shape)", "return ...", "return y / 0"):
        mine = learner(tmp_path, ("return np.ones(y.shape)", dy), holes=True)
        assert "is right" not in judge("find_the_bug", mine).message.replace("that is right", "")


def test_arguments_are_what_was_recorded_and_not_what_the_learner_computed(tmp_path):
    mine = learner(tmp_path, ("d_var", "return 0"), ("d_mean", "return 0"))
    assert judge("d_x", mine).state == RIGHT


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n    pass\n", r"invalid syntax \(line 1\)"),
        ("x = (1,\ny = 2\n", "line above it: a bracket may be open"),
        ("import nunpy\n", "ModuleNotFoundError"),
        ("x = 1\n1 / 0\n", r"line 2:\n\n    1 / 0\n\n    ZeroDivisionError"),
        ("\x00", "Python can't read mine.py"),
        (b"x = '\xff'\n", "Python can't read mine.py"),
    ],
)
def test_a_file_that_does_not_run_is_explained(source, message, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    assert command.main(["--file", str(path)]) == 1
    out, err = capsys.readouterr()
    assert re.search(message, out), out
    assert "Traceback" not in out + err


def test_a_file_that_is_none_and_a_loop_that_is_stopped(tmp_path, monkeypatch, capsys):
    assert command.main(["--file", str(tmp_path)]) == 1
    assert re.search("Can't read .*: Is a directory", capsys.readouterr().out)
    mine = learner(tmp_path, ("d_x_hat", "raise KeyboardInterrupt"))
    with pytest.raises(SystemExit, match=r"Stopped in line 57:\n\n    raise KeyboardInterrupt"):
        judge("d_x_hat", mine)
    with pytest.raises(SystemExit, match=r"Can't write .*: No such file"):
        command.main(["--file", str(tmp_path / "no" / "mine.py")])


def test_the_three_paths_are_all_of_the_recorded_gradient():
    for case in recorded.columns():
        paths = case.direct + case.through_mean + case.through_var
        np.testing.assert_allclose(paths, case.d_x, atol=1e-12)
        assert all(0 in c.gamma for c in recorded.columns()[1:])
    assert {c.x.shape for c in recorded.columns()} == {(3, 1), (5, 3), (4, 4), (6, 4)}


def test_a_function_that_is_gone_is_shown_again(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import numpy as np\ndef d_var(x):\n    return x\n")
    mine = Learner(path)
    assert "no function d_mean" in judge("d_mean", mine).message
    assert "    def d_mean(d_x_hat, x, mean, var, d_var, eps):" in judge("d_mean", mine).message
    assert "can't call d_var: too many" in judge("d_var", mine).message
    mine.module.inverse_sqrt = len
    assert "inverse_sqrt is no op any more" in judge("primitive", mine).message


def test_the_command_writes_checks_and_never_overwrites(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fused = dict(FUSED)
    assert command.main([]) == 0
    assert "Wrote batch_norm_exercises.py, with 11 exercises" in capsys.readouterr().out
    file = tmp_path / "batch_norm_exercises.py"
    assert file.read_text(encoding="utf-8") == text.with_holes()
    assert command.main([]) == 1
    out = capsys.readouterr().out
    assert len(re.findall("  to do", out)) == len(TASKS)
    assert "\nNext: four_steps\n  Still to do: mean.\n" in out
    file.write_text(text.solved(), encoding="utf-8")
    assert command.main([]) == 0
    assert "All is right" in capsys.readouterr().out
    assert command.main(["d_x", "d_var"]) == 0
    out = capsys.readouterr().out
    assert "d_x " in out
    assert "four_steps" not in out
    assert command.main(["--force"]) == 0
    assert (tmp_path / "batch_norm_exercises.old1.py").read_text("utf-8") == text.solved()
    assert file.read_text(encoding="utf-8") == text.with_holes()
    assert command.main(["--force"]) == 0
    assert (tmp_path / "batch_norm_exercises.old2.py").exists()
    assert dict(FUSED) == fused
    assert "batch_norm" in fused


def test_hints_lead_on_to_the_next_and_to_the_answer(capsys):
    assert HINTS.keys() == TASKS.keys() == MISTAKES.keys() == {*text.names()}
    assert command.main(["--hint", "d_var"]) == 0
    out = capsys.readouterr().out
    assert "Hint 1 of 3 for d_var" in out
    assert "--hint d_var 2" in out
    assert command.main(["--hint", "d_var", "3"]) == 0
    assert "--solution d_var" in capsys.readouterr().out
    assert command.main(["--solution", "d_var"]) == 0
    assert ANSWERS["d_var"] in capsys.readouterr().out
    for wrong in (
        ["--hint", "d_var", "4"],
        ["--hint", "d_var", "x"],
        ["--hint", "d_var", "1", "2"],
    ):
        with pytest.raises(SystemExit, match="hints 1 to 3"):
            command.main(wrong)
    with pytest.raises(SystemExit, match=r"no exercise 'd_vra'\. Did you mean d_var"):
        command.main(["d_vra"])


def test_the_file_checks_itself_when_it_is_run(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text.solved(), encoding="utf-8")
    ascii = {**os.environ, "PYTHONIOENCODING": "ascii"}  # some terminals lack √
    done = subprocess.run(
        [sys.executable, file], capture_output=True, encoding="ascii", check=True, env=ascii
    )
    assert "All is right" in done.stdout
    new = [sys.executable, "-m", "tinybn", "exercises", "--file", "new.py"]
    done = subprocess.run(new, capture_output=True, encoding="utf-8", check=True, cwd=tmp_path)
    assert "    python -m tinybn exercises --file new.py\n" in done.stdout
    done = subprocess.run(new, capture_output=True, encoding="utf-8", check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == ""
