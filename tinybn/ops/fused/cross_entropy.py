"""Cross-entropy.

loss = mean over i of log Σ exp(zᵢ) - zᵢ[labelᵢ]; so dz = (softmax(z) - onehot(labels)) · dy / N.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinybn.backend import Array
from tinybn.fusion import fused
from tinybn.ops import loss
from tinybn.ops.fused.plans import planned
from tinybn.ops.fused.sums import dtypes, number, row_sums


class Plan(NamedTuple):
    """output: the dtype of the loss. dtype: to compute in. casts: whether the logits have another.

    n, classes: of logits (n, classes). starts: where each row begins in a flat array.
    """

    output: np.dtype
    dtype: np.dtype
    casts: bool
    n: Array
    classes: int
    starts: Array


@planned
def _plan(xp: Any, arrays: tuple[Any, ...]) -> Plan:
    logits, labels = arrays
    rows, classes = loss.check_logits(logits)
    loss.check_label_array(labels, rows, classes)
    output, dtype = dtypes(logits)
    starts, n = xp.arange(rows) * classes, number(xp, rows, dtype)
    return Plan(output, dtype, logits.dtype != dtype, n, classes, starts)


class Saved(NamedTuple):
    """e: exp(z - max z). total: its sums. chosen: where the labels point, in a flat array."""

    e: Array
    total: Array
    chosen: Array
    n: Array


@fused(composition=loss.cross_entropy)
def cross_entropy(xp: Any, logits: Array, *, labels: Any) -> tuple[Array, Saved]:
    labels = loss.on_host(labels)
    output, dtype, casts, n, classes, starts = _plan(xp, (logits, labels))
    loss.check_range(labels, classes)
    z = logits.astype(dtype) if casts else logits
    chosen = starts + xp.asarray(labels, starts.dtype)
    d = xp.subtract(z, z.max(axis=1)[:, None], order="C")
    d_chosen = d.take(chosen)
    e = xp.exp(d, out=d)
    total = row_sums(xp, e)
    mean = (xp.log(total) - d_chosen).sum() / len(z)
    return mean.astype(output) if casts else mean, Saved(e, total, chosen, n)


@cross_entropy.backward
def _(xp: Any, needed: Any, g: Array, saved: Saved, logits: Array, *, labels: Any) -> Any:
    e, total, chosen, n = saved
    scale = g / n
    dz = e * (scale / total)[:, None]
    dz.reshape(-1)[chosen] -= scale
    return (dz,)
