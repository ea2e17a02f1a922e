"""Hints for each exercise, from the first push to nearly the answer."""

HINTS: dict[str, list[str]] = {
    "four_steps": [
        "x.mean(axis=0) is the mean of each column, of shape (C,).\n"
        "NumPy subtracts an array of shape (C,) from every row of an (n, C) array.",
        "The square of an array is array ** 2, and its mean is taken as that of x.\n"
        "np.sqrt is the square root. eps is added before the root is taken.",
    ],
    "d_x_hat": [
        "In y = gamma * x_hat + beta, the derivative of y with respect to x_hat is gamma. The\n"
        "chain rule multiplies: ∂L/∂x_hat = ∂L/∂y · ∂y/∂x_hat.",
    ],
    "d_var": [
        "The derivative of (var + eps) ** -0.5 is -0.5 * (var + eps) ** -1.5.",
        "One element of x_hat contributes d_x_hat * (x - mean) * that derivative.",
        "The same var is used in each row of its column, so the contributions add up:\n"
        "np.sum(..., axis=0).",
    ],
    "d_mean": [
        "The derivative of x_hat = (x - mean) / √(var + eps) with respect to the mean is\n"
        "-1 / √(var + eps). The mean is used in every row, so sum over axis=0.",
        "The derivative of var with respect to the mean is the mean of -2 (x - mean). The numbers\n"
        "above the mean and those below it cancel, so this is 0. Only the first contribution\n"
        "remains.",
    ],
    "d_x": [
        "The direct path: the derivative of x_hat with respect to x, with mean and var held\n"
        "fixed, is 1 / √(var + eps).",
        "Through the mean: the mean is (x1 + … + xn) / n, so its derivative with respect to each\n"
        "x is 1/n.",
        "Through the variance: the derivative of the mean of (x - mean)² with respect to each x\n"
        "is 2 (x - mean) / n. It multiplies d_var. (What the mean does here was 0: see d_mean.)",
    ],
    "primitive": [
        "1/√a is a ** -0.5, and the derivative of a ** -0.5 is -0.5 * a ** -1.5.",
        "y is a ** -0.5, so a ** -1.5 is y ** 3. The rule multiplies the derivative by g.",
    ],
    "short_form": [
        "Every term has the factor gamma / √(var + eps): put it outside.",
        "Through the mean comes minus the mean of dy. Through the variance comes minus x_hat\n"
        "times a mean over the column, of a product of two arrays you have.",
        "Inside of the brackets: dy - mean of dy - x_hat * mean of (dy * x_hat).",
    ],
    "find_the_bug": [
        "With dy = 1, g is the same in a whole column. Which of the three terms of the result\n"
        "are 0 then, even if their formulas are wrong?",
        "Compare with short_form: there, the last term has a mean of products. Here it has a\n"
        "product of means.",
        "For a_dy_that_sees_it: with a dy that is the same in a whole column, L is that number\n"
        "times the sum of y, and the sum of y is n * beta. What kind of dy has no such pattern?",
    ],
    "layer_norm": [
        "Start from what arrives at x_hat: g = gamma * dy. From there on it is the short form of\n"
        "batch norm, with g for dy and without gamma; but all means are over axis=-1.",
        "g.mean(axis=-1, keepdims=True) has shape (n, 1). Without keepdims it has shape (n,),\n"
        "and NumPy would line it up with the columns.",
    ],
    "fused": [
        "The composition: tb.ops.mean(x * x, axis=-1, keepdims=True) is the mean of the squares\n"
        "of each row, and tb.ops.sqrt takes roots.",
        "On arrays: the same with x * x, .mean(axis=-1, keepdims=True) and xp.sqrt.",
        "Two paths lead from x_hat = x * r to x: directly, and through r. The direct one gives\n"
        "r * g. The one through r gives -r * x_hat * mean of (g * x_hat), over each row.",
    ],
    "running_statistics": [
        "new = (1 - momentum) * old + momentum * batch.",
        "x.var(axis=0) divides by n; x.var(axis=0, ddof=1) divides by n - 1.",
    ],
}
