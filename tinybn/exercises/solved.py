# mypy: ignore-errors
"""Batch normalization, by your own hands: eleven exercises.

Replace every `...` with code (in find_the_bug, repair a bug), save, and let the checker look:

    python -m tinybn exercises                     checks everything
    python -m tinybn exercises d_var               checks one exercise
    python -m tinybn exercises --hint d_var        gives a hint
    python -m tinybn exercises --solution d_var    shows the answer

The checker calls your functions with numbers, most of them random. It compares what they return
with what tinybn recorded while it ran batch norm forward and backward. You may print() in them.

All names mean the same everywhere:

    x            a batch: n rows (examples) and C columns (features), so its shape is (n, C)
    mean, var    μ and σ² of each column, of shape (C,)
    x_hat        x̂ = (x - mean) / √(var + eps), of shape (n, C)
    y            gamma * x_hat + beta, of shape (n, C); gamma and beta have shape (C,)
    L            the loss: one number, computed from y
    dy           ∂L/∂y, of shape (n, C): how much L grows when an element of y grows
    d_x, d_var   and so on: ∂L/∂x, ∂L/∂var, …, each in the shape of what it belongs to

Batch norm works on each column separately. So almost every sum and mean here is over the rows:
axis=0. All arrays are NumPy's and hold float64 numbers. An argument such as d_var is an array
that you are given: it does not depend on what your own function d_var returns.
"""

import numpy as np

import tinybn as tb


# ---------------------------------------------------------------------------------- four_steps
def four_steps(x, gamma, beta, eps):
    """Batch norm, forward.

    1. mean: the mean of each column.
    2. var: the variance of each column, which is the mean of (x - mean)².
    3. x_hat: x without its mean, divided by the square root of (var + eps).
    4. y: x_hat, scaled by gamma and shifted by beta.
    """
    # hole: mean = ...
    mean = x.mean(axis=0)
    # hole: var = ...
    var = ((x - mean) ** 2).mean(axis=0)
    # hole: x_hat = ...
    x_hat = (x - mean) / np.sqrt(var + eps)
    # hole: y = ...
    y = gamma * x_hat + beta

    return mean, var, x_hat, y


# ------------------------------------------------------------------------------------- d_x_hat
def d_x_hat(dy, gamma):
    """∂L/∂x̂, the first step of the backward pass.

    Forward, y = gamma * x_hat + beta. If an element of x_hat grows a little, by how much does y
    grow, and so L?
    """
    # hole: return ...
    return dy * gamma


# --------------------------------------------------------------------------------------- d_var
def d_var(d_x_hat, x, mean, var, eps):
    """∂L/∂var, of shape (C,).

    Forward, x_hat = (x - mean) * (var + eps) ** -0.5. One var serves its whole column.
    """
    # hole: return ...
    return np.sum(d_x_hat * (x - mean), axis=0) * -0.5 * (var + eps) ** -1.5


# -------------------------------------------------------------------------------------- d_mean
def d_mean(d_x_hat, x, mean, var, d_var, eps):
    """∂L/∂mean, of shape (C,).

    Forward, two lines read the mean:

        x_hat = (x - mean) / √(var + eps)
        var = the mean of (x - mean)²

    d_var is ∂L/∂var, so you have it already. One of the two contributions is always 0. Which one,
    and why? (With it or without it, your answer is right.)
    """
    # hole: return ...
    return -np.sum(d_x_hat, axis=0) / np.sqrt(var + eps)


# ----------------------------------------------------------------------------------------- d_x
def d_x(d_x_hat, x, mean, var, d_mean, d_var, eps):
    """∂L/∂x, the gradient that batch norm passes on: the sum of three contributions.

    Forward, three lines read x. So three paths lead back to it:

        x_hat = (x - mean) / √(var + eps)     the direct path
        mean = the mean of x                  the path through the mean
        var = the mean of (x - mean)²         the path through the variance

    Return the three contributions. The checker adds them up.
    """
    # hole: direct = ...
    direct = d_x_hat / np.sqrt(var + eps)
    # hole: through_mean = ...
    through_mean = d_mean / len(x)
    # hole: through_var = ...
    through_var = d_var * 2 * (x - mean) / len(x)

    return direct, through_mean, through_var


# ----------------------------------------------------------------------------------- primitive
# An op of your own: 1/√a for each element, with its gradient rule.
def rule(g, y, a):
    """∂L/∂a, from g = ∂L/∂y, the output y = 1/√a, and the input a.

    A rule also runs on Tensors: that is how tinybn differentiates a second time. So it uses
    operators (*, /, **) and functions of tb.ops, but not NumPy.
    """
    # hole: return ...
    return -g * y**3 / 2


