"""Cross-entropy.

loss = mean over i of log Σ exp(zᵢ) - zᵢ[labelᵢ]; so dz = (softmax(z) - onehot(labels)) · dy / N.
"""

from __future__ import annotations

from typing import Any

from tinybn.backend import Array
from tinybn.fusion import fused
from tinybn.ops import loss
from tinybn.ops.fused.sums import cast, dtypes, numbers, row_sums


@fused(composition=loss.cross_entropy)
def cross_entropy(xp: Any, logits: Array, *, labels: Any) -> tuple[Array, Any]:
    labels = loss.check_labels(labels, *loss.check_logits(logits))
    output, dtype = dtypes(logits)
    (z,) = cast(dtype, logits)
    rows, labels = numbers(xp, len(z)), xp.asarray(labels)  # the one copy to a GPU
    d = z - z.max(axis=1)[:, None]
    chosen = d[rows, labels]
    p = xp.exp(d)
    total = row_sums(xp, p)
    p /= total[:, None]
    mean = (xp.log(total) - chosen).sum() / len(z)
    return mean.astype(output), (p, rows, labels)


@cross_entropy.backward
def _(xp: Any, needed: Any, g: Array, saved: Any, logits: Array, *, labels: Any) -> Any:
    p, rows, labels = saved
    scale = g / len(p)
    dz = p * scale
    dz[rows, labels] -= scale
    return (dz,)
