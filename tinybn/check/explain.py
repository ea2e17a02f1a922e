"""Where the gradient of batch norm comes from: the paths that lead from the output into x."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinybn import ops
from tinybn.autodiff import grad
from tinybn.modes import use_fused, watch
from tinybn.op import Node
from tinybn.tensor import Tensor, wrap
from tinybn.walk import Contribution


class Explanation(NamedTuple):
    """What reached x, path by path; arrays of the shape of x, but for the mean and the variance.

    direct:           x ───────────────► d ─► x̂
    through_mean:     x ──► μ ─────────► d ─► x̂
    through_variance: x ───────────────► d ──► σ² ─► x̂
    through_both:     x ──► μ ─────────► d ──► σ² ─► x̂     0 but for rounding: Σ (x - μ) = 0

    total: their sum, which is the gradient of x. closed_form: what the fused op gives.
    """

    x: np.ndarray
    dy: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    x_hat: np.ndarray
    direct: np.ndarray
    through_mean: np.ndarray
    through_variance: np.ndarray
    through_both: np.ndarray
    total: np.ndarray
    closed_form: np.ndarray

    def __str__(self) -> str:
        """A line per path with its norm; with its numbers too, of channel 0, if those are few."""
        few = self.x.size // self.x.shape[1] <= 8
        paths = {
            "direct": self.direct,
            "through the mean": self.through_mean,
            "through the variance": self.through_variance,
            "mean, then variance": self.through_both,
            "sum": self.total,
        }
        lines = [f"The gradient of batch norm, path by path, for x of shape {self.x.shape}", ""]
        if few:
            given = {"x": self.x, "x_hat": self.x_hat, "gamma · dy": self.dy}
            lines += [_line(name, _of_channel_0(value)) for name, value in given.items()]
            lines += [_line("mean, variance", [self.mean.flat[0], self.variance.flat[0]]), ""]
        for name, value in paths.items():
            numbers = _line(name, _of_channel_0(value) if few else [])
            lines.append(f"{numbers}   norm {np.linalg.norm(value):.6g}")
        off = np.abs(self.total - self.closed_form).max()
        lines += ["", f"  The closed form is at most {off:.1e} from the sum."]
        return "\n".join(lines)


def _of_channel_0(array: np.ndarray) -> list[float]:
    return np.moveaxis(array, 1, 0)[0].ravel().tolist()


def _line(name: str, values: list[float]) -> str:
    return f"  {name:<22}" + "".join(f"{value + 0.0:>11.6f}" for value in values)


def explain_batch_norm(x: Any, dy: Any, gamma: Any = None, *, eps: float = 1e-5) -> Explanation:
    """Take the gradient of batch norm apart, by what a recorded backward pass reports.

    x, dy: (N, C) or (N, C, …), the input and the gradient of the output; arrays, Tensors or lists
    (which become float64). gamma: (C,), or None for 1.

    What is read is the graph that ops.batch_norm records without its closed form, and it is that of
    the paper (Ioffe & Szegedy 2015, algorithm 1): μ, d = x - μ, σ² = mean(d²), x̂ = d / √(σ² + ε),
    y = γ x̂. In it x is read twice, by the mean and by the difference, and d twice, by the variance
    and by the division. So each of the two gradients that arrive at d is sent on to x alone, and
    what comes there is told apart by the op it comes from.
    """
    x, dy = (_tensor(a) for a in (x, dy))
    gamma = _tensor(np.ones(x.shape[1:2], x.dtype) if gamma is None else gamma)
    closed = ops.batch_norm(x, gamma, eps=eps)  # which also checks the shapes
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


def _tensor(value: Any) -> Tensor:
    dtype = None if hasattr(value, "dtype") else np.float64
    return Tensor(value, dtype=dtype, requires_grad=True, backend="numpy")


def _contributions(output: Tensor, to: Tensor, upstream: Any) -> dict[str, np.ndarray]:
    """What a backward pass from `output` adds to the gradient of `to`, by the op it comes from."""
    found: dict[str, np.ndarray] = {}

    def see(c: Contribution) -> None:
        if c.source is (to._node or to):
            found[c.node.op.name] = found.get(c.node.op.name, 0) + np.array(c.value)

    with watch(see):
        grad(output, to, [upstream], retain_graph=True)
    return found
