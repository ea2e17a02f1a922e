"""Matrix products."""

from __future__ import annotations

from typing import Any

from tinybn.backend import Array
from tinybn.op import primitive
from tinybn.ops import checks
from tinybn.ops.shape import expand_dims, reshape, squeeze
from tinybn.tensor import Input, Tensor

__all__ = ["matmul"]


def _transposed(a: Any) -> Any:
    return a.T if a.ndim == 2 else a.swapaxes(-1, -2)


def _left(g: Any, a: Any, b: Any) -> Any:
    """g bᵀ. As in NumPy, a 1-d array is a row on the left and a column on the right."""
    if b.ndim == 1:
        return expand_dims(g, -1) * b
    if a.ndim == 1:
        return squeeze(expand_dims(g, -2) @ _transposed(b), -2)
    return g @ _transposed(b)


def _right(g: Any, a: Any, b: Any) -> Any:
    """aᵀ g."""
    if a.ndim == 1:
        return a * g if b.ndim == 1 else expand_dims(a, -1) * expand_dims(g, -2)
    if b.ndim == 1:
        return squeeze(_transposed(a) @ expand_dims(g, -1), -1)
    if b.ndim == 2 < a.ndim:  # one product of tall matrices, not a sum of many products
        return reshape(a, (-1, a.shape[-1])).T @ reshape(g, (-1, g.shape[-1]))
    return _transposed(a) @ g


@primitive(_left, _right)
def matmul(xp: Any, a: Array, b: Array) -> Array:
    """a @ b: (…, n, k) and (…, k, m) give (…, n, m), with NumPy's rules for 1-d arrays."""
    return a @ b


def linear(x: Input, weight: Input, bias: Input | None = None) -> Tensor:
    """x @ weight + bias: x (…, in), weight (in, out) and bias (out,) give (…, out)."""
    checks.linear(x, weight, bias)
    y = matmul(x, weight)
    return y if bias is None else y + bias
