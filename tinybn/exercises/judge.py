"""Is an answer right? If not: where it differs first, and which mistake gives these numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinybn.exercises.learner import Hole, Learner, Problem
from tinybn.exercises.mistakes import FACTORS, MISTAKES
from tinybn.exercises.recorded import Case
from tinybn.exercises.tasks import TASKS
from tinybn.tensor import Tensor

RIGHT, WRONG, TO_DO = "right", "not yet", "to do"


class Verdict(NamedTuple):
    """What the checker says about an exercise: `state` is RIGHT, WRONG or TO_DO."""

    state: str
    message: str


def judge(name: str, learner: Learner) -> Verdict:
    """Check one exercise."""
    task = TASKS[name]
    cases = task.cases()
    try:
        answers = [_answers(learner, name, case) for case in cases]
        for k, result in enumerate(task.results):
            found = [a if isinstance(a, Problem) else a[k] for a in answers]
            _judge(name, result, found, cases, task.results[:k])
        if problem := next((a for a in answers if isinstance(a, Problem)), None):
            raise problem
        if task.finish:
            task.finish(learner)
    except Hole as hole:
        return Verdict(TO_DO, _wrapped(hole))
    except Problem as problem:
        return Verdict(WRONG, _wrapped(problem))
    return Verdict(RIGHT, task.learned)


def _wrapped(problem: Problem) -> str:
    """Its message in short lines, except for what is indented."""
    lines: list[str] = []
    for line in str(problem).splitlines():
        lines += [line] if line[:1] in ("", " ") else textwrap.wrap(line, 86)
    return "\n".join(lines)


def _answers(learner: Learner, name: str, case: Case) -> Any:
    """What the learner's code returns for a batch, or the problem that stopped it."""
    task = TASKS[name]
    try:
        returned: Any = task.run(learner, case)
    except Hole:
        raise
    except Problem as problem:
        return problem
    if returned is ...:
        return [...] * len(task.results)
    if not isinstance(returned, tuple | list) or len(returned) != len(task.results):
        many = f"{len(returned)} things" if isinstance(returned, tuple | list) else _kind(returned)
        return Problem(
            f"It must return {len(task.results)} things ({', '.join(task.results)}), and returned "
            f"{many}. Leave its last line as it was."
        )
    return returned


def _judge(
    name: str, result: str, found: Sequence[Any], cases: Sequence[Case], done: Sequence[str]
) -> None:
    """Raise a Problem if a result is wrong in any case."""
    stopped = [value for value in found if isinstance(value, Problem)]
    for value, case in zip(found, cases, strict=True):
        if isinstance(value, Problem):
            continue
        if value is ...:
            raise Hole(_still_to_do(name, result, done))
        expected = getattr(case, "x_hat" if result == "the composition" else result)
        if fault := _fault(value, expected):
            advice = advice_on(name, result, found, cases)
            if not advice and isinstance(value, np.ndarray) and value.dtype.kind == "f":
                advice = _paths(result, value, expected, case)
            if not advice and stopped:
                raise stopped[0]
            lines = [f"With {case.title}, {result} is not right:", "", fault]
            raise Problem("\n".join([*lines, "", advice]).rstrip())


def _still_to_do(name: str, result: str, done: Sequence[str]) -> str:
    if len(TASKS[name].results) == 1:
        return ""
    right = f"Right so far: {', '.join(done)}. " if done else ""
    return f"{right}Still to do: {result}."


