"""Where the gradient of batch norm comes from: the paths from the output back to x."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tinybn import ops
from tinybn.autodiff import grad
from tinybn.check.derivatives import Floats
from tinybn.modes import use_fused, watch
from tinybn.op import Node
from tinybn.tensor import Tensor, wrap
from tinybn.walk import Contribution


class Explanation(NamedTuple):
    """The gradient that reaches x by each path: arrays in the shape of x.

        direct            x ───────────────► d ─► x̂
        through_mean      x ──► μ ─────────► d ─► x̂
        through_variance  x ───────────────► d ──► σ² ─► x̂
        through_both      x ──► μ ─────────► d ──► σ² ─► x̂     0, up to rounding: Σ (x - μ) = 0

    Attributes:
        x, x_hat: the input, and the normalized input.
        mean, variance: one number per channel.
        dy: the gradient of x̂, which is gamma times the gradient of the output.
        total: the sum of the four paths, which is the gradient of x.
        closed_form: the gradient of x by the fused op.
    """

    x: Floats
    dy: Floats
    mean: Floats
    variance: Floats
    x_hat: Floats
    direct: Floats
    through_mean: Floats
    through_variance: Floats
    through_both: Floats
    total: Floats
    closed_form: Floats

    def __str__(self) -> str:
        """One line per path with its norm and, if they are few, the numbers of channel 0."""
        few = self.x.size // self.x.shape[1] <= 8

        def line(name: str, array: Floats) -> str:
            numbers = np.moveaxis(array, 1, 0)[0].flat if few else ()
            return f"  {name:<22}" + "".join(f"{number + 0.0:>11.6f}" for number in numbers)

        lines = [f"The gradient of batch norm, path by path, for x of shape {self.x.shape}", ""]
        if few:
            lines += [line("x", self.x), line("x_hat", self.x_hat), line("gamma * dy", self.dy)]
            lines += [line("mean, variance", np.stack([self.mean, self.variance])), ""]
        for name, path in {
            "direct": self.direct,
            "through the mean": self.through_mean,
            "through the variance": self.through_variance,
            "mean, then variance": self.through_both,
            "sum": self.total,
        }.items():
            lines.append(f"{line(name, path)}   norm {np.linalg.norm(path):.6g}")
        off = np.abs(self.total - self.closed_form).max()
        lines += ["", f"  The closed form is at most {off:.1e} from the sum."]
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For IPython and Jupyter, which would show a tuple of arrays."""
        printer.text(str(self))


def explain_batch_norm(
    x: Tensor | ArrayLike,
    dy: Tensor | ArrayLike,
    gamma: Tensor | ArrayLike | None = None,
    *,
    eps: float = 1e-5,
) -> Explanation:
    """Take the gradient of batch norm apart, path by path.

    Without its closed form, `ops.batch_norm` records the graph of the paper: μ, d = x - μ,
    σ² = mean(d²), x̂ = d / √(σ² + ε), y = γ x̂. Two ops read x (the mean and the subtraction),
    and two read d (the square and the division). This function sends each of the two contributions
    to d on to x separately. At x, the op that contributes tells which path it belongs to.

    Args:
        x: the input, (N, C) or (N, C, …); lists become float64.
        dy: the gradient of the output, in the shape of x.
        gamma: (C,), or None for 1.
        eps: as for `ops.batch_norm`.

    Raises:
        ValueError: the shapes don't fit.

    Source: Ioffe & Szegedy 2015 (1502.03167), algorithm 1 and section 3.
    """
    x, dy = _leaf(x), _leaf(dy)
    gamma = _leaf(np.ones(x.shape[1:2], x.dtype) if gamma is None else gamma)
    closed = ops.batch_norm(x, gamma, eps=eps)  # this also checks the shapes
    if dy.shape != x.shape:
        raise ValueError(
            f"explain_batch_norm: expected dy of shape {x.shape}, as x, got {dy.shape}"
        )
    recorded: dict[str, list[Tensor]] = {}

    def note(node: Node, array: Any) -> None:
        recorded.setdefault(node.op.name, []).append(wrap(array, node))

    with use_fused(False), watch(None, note):
        y = ops.batch_norm(x, gamma, eps=eps)
    (mean, variance), (d,), (x_hat,) = (recorded[op] for op in ("mean", "recentre", "divide"))
    upstream = _contributions(y, x_hat, dy.data)["multiply"]
    arrived = _contributions(x_hat, d, upstream)
    by_division = _contributions(d, x, arrived["divide"])
    by_variance = _contributions(d, x, arrived["multiply"])
    return Explanation(
        x.numpy(),
        upstream,
        mean.numpy(),
        variance.numpy(),
        x_hat.numpy(),
        direct=by_division["subtract"],
        through_mean=by_division["mean"],
        through_variance=by_variance["subtract"],
        through_both=by_variance["mean"],
        total=grad(y, x, dy, retain_graph=True)[0].numpy(),
        closed_form=grad(closed, x, dy)[0].numpy(),
    )


def _leaf(value: Tensor | ArrayLike) -> Tensor:
    dtype = None if hasattr(value, "dtype") else np.float64
    return Tensor(value, dtype=dtype, requires_grad=True, backend="numpy")


def _contributions(output: Tensor, to: Tensor, upstream: Any) -> dict[str, Floats]:
    """The contributions to the gradient of `to` in a backward pass from `output`, by op name."""
    found: dict[str, Any] = {}

    def see(c: Contribution) -> None:
        if c.source is (to._node or to):
            found[c.node.op.name] = found.get(c.node.op.name, 0) + np.array(c.value)

    with watch(see):
        grad(output, to, [upstream], retain_graph=True)
    return found
