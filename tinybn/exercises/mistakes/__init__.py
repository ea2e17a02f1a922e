"""Wrong answers that people give, and what each of them needs to hear.

An answer that equals a wrong formula on every batch was made by that mistake. An answer that is a
multiple of the right one is found by its factor.
"""

from __future__ import annotations

from collections.abc import Callable

from tinybn.exercises.mistakes import closed_forms, early, own_ops
from tinybn.exercises.mistakes.common import Mistakes

MISTAKES: Mistakes = {**early.MISTAKES, **closed_forms.MISTAKES, **own_ops.MISTAKES}

FACTORS: list[tuple[Callable[[int], float], str]] = [
    (lambda n: 0, "It is 0 everywhere."),
    (lambda n: -1, "The sign is wrong: yours is -1 times the right answer."),
    (
        lambda n: n / (n - 1),
        "Yours is n/(n - 1) times the right answer: divide by n, not by n - 1.",
    ),
    (lambda n: (n - 1) / n, "Yours is (n - 1)/n of the right answer: divide by n - 1 here."),
    (lambda n: 2, "Yours is twice the right answer. Is there a factor ½ to come?"),
    (lambda n: 1 / 2, "Yours is half of the right answer: a factor 2 is missing."),
    (lambda n: -2, "Yours is -2 times the right answer: look at the sign, and for a factor ½."),
    (lambda n: -1 / 2, "Yours is -½ times the right answer: look at the sign, and for a factor 2."),
    (lambda n: n, "Yours is n times the right answer: divide by n, as a mean does."),
    (lambda n: 1 / n, "Yours is 1/n of the right answer: a sum is needed where you take a mean."),
    (lambda n: -n, "Yours is -n times the right answer: look at the sign, and divide by n."),
    (lambda n: -1 / n, "Yours is -1/n times the right answer: look at the sign; sum, not mean."),
]
"""Factors between a wrong answer and the right one; n elements share a mean."""
