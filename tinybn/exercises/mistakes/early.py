"""Mistakes in the four steps, and on the way back to x."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinybn.exercises.mistakes.common import (
    ACROSS,
    EPS_OUTSIDE,
    EVERYTHING,
    N_MINUS_1,
    NO_EPS,
    NO_ROOT,
    NO_SUM,
    NOT_CENTRED,
    SCALED,
    Mistakes,
    centred,
    root,
)
from tinybn.exercises.recorded import Case


def _products(c: Case) -> Any:
    """What d_var sums up."""
    return c.d_x_hat * centred(c) * -0.5 * root(c) ** -3


def _moment(c: Case) -> Any:
    return (c.d_x_hat * centred(c)).sum(0)


def _d_mean(c: Case) -> Any:
    return -c.d_x_hat.sum(0) / root(c)


MISTAKES: Mistakes = {
    "four_steps": {
        "mean": [
            (lambda c: c.x.mean(), EVERYTHING),
            (lambda c: c.x.mean(-1), ACROSS),
            (lambda c: np.median(c.x, 0), "This is the median, not the mean."),
        ],
        "var": [
            (lambda c: np.sqrt(c.var), "This is the standard deviation: leave out the root."),
            (lambda c: c.x.std(0, ddof=1), "This is a standard deviation: leave out the root."),
            (lambda c: c.x.var(0, ddof=1), f"{N_MINUS_1} In np.var, that is ddof=0, the default."),
            (lambda c: c.x.var(), EVERYTHING),
            (lambda c: (centred(c) ** 2).mean(), EVERYTHING),
            (lambda c: c.x.var(-1), ACROSS),
            (lambda c: (c.x**2).mean(0), "Subtract the mean before you square."),
            (
                lambda c: centred(c).mean(0),
                "The square is missing: what is above the mean cancels what is below it.",
            ),
            (lambda c: abs(centred(c)).mean(0), "Take squares in place of absolute values."),
            (lambda c: centred(c) ** 2, "The mean over axis=0 is missing."),
        ],
        "x_hat": [
            (lambda c: centred(c) / (np.sqrt(c.var) + c.eps), EPS_OUTSIDE),
            (lambda c: centred(c) / np.sqrt(c.var), NO_EPS),
            (lambda c: centred(c) / (c.var + c.eps), NO_ROOT),
            (lambda c: c.x / root(c), "The mean is not subtracted."),
            (lambda c: c.x - c.mean / root(c), "Put brackets around (x - mean)."),
            (lambda c: centred(c) * root(c), "Divide by the root in place of multiplying."),
            (lambda c: centred(c), "Divide by √(var + eps), too."),
        ],
        "y": [
            (lambda c: c.gamma * c.x_hat, "beta is not added."),
            (lambda c: c.x_hat + c.beta, "x_hat is not multiplied by gamma."),
            (lambda c: c.x_hat, "gamma and beta are not used."),
            (lambda c: c.gamma * c.x + c.beta, "Scale and shift x_hat, not x."),
            (lambda c: c.gamma * (c.x_hat + c.beta), "Add beta after multiplying by gamma."),
            (lambda c: c.beta * c.x_hat + c.gamma, "gamma scales, and beta shifts."),
        ],
    },
    "d_x_hat": {
        "d_x_hat": [
            (lambda c: c.dy, "gamma is missing: if x_hat grows by 1, y grows by gamma."),
            (lambda c: c.dy / c.gamma, "Multiply by gamma. Dividing fails where gamma is 0."),
            (lambda c: c.dy + c.gamma, "Multiply dy by gamma in place of adding."),
            (
                lambda c: (c.dy * c.gamma).sum(0),
                "There is nothing to sum: every element of x_hat has its own element of y.",
            ),
            (lambda c: c.dy * c.x_hat, "This leads to the gradient of gamma, not of x_hat."),
        ]
    },
    "d_var": {
        "d_var": [
            (_products, NO_SUM),
            (lambda c: _products(c).sum(), EVERYTHING),
            (lambda c: _moment(c).sum() * -0.5 * root(c) ** -3, EVERYTHING),
            (lambda c: _products(c).sum(-1), ACROSS),
            (lambda c: (c.d_x_hat * c.x).sum(0) * -0.5 * root(c) ** -3, NOT_CENTRED),
            (lambda c: (c.d_x_hat * c.x_hat).sum(0) * -0.5 * root(c) ** -3, SCALED),
            (
                lambda c: c.d_x_hat.sum(0) * -0.5 * root(c) ** -3,
                "The factor (x - mean) is missing: it multiplies (var + eps) ** -0.5 in x_hat.",
            ),
            (
                lambda c: _moment(c) * -0.5 / root(c),
                "The exponent is still -0.5: the derivative lowers it by 1, to -1.5.",
            ),
            (
                lambda c: _moment(c) * -0.5 * root(c),
                "The exponent is 0.5: the derivative of (var + eps) ** -0.5 lowers it to -1.5.",
            ),
            (
                lambda c: -_moment(c) / (c.var + c.eps),
                "This is the gradient of √(var + eps). One more step leads from there to var.",
            ),
            (
                lambda c: _moment(c) * -0.5 / (c.var + c.eps),
                "The exponent is -1 here. It is -0.5 - 1 = -1.5.",
            ),
            (lambda c: _moment(c) * -0.5 * c.var**-1.5, NO_EPS),
            (lambda c: _moment(c) * -0.5 * (np.sqrt(c.var) + c.eps) ** -3, EPS_OUTSIDE),
        ]
    },
    "d_mean": {
        "d_mean": [
            (lambda c: -c.d_x_hat / root(c), NO_SUM),
            (lambda c: -(c.d_x_hat / root(c)).sum(), EVERYTHING),
            (lambda c: -c.d_x_hat.sum() / root(c), EVERYTHING),
            (lambda c: -(c.d_x_hat / root(c)).sum(-1), ACROSS),
            (lambda c: -c.d_x_hat.sum(0), "The division by √(var + eps) is missing."),
            (lambda c: -c.d_x_hat.sum(0) / (c.var + c.eps), NO_ROOT),
            (lambda c: -c.d_x_hat.sum(0) / np.sqrt(c.var), NO_EPS),
            (lambda c: -c.d_x_hat.sum(0) / (np.sqrt(c.var) + c.eps), EPS_OUTSIDE),
            (
                lambda c: _d_mean(c) - 2 * c.d_var * c.x.mean(0),
                "In the contribution through var, you use x where (x - mean) belongs.",
            ),
            (
                lambda c: _d_mean(c) + c.d_var,
                "d_var must be multiplied by ∂var/∂mean, which is the mean of -2 (x - mean).",
            ),
        ]
    },
    "d_x": {
        "direct": [
            (lambda c: c.d_x_hat, "The division by √(var + eps) is missing."),
            (lambda c: c.d_x_hat / (c.var + c.eps), NO_ROOT),
            (lambda c: c.d_x_hat / np.sqrt(c.var), NO_EPS),
            (lambda c: c.d_x_hat / (np.sqrt(c.var) + c.eps), EPS_OUTSIDE),
            (lambda c: c.d_x_hat * root(c), "Divide by the root in place of multiplying."),
            (lambda c: c.d_x, "This is the sum of all three paths: return them one by one."),
            (lambda c: c.through_mean, "This is the path through the mean."),
        ],
        "through_mean": [
            (lambda c: 0, "You forgot the path through the mean: the mean depends on x, too."),
            (
                lambda c: 0 * c.x,
                "You forgot the path through the mean: the mean depends on x, too.",
            ),
            (lambda c: c.d_mean, "Divide by n: each x enters the mean with weight 1/n."),
            (
                lambda c: c.d_mean / (c.n - 1),
                f"{N_MINUS_1} Each x enters the mean with weight 1/n.",
            ),
            (lambda c: c.d_mean.mean() / c.n, EVERYTHING),
            (lambda c: c.through_var, "This is the path through the variance."),
        ],
        "through_var": [
            (lambda c: 0, "You forgot the path through the variance: var depends on x, too."),
            (lambda c: 0 * c.x, "You forgot the path through the variance: var depends on x, too."),
            (lambda c: c.d_var * 2 * c.x / c.n, NOT_CENTRED),
            (lambda c: c.d_var * 2 * c.x_hat / c.n, SCALED),
            (lambda c: c.d_var / c.n, "The derivative of (x - mean)² is missing: 2 (x - mean)."),
            (
                lambda c: c.d_var * centred(c) ** 2 / c.n,
                "The derivative of (x - mean)² is 2 (x - mean), not the square itself.",
            ),
            (lambda c: c.d_var * 2 * centred(c) / (c.n - 1), f"{N_MINUS_1} var is a mean over n."),
            (
                lambda c: (c.d_var * 2 * centred(c)).mean(0),
                "There is nothing to sum: every x has its own contribution. It is just / n.",
            ),
        ],
    },
}
