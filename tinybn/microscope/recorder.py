"""`record`: run a norm forward and backward, and write down everything that happens."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import tinybn
from tinybn import ops
from tinybn.autodiff import grad
from tinybn.microscope.assembly import Assembly
from tinybn.microscope.checks import check
from tinybn.microscope.programs import Listing
from tinybn.microscope.recording import VERSION, Recording
from tinybn.microscope.watching import Watcher
from tinybn.modes import no_grad, use_fused, watch
from tinybn.tensor import Tensor

NORMS: dict[str, Any] = {"batch": ops.batch_norm, "layer": ops.layer_norm, "rms": ops.rms_norm}
LEAVES = ("x", "gamma", "beta")


def record(
    x: Tensor | ArrayLike,
    dy: Tensor | ArrayLike | str,
    gamma: Tensor | ArrayLike | None = None,
    beta: Tensor | ArrayLike | None = None,
    *,
    norm: str = "batch",
    eps: float = 1e-5,
    constant: bool = False,
    fused: bool = False,
    labels: Sequence[str] = (),
    subject: str = "",
    upstream: str = "",
    command: str = "tb.microscope.record(…)",
    seed: int | None = None,
) -> Recording:
    """Record a forward and a backward pass of a norm: every op, every contribution.

        r = tb.microscope.record([[2.0], [10.0], [6.0]], dy=[[1.0], [0.0], [0.0]], eps=0.0)
        print(r)                                    # each step
        Path("microscope.html").write_text(r.html())

    Args:
        x: the input, (N, C); lists become float64.
        dy: the gradient of y, in the shape of x; or "ones"; or "squares", to differentiate
            L = Σ y² instead.
        gamma, beta: (C,); by default ones and zeros. RMS norm takes no beta.
        norm: "batch", "layer" or "rms"; the last two normalize each row.
        eps: ε, at least 0.
        constant: batch norm takes μ and σ² as constants, as if they did not depend on x.
        fused: record the closed form, which is one op, instead of the composition.
        labels: what to call the elements of x, in C order.
        subject: what to call x.
        upstream: what to call `dy`.
        command, seed: what to say about where the numbers come from.

    Raises:
        ValueError: the norm is unknown, a shape does not fit, or the arguments exclude each other.
    """
    if norm not in NORMS:
        raise ValueError(f"record: expected norm to be one of {', '.join(NORMS)}, got {norm!r}")
    if constant and norm != "batch":
        raise ValueError(f"record: only batch norm takes constant statistics, not {norm} norm")
    if norm == "rms" and beta is not None:
        raise ValueError("record: rms norm takes no beta")
    data = _leaf(x)
    if data.ndim != 2:
        raise ValueError(f"record: expected x of shape (N, C), got {data.shape}")
    n, c = data.shape
    given = [_leaf(np.ones(c, data.dtype) if gamma is None else gamma)]
    if norm != "rms":
        given.append(_leaf(np.zeros(c, data.dtype) if beta is None else beta))
    if isinstance(dy, str) and dy not in ("ones", "squares"):
        raise ValueError(f"record: expected dy as an array or 'ones' or 'squares', got {dy!r}")
    if isinstance(dy, str):
        start = None if dy == "squares" else np.ones((n, c), data.dtype)
    else:
        start = _leaf(dy).data.astype(data.dtype)
    if start is not None and start.shape != data.shape:
        raise ValueError(f"record: expected dy of shape {data.shape}, as x, got {start.shape}")
    params = [*given, None][:2]
    moments = [v.astype(data.dtype) for v in (data.data.mean(0), data.data.var(0))]
    args = [data, *params, start, *(moments if constant else [None, None])]
    step = _step(norm, float(eps), constant)
    watcher = Watcher()
    with use_fused(fused), np.errstate(all="ignore"):
        with watch(watcher.contribution, watcher.output):
            _, *gradients = step(*args)
        listing = Listing(step, args, watcher)
    axis = 0 if norm == "batch" else 1
    with no_grad(), np.errstate(all="ignore"):
        x_hat = NORMS[norm](data, eps=float(eps)).data
    assembly = Assembly(watcher, listing, dict(zip(LEAVES, [data, *given], strict=False)), moments)
    nodes = assembly.nodes(dict(zip(LEAVES, gradients, strict=False)))
    paths = {} if fused else assembly.paths(data)
    return Recording(
        version=VERSION,
        subject=subject or f"x of shape {data.shape}",
        norm=norm,
        form="fused" if fused else "primitive",
        statistics="constant" if constant else "computed",
        upstream=upstream or (dy if isinstance(dy, str) else "given"),
        eps=float(eps),
        labels=list(labels) or [f"x[{i}]" for i in range(data.size)],
        nodes=nodes,
        events=assembly.events(),
        x=0,
        output=len(nodes) - 1,
        seed=np.ones((), data.dtype) if start is None else start,
        paths=paths,
        check=check(step, args, gradients[0].data, x_hat, axis, paths, fused),
        program=listing.text,
        provenance=provenance(command, seed, data.dtype),
    )


def _leaf(value: Any) -> Tensor:
    dtype = None if hasattr(value, "dtype") else np.float64
    return Tensor(value, dtype=dtype, requires_grad=True, backend="numpy")


def _step(norm: str, eps: float, constant: bool) -> Callable[..., Any]:
    """The pass to record."""
    function: Any = NORMS[norm]

    def step(
        x: Any, gamma: Any, beta: Any, dy: Any, mean: Any, var: Any, differentiate: bool = True
    ) -> Any:
        leaves = [leaf for leaf in (x, gamma, beta) if leaf is not None]
        given = {"mean": mean, "var": var} if constant else {}
        y = function(*leaves, **given, eps=eps)
        output = ops.sum(y * y) if dy is None else y
        return (output, *grad(output, leaves, dy)) if differentiate else output

    return step


def provenance(command: str, seed: int | None, dtype: np.dtype) -> dict[str, str]:
    """Where numbers come from: the line at the bottom of a page."""
    return {
        "command": command,
        "seed": "none" if seed is None else str(seed),
        "tinybn": tinybn.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "dtype": str(dtype),
    }
