"""The exercise find_the_bug: a planted bug, and a gradient of y that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinybn.exercises import recorded, text
from tinybn.exercises.learner import Hole, Learner, Problem
from tinybn.exercises.recorded import Case


def gradient(learner: Learner, case: Case) -> Sequence[Any]:
    """The gradient by the learner's function, if the bug is not there any more."""
    given = (case.dy, case.x_hat, case.gamma, case.var, case.eps)
    d_x = learner.call(learner.function("batch_norm_gradient"), *given)
    planted = text.PLANTED in learner.path.read_text("utf-8", errors="replace")
    if planted and np.array_equal(d_x, _planted()(*given)):
        raise Hole(
            "The bug is still there: a gradient that is right for dy = 1 may be wrong."
            + _praise(learner)
        )
    return [d_x]


def must_be_seen(learner: Learner) -> None:
    """The learner's dy must tell the planted bug from the right gradient."""
    case = recorded.columns()[1]
    rng = np.random.default_rng(0)
    dy = learner.call(learner.function("a_dy_that_sees_it"), case.y, rng)
    if dy is ...:
        raise Hole("a_dy_that_sees_it still has a `...`.")
    if not isinstance(dy, np.ndarray) or dy.shape != case.y.shape or dy.dtype.kind not in "if":
        raise Problem(f"a_dy_that_sees_it must return an array of shape {case.y.shape}, as y.")
    if not np.isfinite(dy).all():
        raise Problem("a_dy_that_sees_it returned an inf or a NaN.")
    wrong = _planted()(dy, case.x_hat, case.gamma, case.var, case.eps)
    right = recorded.with_dy(case, dy.astype(np.float64))
    if not np.allclose(wrong, right, rtol=0, atol=1e-6 * abs(dy).max()):
        return
    raise Hole(
        "The gradient is right now. Still to do: with your a_dy_that_sees_it, the wrong gradient "
        "would equal the right one. If dy is the same in a whole column, L is that number times "
        "the sum of y. That sum does not depend on x: it is n * beta."
    )


def _praise(learner: Learner) -> str:
    """Say so if the learner's dy is right already."""
    try:
        must_be_seen(learner)
    except Problem:
        return ""
    return " Your a_dy_that_sees_it is right: with it, a check would fail. Now repair the gradient."


def _planted() -> Any:
    """The wrong function of the file."""
    names: dict[str, Any] = {"np": np}
    exec(text.with_holes("find_the_bug"), names)  # noqa: S102, our own text
    return names["batch_norm_gradient"]
