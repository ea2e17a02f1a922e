"""Mistakes in the short forms."""

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
    PLUS,
    Mistakes,
    root,
    row_means,
)
from tinybn.exercises.recorded import Case

NO_GAMMA = "gamma is missing: what arrives at x_hat is gamma * dy."
NO_MEAN = "You forgot the path through the mean: the term with the mean of the gradient."
NO_VAR = "You forgot the path through the variance: the term along x_hat."
NO_ALONG = (
    "The path through the variance is missing: the term along x_hat. Or is it in your code, as a "
    "product of two means? Then it is 0, because the mean of x_hat is 0. It needs the mean of the "
    "products: multiply first, then take the mean."
)
SUMS = "You take sums where means belong: n is in the formula, so divide both sums by n."
KEEPDIMS = (
    "A mean over axis=-1 has shape (n,), and NumPy lines that up with the columns: give "
    "keepdims=True, so that it has shape (n, 1)."
)
NO_TERM = (
    "Your term along x_hat is 0. It needs the mean of the products g * x_hat. (A product of two "
    "means is always 0 here, because the mean of x_hat is 0.)"
)


def _form(c: Case, g: Any, mean: Any, along: Any) -> Any:
    """The short form, with g = gamma * dy and its two terms."""
    return (g - mean - c.x_hat * along) / root(c)


def _batch(c: Case, mean: Any = None, along: Any = None, axis: Any = 0) -> Any:
    """The short form of batch norm with some other term."""
    g = c.gamma * c.dy
    mean = g.mean(axis) if mean is None else mean
    return _form(c, g, mean, (g * c.x_hat).mean(axis) if along is None else along)


def _layer(c: Case, mean: Any = None, along: Any = None) -> Any:
    """The short form of layer norm with some other term."""
    g = c.gamma * c.dy
    return _form(
        c,
        g,
        row_means(g) if mean is None else mean,
        row_means(g * c.x_hat) if along is None else along,
    )


def _inner(c: Case, axis: int = 0) -> Any:
    """The short form without its denominator."""
    g = c.gamma * c.dy
    return g - g.mean(axis) - c.x_hat * (g * c.x_hat).mean(axis)


