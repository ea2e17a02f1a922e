"""The closed forms: normalization, linear and cross-entropy as one node of the graph each.

Each equals the composition of primitive ops that it names, which tests and `make compare` check
number by number. What is kept for the backward pass is the input and a few numbers per channel or
row, and of small arrays x̂ (in cross-entropy the exponentials). What is called …_in_parts works on
large arrays of NumPy's, and what is called …_on_cupy holds the same as CuPy's kernels.
"""

from tinybn.ops.fused import cross_entropy_on_cupy, norm_on_cupy  # noqa: F401, they declare themselves
from tinybn.ops.fused.batch_norm import batch_norm
from tinybn.ops.fused.cross_entropy import cross_entropy
from tinybn.ops.fused.group_norm import group_norm, instance_norm
from tinybn.ops.fused.layer_norm import layer_norm, rms_norm
from tinybn.ops.fused.linear import linear

__all__ = [
    "batch_norm",
    "cross_entropy",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "linear",
    "rms_norm",
]
