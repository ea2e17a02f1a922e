"""Mistakes in running statistics, and in ops of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinybn.exercises.mistakes.common import EVERYTHING, PLUS, Mistakes, row_means
from tinybn.exercises.recorded import Case

WRONG_WAY = "momentum is the weight of the new value here; the old one keeps 1 - momentum."


def _moving(c: Case, old: Any, new: Any) -> Any:
    return (1 - c.momentum) * old + c.momentum * new


def _rms(c: Case, axis: int = -1) -> Any:
    """1 / √(mean(x²) + eps)."""
    return 1 / np.sqrt((c.x**2).mean(axis, keepdims=True) + c.eps)


MISTAKES: Mistakes = {
    "running_statistics": {
        "new_mean": [
            (lambda c: c.momentum * c.running_mean + (1 - c.momentum) * c.x.mean(0), WRONG_WAY),
            (lambda c: c.x.mean(0), "This forgets the old value: keep 1 - momentum of it."),
            (
                lambda c: c.running_mean + c.momentum * c.x.mean(0),
                "The old value keeps only 1 - momentum of its weight.",
            ),
            (lambda c: _moving(c, c.running_mean, c.x.mean()), EVERYTHING),
            (lambda c: (c.running_mean + c.x.mean(0)) / 2, "Weigh by momentum, not by ½."),
            (lambda c: c.running_mean, "This is the old value: the batch has to move it."),
        ],
        "new_var": [
            (
                lambda c: _moving(c, c.running_var, c.x.var(0)),
                "You store the biased variance. Divide by n - 1 here: np.var(..., ddof=1).",
            ),
            (
                lambda c: c.momentum * c.running_var + (1 - c.momentum) * c.x.var(0, ddof=1),
                WRONG_WAY,
            ),
            (
                lambda c: c.momentum * c.running_var + (1 - c.momentum) * c.x.var(0),
                f"{WRONG_WAY} And divide by n - 1.",
            ),
            (
                lambda c: _moving(c, c.running_var, c.x.std(0)),
                "This is the standard deviation: store the variance, unbiased.",
            ),
            (
                lambda c: _moving(c, c.running_var, c.x.std(0, ddof=1)),
                "This is the standard deviation: store the variance.",
            ),
            (lambda c: c.x.var(0, ddof=1), "This forgets the old value: keep 1 - momentum of it."),
            (
                lambda c: c.running_var + c.momentum * c.x.var(0, ddof=1),
                "The old value keeps only 1 - momentum of its weight.",
            ),
            (lambda c: _moving(c, c.running_var, c.x.var(ddof=1)), EVERYTHING),
            (lambda c: c.running_var, "This is the old value: the batch has to move it."),
        ],
    },
    "primitive": {
        "y": [
            (lambda c: np.sqrt(c.a), "This is √a: divide 1 by it."),
            (lambda c: 1 / c.a, "The root is missing."),
        ],
        "d_a": [
            (lambda c: -(c.y**3) / 2, "g is missing: a rule multiplies g by the derivative."),
            (
                lambda c: -c.g * c.y / 2,
                "The exponent of a is still -½: the derivative lowers it to -1½, y**3.",
            ),
            (
                lambda c: -c.g * c.y**2 / 2,
                "The exponent of a is -1 here. It is -½ - 1 = -1½, which is y**3.",
            ),
            (lambda c: c.g * c.y / 2, "This is the rule of √a: y is 1/√a here."),
            (lambda c: -c.g * c.a**3 / 2, "You use a where y belongs: y**3 is a**-1.5."),
            (
                lambda c: c.g * c.y,
                "This is g times the op itself: it needs the derivative of 1/√a.",
            ),
        ],
    },
    "fused": {
        "the composition": [
            (lambda c: c.x * _rms(c, 0), "The mean is over each row: axis=-1, keepdims=True."),
            (lambda c: c.x * _rms(c) ** 2, "The square root is missing."),
            (
                lambda c: c.x / (np.sqrt((c.x**2).mean(-1, keepdims=True)) + c.eps),
                "eps belongs under the root.",
            ),
            (lambda c: c.x / np.sqrt((c.x**2).mean(-1, keepdims=True)), "eps is missing."),
        ],
        "x_hat": [
            (lambda c: c.x * _rms(c, 0), "The mean is over each row: axis=-1, keepdims=True."),
            (lambda c: c.x / _rms(c), "r is 1/√(…): multiply by it."),
            (
                lambda c: c.x / (np.sqrt((c.x**2).mean(-1, keepdims=True)) + c.eps),
                "eps belongs under the root.",
            ),
            (lambda c: c.x / np.sqrt((c.x**2).mean(-1, keepdims=True)), "eps is missing."),
            (lambda c: (c.x - row_means(c.x)) * _rms(c), "RMS norm subtracts no mean."),
            (
                lambda c: (c.x - row_means(c.x)) / np.sqrt(c.x.var(-1, keepdims=True) + c.eps),
                "This is layer norm: RMS norm subtracts no mean.",
            ),
        ],
        "d_x": [
            (lambda c: c.g * _rms(c), "The term along x_hat is missing: r depends on x, too."),
            (
                lambda c: _rms(c) * (c.g - row_means(c.g) - c.x_hat * row_means(c.g * c.x_hat)),
                "You subtract the mean of g, as layer norm does. RMS norm takes no mean of x, so "
                "that path does not exist.",
            ),
            (lambda c: c.g - c.x_hat * row_means(c.g * c.x_hat), "The factor r is missing."),
            (lambda c: _rms(c) * (c.g + c.x_hat * row_means(c.g * c.x_hat)), PLUS),
            (
                lambda c: _rms(c) * (c.g - c.x_hat * c.n * row_means(c.g * c.x_hat)),
                "The term along x_hat needs a mean, not a sum.",
            ),
            (
                lambda c: _rms(c) * (c.g - c.x_hat * (c.g * c.x_hat).mean(0)),
                "The mean is over each row: axis=-1, keepdims=True.",
            ),
            (
                lambda c: _rms(c) * (c.g - row_means(c.g * c.x_hat)),
                "The factor x_hat in front of the last term is missing.",
            ),
        ],
    },
}
