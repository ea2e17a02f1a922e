"""Matrix products."""

from __future__ import annotations

from typing import Any

from tinybn.backend import Array
from tinybn.ops.shape import expand_dims, reshape, squeeze
from tinybn.recording import primitive
from tinybn.tensor import Input, Tensor, shape_of


def _transposed(a: Any) -> Any:
    return a.T if a.ndim == 2 else a.swapaxes(-1, -2)


def _left(g: Any, y: Any, a: Any, b: Any) -> Any:
    """g bᵀ. (1-d arrays are a row on the left and a column on the right, as in NumPy.)"""
    if b.ndim == 1:
        return expand_dims(g, -1) * b
    if a.ndim == 1:
        return squeeze(expand_dims(g, -2) @ _transposed(b), -2)
    return g @ _transposed(b)


def _right(g: Any, y: Any, a: Any, b: Any) -> Any:
    """aᵀ g."""
    if a.ndim == 1:
        return a * g if b.ndim == 1 else expand_dims(a, -1) * expand_dims(g, -2)
    if b.ndim == 1:
        return squeeze(_transposed(a) @ expand_dims(g, -1), -1)
    if b.ndim == 2 < a.ndim:  # one product of tall matrices, not a stack of products to be summed
        return reshape(a, (-1, a.shape[-1])).T @ reshape(g, (-1, g.shape[-1]))
    return _transposed(a) @ g


@primitive(_left, _right)
def matmul(xp: Any, a: Array, b: Array) -> Array:
    """a @ b: (…, n, k) and (…, k, m) give (…, n, m), with NumPy's rules for 1-d arrays."""
    return a @ b


def linear(x: Input, weight: Input, bias: Input | None = None) -> Tensor:
    """x @ weight + bias: x (…, in), weight (in, out) and bias (out,) give (…, out)."""
    check_linear(x, weight, bias)
    y = matmul(x, weight)
    return y if bias is None else y + bias


def check_linear(x: Any, weight: Any, bias: Any) -> None:
    """What the arguments of `linear` must be; the closed form asks the same."""
    x_shape, w_shape = shape_of(x), shape_of(weight)
    if len(w_shape) != 2 or not x_shape or x_shape[-1] != w_shape[0]:
        raise ValueError(
            f"linear: x {x_shape} does not fit weight {w_shape}: expected (…, in) and (in, out)"
        )
    if bias is not None and shape_of(bias) != w_shape[1:]:
        raise ValueError(
            f"linear: expected a bias of shape {w_shape[1:]} for weight {w_shape}, "
            f"got {shape_of(bias)}"
        )