MISTAKES: Mistakes = {
    "short_form": {
        "d_x": [
            (lambda c: _batch(c, mean=0.0), NO_MEAN),
            (lambda c: _batch(c, along=0.0), NO_ALONG),
            (lambda c: c.gamma * c.dy / root(c), f"{NO_MEAN} {NO_VAR}"),
            (
                lambda c: (c.dy - c.dy.mean(0) - c.x_hat * (c.dy * c.x_hat).mean(0)) / root(c),
                NO_GAMMA,
            ),
            (lambda c: _batch(c, c.gamma * c.dy.sum(0), (c.gamma * c.dy * c.x_hat).sum(0)), SUMS),
            (
                lambda c: _batch(c, along=c.gamma * c.dy.mean(0)),
                "The term along x_hat is x_hat times the mean of dy * x_hat.",
            ),
            (lambda c: _batch(c, along=-(c.gamma * c.dy * c.x_hat).mean(0)), PLUS),
            (
                lambda c: _batch(c, mean=-c.gamma * c.dy.mean(0)),
                "The mean of dy is subtracted, not added.",
            ),
            (
                lambda c: _batch(
                    c, mean=(c.gamma * c.dy).mean(), along=(c.gamma * c.dy * c.x_hat).mean()
                ),
                EVERYTHING,
            ),
            (
                lambda c: (
                    c.gamma / root(c) * (c.dy - c.dy.mean() - c.x_hat * (c.dy * c.x_hat).mean())
                ),
                EVERYTHING,
            ),
            (
                lambda c: (
                    c.gamma / root(c) * (c.dy - c.dy.mean(-1) - c.x_hat * (c.dy * c.x_hat).mean(-1))
                ),
                ACROSS,
            ),
            (lambda c: _inner(c), "The division by √(var + eps) is missing."),
            (lambda c: _inner(c) / (c.var + c.eps), NO_ROOT),
            (lambda c: _inner(c) / np.sqrt(c.var), NO_EPS),
            (lambda c: _inner(c) / (np.sqrt(c.var) + c.eps), EPS_OUTSIDE),
            (lambda c: _inner(c) * root(c), "Divide by the root in place of multiplying."),
            (
                lambda c: _batch(
                    c,
                    c.gamma * c.dy.sum(0) / (c.n - 1),
                    (c.gamma * c.dy * c.x_hat).sum(0) / (c.n - 1),
                ),
                N_MINUS_1,
            ),
            (
                lambda c: (
                    _form(c, c.gamma * c.dy, (c.gamma * c.dy).mean(0), 0)
                    - (c.gamma * c.dy * c.x_hat).mean(0) / root(c)
                ),
                "The factor x_hat in front of the last term is missing.",
            ),
        ]
    },
    "layer_norm": {
        "d_x": [
            (
                lambda c: c.gamma * _form(c, c.dy, row_means(c.dy), row_means(c.dy * c.x_hat)),
                "gamma is outside of the means. That is right for batch norm, where a whole "
                "column shares one gamma. In a row gamma changes: take the means of gamma * dy.",
            ),
            (lambda c: _form(c, c.dy, row_means(c.dy), row_means(c.dy * c.x_hat)), NO_GAMMA),
            (
                lambda c: _batch(c),
                "You take means over axis=0, as batch norm does. In layer norm it is axis=-1.",
            ),
            (lambda c: _batch(c, axis=-1), KEEPDIMS),
            (lambda c: _layer(c, mean=(c.gamma * c.dy).mean(-1)), KEEPDIMS),
            (lambda c: _layer(c, along=(c.gamma * c.dy * c.x_hat).mean(-1)), KEEPDIMS),
            (lambda c: c.gamma * _layer(c), "gamma is multiplied twice."),
            (lambda c: _layer(c, mean=0.0), NO_MEAN),
            (lambda c: _layer(c, along=0.0), NO_ALONG),
            (
                lambda c: _layer(c, mean=row_means(c.dy)),
                "gamma is missing in the mean of the gradient.",
            ),
            (
                lambda c: _layer(c, along=row_means(c.dy * c.x_hat)),
                "gamma is missing in the last term.",
            ),
            (lambda c: _layer(c, along=-row_means(c.gamma * c.dy * c.x_hat)), PLUS),
            (
                lambda c: _layer(c, (c.gamma * c.dy).mean(), (c.gamma * c.dy * c.x_hat).mean()),
                "You take means over the whole array: they are over axis=-1, with keepdims=True.",
            ),
            (
                lambda c: _layer(
                    c, c.n * row_means(c.gamma * c.dy), c.n * row_means(c.gamma * c.dy * c.x_hat)
                ),
                SUMS,
            ),
            (lambda c: _layer(c) * root(c), "The division by √(var + eps) is missing."),
            (lambda c: _layer(c) / root(c), NO_ROOT),
            (lambda c: _layer(c) * root(c) / np.sqrt(c.var), NO_EPS),
            (lambda c: _layer(c) * root(c) / (np.sqrt(c.var) + c.eps), EPS_OUTSIDE),
        ]
    },
    "find_the_bug": {
        "d_x": [
            (lambda c: _batch(c, along=0.0), NO_TERM),
            (
                lambda c: _batch(c, along=(c.x_hat**2).mean(0)),
                "dy is not in the term along x_hat: it needs the mean of g * x_hat.",
            ),
            (
                lambda c: _batch(c, along=(c.dy * c.x_hat).mean(0)),
                "gamma is missing in the term along x_hat: use g, not dy.",
            ),
            (
                lambda c: _batch(c, along=(c.gamma * c.dy * c.x_hat).sum(0)),
                "The term along x_hat needs a mean, not a sum.",
            ),
            (lambda c: _batch(c, along=(c.gamma * c.dy * c.x_hat).mean()), EVERYTHING),
            (
                lambda c: _batch(c, along=c.gamma * c.dy * c.x_hat),
                "The mean over axis=0 is missing.",
            ),
        ],
    },
}
