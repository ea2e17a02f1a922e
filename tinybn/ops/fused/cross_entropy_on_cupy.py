"""Cross-entropy as CuPy's kernels (see the closed form): with d = z - max z,

    loss = mean over i of log Σ exp(dᵢ) - dᵢ[labelᵢ]
    dz = (exp(d) / Σ exp(d) - onehot(labels)) · dy / N

The softmax is not kept, but computed again. Labels index nothing: columns are compared with them.
"""

from __future__ import annotations

import functools
from typing import Any

from tinybn.backend import Array
from tinybn.kernels import PAIR, kernel
from tinybn.ops import loss
from tinybn.ops.fused.cross_entropy import cross_entropy
from tinybn.ops.fused.norm_on_cupy import mean_of
from tinybn.ops.fused.sums import dtypes


@kernel
def losses_of(xp: Any) -> Any:
    """Per row: Σ exp(d), and the loss."""
    return xp.ReductionKernel(
        "Z z, Z largest, L label, L column",
        "A total, A loss",
        "Pair(exp((A)z - (A)largest), column == label ? (A)z - (A)largest : (A)0)",
        "a + b",
        "total = a.first, loss = log(a.first) - a.second",
        "0",
        "losses_of",
        reduce_type="Pair",
        preamble=PAIR,
    )


@kernel
def slope_of_losses(xp: Any) -> Any:
    return xp.ElementwiseKernel(
        "Z z, Z largest, A total, L label, L column, G g, int64 n",
        "Y dz",
        "dz = (exp((A)z - (A)largest) / total - (column == label ? (A)1 : (A)0)) * ((A)g / n)",
        "slope_of_losses",
    )


@functools.cache
def _columns(xp: Any, n: int) -> Array:
    return xp.arange(n)


@cross_entropy.forward_on("cupy")
def _(xp: Any, logits: Array, *, labels: Any) -> Any:
    labels = loss.check_labels(labels, *loss.check_logits(logits))
    output, dtype = dtypes(logits)
    rows, classes = logits.shape
    label = xp.asarray(labels, dtype=int)[:, None]  # the one copy to a GPU
    largest = logits.max(axis=1, keepdims=True)
    total, losses = (xp.empty((rows, 1), dtype) for _ in range(2))
    columns = _columns(xp, classes)
    losses_of(xp)(logits, largest, label, columns, total, losses, axis=1, keepdims=True)
    mean = mean_of(xp)(losses, rows, xp.empty((), dtype))
    return mean.astype(output, copy=False), (largest, total, label)


@cross_entropy.backward_on("cupy")
def _(xp: Any, needed: Any, g: Array, saved: Any, logits: Array, *, labels: Any) -> Any:
    largest, total, label = saved
    rows, classes = logits.shape
    dz = xp.empty(logits.shape, logits.dtype if logits.dtype.kind == "f" else total.dtype)
    slope_of_losses(xp)(logits, largest, total, label, _columns(xp, classes), g, rows, dz)
    return (dz,)