def _fault(value: Any, expected: Any) -> str:
    """What is wrong with a value, or "" if it is right."""
    if value is None:
        return "    It returned nothing (None): is a `return` missing?"
    if isinstance(value, Tensor):
        return "    It returned a Tensor. Arrays come in, so an array must come out: use NumPy."
    if isinstance(value, list | tuple):
        return f"    It returned a {type(value).__name__}: return an array."
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        return f"    It returned {_kind(value)}: return an array of numbers."
    if not _fits(array.shape, expected.shape):
        return f"    Its shape is {array.shape}, and should be {expected.shape}."
    if isinstance(value, np.ndarray | np.generic) and array.dtype != expected.dtype:
        return f"    Its dtype is {array.dtype}, and should be {expected.dtype}: convert nothing."
    array = np.broadcast_to(array.reshape(array.shape[-expected.ndim :]), expected.shape)
    wrong = ~_close(array, expected)
    if not wrong.any():
        return ""
    places = [tuple(map(int, index)) for index in np.argwhere(wrong)]
    rows = [("[row, column]" if array.ndim == 2 else "[column]", "yours", "expected")]
    rows += [(f"{[*i]}", *_apart(array[i], expected[i])) for i in places[:3]]
    lines = [f"    {place:<13}{yours:>18}{right:>18}" for place, yours, right in rows]
    if len(places) > 3:
        lines.append(f"    … ({len(places)} of {array.size} numbers differ)")
    if not np.isfinite(array).all():
        lines += ["", "    Yours has an inf or a NaN: is something divided by 0 there?"]
    return "\n".join(lines)


def _apart(yours: float, expected: float) -> tuple[str, str]:
    """Two numbers with so many digits that one sees that they differ."""
    for digits in range(6, 17):
        shown = f"{yours:.{digits}g}", f"{expected:.{digits}g}"
        if shown[0] != shown[1]:
            break
    return shown


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a result may have this shape: one per column may also be (1, C), and so on."""
    extra = len(shape) - len(expected)
    own = shape[max(extra, 0) :]
    if any(n != 1 for n in shape[: max(extra, 0)]):
        return False
    return all(n in (1, m) for n, m in zip(own[::-1], expected[::-1], strict=False))


def _close(array: Any, expected: Any) -> Any:
    """Elementwise, relative to the largest number."""
    finite = np.abs(expected[np.isfinite(expected)])
    scale = finite.max() if finite.size else 1.0
    return np.isclose(array, expected, rtol=0, atol=1e-9 * scale + 1e-12, equal_nan=True)


def advice_on(name: str, result: str, found: Sequence[Any], cases: Sequence[Case]) -> str:
    """The mistake that gives these numbers in every case, or ""."""
    for formula, advice in MISTAKES[name].get(result, []):
        if _explains(formula, found, cases):
            return advice
    for factor, advice in FACTORS:
        field = "x_hat" if result == "the composition" else result
        if _explains(lambda c, f=factor, r=field: f(c.n) * getattr(c, r), found, cases):
            return advice
    return ""


def _explains(formula: Any, found: Sequence[Any], cases: Sequence[Case]) -> bool:
    """Whether a formula gives these numbers in every case in which there are any."""
    for value, case in zip(found, cases, strict=True):
        if isinstance(value, Problem):
            continue
        if not isinstance(value, np.ndarray | np.generic | int | float):
            return False
        try:
            with np.errstate(all="ignore"):
                wrong = np.asarray(formula(case))
        except ValueError:  # the shapes don't fit
            return False
        array = np.asarray(value)
        if array.dtype.kind not in "iuf" or array.shape != wrong.shape:
            return False
        if not _close(array, wrong).all():
            return False
    return True


def _paths(result: str, value: Any, expected: Any, case: Case) -> str:
    """For a whole gradient of x: what each path brings to the first element that differs."""
    if result != "d_x" or not hasattr(case, "direct") or np.shape(value) != expected.shape:
        return ""
    wrong = np.argwhere(~_close(value, expected))
    if not wrong.size:  # it is the dtype
        return ""
    i = tuple(map(int, wrong[0]))
    named = {"direct": case.direct, "through mean": case.through_mean}
    named["through var"] = case.through_var
    lines = [f"    {name:<14}{path[i]:>14.6g}" for name, path in named.items()]
    return "\n".join([f"The recorded backward pass adds up, at {[*i]}:", "", *lines])


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"
