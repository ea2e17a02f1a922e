"""CuPy's kernels: each is made when it is first wanted, and known by name.

    @kernel
    def scaled(xp):
        return xp.ElementwiseKernel("T x, T factor", "T y", "y = factor * x", "scaled")

    scaled(xp)(x, factor)

CuPy compiles a kernel once for each combination of dtypes. In all of ours A is the dtype that is
computed in, at least float32, whatever that of the arrays: it is that of an output or a scalar.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

KERNELS: dict[str, Callable[[Any], Any]] = {}
"""Every kernel by name: a function of the array library, `cupy`."""


def kernel(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Declare a kernel, given the function that makes it of the array library (a decorator)."""
    KERNELS[make.__name__] = made = functools.cache(make)
    return made


PAIR = """
struct Pair {
    A first, second;
    __device__ Pair(A first = 0, A second = 0) : first(first), second(second) {}
};
__device__ Pair operator+(const Pair& a, const Pair& b) {
    return Pair(a.first + b.first, a.second + b.second);
}
"""
"""Two sums in one reduction: the preamble that declares its `reduce_type="Pair"`."""
