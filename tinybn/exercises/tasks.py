"""The exercises: how each is run, and what the recorded graph says it should return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinybn.autodiff import grad
from tinybn.check import GradientError, compare, gradcheck
from tinybn.exercises import bug, recorded
from tinybn.exercises.learner import Learner, Problem, indented
from tinybn.exercises.recorded import Case
from tinybn.tensor import Tensor


class Task(NamedTuple):
    """An exercise.

    Attributes:
        results: the names of what `run` returns, which are also those of the right answers in a
            case.
        cases: the batches to run it on.
        run: calls the learner's functions on a case.
        learned: what a right answer shows, in one line.
        finish: a last check of right answers, or None.
    """

    results: tuple[str, ...]
    cases: Callable[[], list[Case]]
    run: Callable[[Learner, Case], Sequence[Any]]
    learned: str
    finish: Callable[[Learner], None] | None = None


def _calls(function: str, *arguments: str) -> Callable[[Learner, Case], Any]:
    """Call one function with these numbers of the case."""

    def run(learner: Learner, case: Case) -> Any:
        given = [getattr(case, name) for name in arguments]
        return learner.call(learner.function(function), *given)

    return run


def _one(function: str, *arguments: str) -> Callable[[Learner, Case], Sequence[Any]]:
    run = _calls(function, *arguments)
    return lambda learner, case: [run(learner, case)]


def _op(learner: Learner, name: str) -> Any:
    """The declared op of the learner's function."""
    op = getattr(learner.function(name), "op", None)
    if op is None:
        raise Problem(f"{name} is no op any more: the line with the @ above it must stay.")
    return op


def _primitive(learner: Learner, case: Case) -> Sequence[Any]:
    op = _op(learner, "inverse_sqrt")
    y = learner.call(op.forward, np, case.a)
    if y is ...:
        return [y, ...]
    with learner.explained():
        (d_a,) = op.gradients([True], case.g, case.y, [case.a], {})
    return [y, d_a]


def _second_derivative(learner: Learner) -> None:
    """The rule must also run on Tensors, and be right there."""
    function = learner.function("inverse_sqrt")
    with learner.explained():
        try:
            gradcheck(function, [recorded.roots()[0].a], order=2)
        except GradientError as error:
            raise Problem(
                "Its gradient is right, but the gradient of its gradient is not: does your rule "
                f"use numbers that are not computed from g, y and a?\n\n{indented(error)}"
            ) from None


def _fused(learner: Learner, case: Case) -> Sequence[Any]:
    op = _op(learner, "unit_rms")
    x = Tensor(case.x, requires_grad=True, backend="numpy")
    parts = learner.call(op.composition, x, eps=case.eps)
    if isinstance(parts, Tensor):
        if not parts.requires_grad:
            raise Problem(
                "The composition has lost its history: it is computed from x.data or x.numpy(), "
                "so autodiff can't see where it came from. Compute it from x itself."
            )
        parts = parts.numpy()
    elif parts is not ...:
        raise Problem(
            f"The composition returned {type(parts).__name__}, not a Tensor: use tb.ops, not NumPy."
        )
    x_hat, saved = _pair(learner.call(op.forward, np, case.x, eps=case.eps))
    if parts is ... or x_hat is ... or ... in [v for v in saved if not isinstance(v, np.ndarray)]:
        return [parts, x_hat, ...]
    arguments = (np, (True,), case.g, saved, case.x)
    gradients = learner.call(op.closed_form, *arguments, eps=case.eps)
    if not isinstance(gradients, tuple) or len(gradients) != 1:
        raise Problem("The backward function must return a tuple of one gradient: (d_x,).")
    return [parts, x_hat, gradients[0]]


def _pair(returned: Any) -> Any:
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], tuple):
        raise Problem("unit_rms must return x_hat and a tuple: return x_hat, (x_hat, r).")
    return returned


def _compared(learner: Learner) -> None:
    """As every fused op of tinybn: with the composition, in float32 and float64, to order 2."""
    case = recorded.rms_rows()[0]
    function: Any = learner.function("unit_rms")
    x = Tensor(case.x, requires_grad=True, backend="numpy")
    with learner.explained():
        (d_x,) = grad(function.op.composition(x, eps=case.eps), x, case.g)
    if not np.allclose(d_x.numpy(), case.d_x):
        raise Problem(
            "The composition's numbers are right, but autodiff finds another gradient for it: is a "
            "part of it computed from x.data or x.numpy()? Compute all of it from x itself."
        )
    with learner.explained():
        try:
            compare(function, [case.x], {"eps": case.eps}, orders=2).check()
        except GradientError as error:
            raise Problem(
                "In float64 it is right. tb.check.compare also tries float32, and found this:\n\n"
                f"{indented(error)}"
            ) from None


TASKS: dict[str, Task] = {
    "four_steps": Task(
        ("mean", "var", "x_hat", "y"),
        recorded.columns,
        _calls("four_steps", "x", "gamma", "beta", "eps"),
        "each column of y has mean beta now",
    ),
    "d_x_hat": Task(
        ("d_x_hat",),
        recorded.columns,
        _one("d_x_hat", "dy", "gamma"),
        "where gamma is 0, nothing flows back",
    ),
    "d_var": Task(
        ("d_var",),
        recorded.columns,
        _one("d_var", "d_x_hat", "x", "mean", "var", "eps"),
        "what is shared forward is summed backward",
    ),
    "d_mean": Task(
        ("d_mean",),
        recorded.columns,
        _one("d_mean", "d_x_hat", "x", "mean", "var", "d_var", "eps"),
        "the way through var adds 0: Σ (x - mean) = 0",
    ),
    "d_x": Task(
        ("direct", "through_mean", "through_var"),
        recorded.columns,
        _calls("d_x", "d_x_hat", "x", "mean", "var", "d_mean", "d_var", "eps"),
        "every x in a column moves every other",
    ),
    "primitive": Task(
        ("y", "d_a"),
        recorded.roots,
        _primitive,
        "your rule also gave the second derivative",
        _second_derivative,
    ),
    "short_form": Task(
        ("d_x",),
        recorded.columns,
        _one("short_form", "dy", "x_hat", "gamma", "var", "eps"),
        "dy without its parts along 1 and along x_hat",
    ),
    "find_the_bug": Task(
        ("d_x",),
        recorded.columns,
        bug.gradient,
        "check gradients with a random dy, never ones",
        bug.must_be_seen,
    ),
    "layer_norm": Task(
        ("d_x",),
        recorded.rows,
        _one("layer_norm", "dy", "x_hat", "gamma", "var", "eps"),
        "gamma changes within a row: inside the sums",
    ),
    "fused": Task(
        ("the composition", "x_hat", "d_x"),
        recorded.rms_rows,
        _fused,
        "tb.check.compare agrees, in float32, too",
        _compared,
    ),
    "running_statistics": Task(
        ("new_mean", "new_var"),
        recorded.running,
        _calls("running_statistics", "running_mean", "running_var", "x", "momentum"),
        "evaluation uses these: no batch needed",
    ),
}