@tb.primitive(rule)
def inverse_sqrt(xp, a):
    """1/√a, for a > 0. xp is the array library, here NumPy: write xp.sqrt."""
    # hole: return ...
    return 1 / xp.sqrt(a)


# ---------------------------------------------------------------------------------- short_form
def short_form(dy, x_hat, gamma, var, eps):
    """∂L/∂x again, in one line: no d_var, no d_mean, and not even x.

    Put the formulas of d_var, d_mean and d_x into each other, with (x - mean) written as
    x_hat * √(var + eps). What remains is dy, minus its mean, minus something along x_hat; all
    of it scaled.
    """
    # hole: return ...
    return gamma / np.sqrt(var + eps) * (dy - dy.mean(axis=0) - x_hat * (dy * x_hat).mean(axis=0))


# -------------------------------------------------------------------------------- find_the_bug
def batch_norm_gradient(dy, x_hat, gamma, var, eps):
    """∂L/∂x of batch norm, by somebody who checked it with dy = 1 everywhere.

    Then it returns 0 for every x, and that is right. Still, one line is wrong. Repair it.
    """
    g = gamma * dy
    mean_of_g = g.mean(axis=0)
    # hole: along_x_hat = g.mean(axis=0) * x_hat.mean(axis=0)
    along_x_hat = (g * x_hat).mean(axis=0)

    return (g - mean_of_g - x_hat * along_x_hat) / np.sqrt(var + eps)


def a_dy_that_sees_it(y, rng):
    """Which dy would have shown the bug? Return one, in the shape of y.

    y is the output of batch norm. rng draws random numbers: rng.standard_normal(y.shape).
    """
    # hole: return np.ones(y.shape)
    return rng.standard_normal(y.shape)


# ---------------------------------------------------------------------------------- layer_norm
def layer_norm(dy, x_hat, gamma, var, eps):
    """∂L/∂x of layer norm, which normalizes each row instead of each column.

    So mean and var belong to a row: they are taken over axis=-1, and var has shape (n, 1).
    gamma still has shape (C,): within one row, it is a different number for every element.
    """
    # hole: return ...
    g = gamma * dy
    along = (g * x_hat).mean(axis=-1, keepdims=True)
    return (g - g.mean(axis=-1, keepdims=True) - x_hat * along) / np.sqrt(var + eps)


# --------------------------------------------------------------------------------------- fused
# A fused op of your own: RMS norm, x_hat = x / √(mean(x²) + eps). The mean is over each row. It is
# layer norm without subtracting the mean.
def unit_rms_from_parts(x, *, eps):
    """The composition, from functions of tb.ops and operators. Autodiff finds its gradient."""
    # hole: return ...
    return x / tb.ops.sqrt(tb.ops.mean(x * x, axis=-1, keepdims=True) + eps)


@tb.fused(composition=unit_rms_from_parts)
def unit_rms(xp, x, *, eps):
    """The same on plain arrays. It returns x_hat, and a tuple of what the gradient needs.

    r is 1 / √(mean(x²) + eps), of shape (n, 1).
    """
    # hole: r = ...
    r = 1 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    # hole: x_hat = ...
    x_hat = x * r

    return x_hat, (x_hat, r)


@unit_rms.backward
def _(xp, needed, g, saved, x, *, eps):
    """The closed form of the gradient, from g = ∂L/∂x̂.

    It is the short form of layer norm with one term less.
    """
    x_hat, r = saved
    # hole: d_x = ...
    d_x = r * (g - x_hat * (g * x_hat).mean(axis=-1, keepdims=True))

    return (d_x,)  # a tuple: one gradient per input


# -------------------------------------------------------------------------- running_statistics
def running_statistics(running_mean, running_var, x, momentum):
    """What batch norm remembers in training, for later: two moving averages.

    After each batch, each moves a step from its old value toward the batch's value. momentum,
    such as 0.1, is the weight of the batch's value; the old value keeps the rest of the weight.
    The batch's variance is the unbiased one here: the sum of (x - mean)² divided by n - 1.
    """
    # hole: new_mean = ...
    new_mean = (1 - momentum) * running_mean + momentum * x.mean(axis=0)
    # hole: new_var = ...
    new_var = (1 - momentum) * running_var + momentum * x.var(axis=0, ddof=1)

    return new_mean, new_var


# ---------------------------------------------------------------------------------- the checker
if __name__ == "__main__":  # so that running this file checks it, too
    from tinybn.exercises import check

    check(__file__)
