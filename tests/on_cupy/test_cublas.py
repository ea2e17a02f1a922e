"""Products by cuBLAS itself: the arguments, since there is no cuBLAS here to call."""

import ctypes

import cupy as cp
import cupy_on_cpu
import numpy as np
import pytest
from numeric import draw

from tinybn.program.cublas import WORKSPACE, Products

pytestmark = pytest.mark.skipif(
    not cupy_on_cpu.enabled(), reason="the replacement reads device memory"
)
C_TYPES = {0: np.float32, 1: np.float64, 2: np.float16}


class Library:
    """Does what cuBLAS's documentation says, on memory that the host can read."""

    def __init__(self):
        self.calls = []

    def cublasCreate_v2(self, handle):  # noqa: N802
        handle._obj.value = 7
        return 0

    def cublasSetStream_v2(self, handle, stream):  # noqa: N802
        self.calls.append(("stream", handle.value, stream.value))
        return 0

    def cublasSetWorkspace_v2(self, handle, address, size):  # noqa: N802
        self.calls.append(("workspace", handle.value, size.value))
        return 0

    def cublasGemmEx(  # noqa: N802
        self, handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c, type_c, ldc,
        compute, algorithm,
    ):  # fmt: skip
        assert (handle.value, algorithm) == (7, -1)
        assert type_a == type_b == type_c
        assert compute == {0: 68, 1: 70, 2: 68}[type_a]
        scalar = np.float64 if compute == 70 else np.float32
        assert [self.matrix(s, scalar, 1, 1, 1)[0, 0] for s in (alpha, beta)] == [1, 0]
        assert lda >= (k if op_a else m)
        assert ldb >= (n if op_b else k)
        assert ldc >= m
        dtype = C_TYPES[type_a]
        left = self.matrix(a, dtype, *((k, m) if op_a else (m, k)), lda)
        right = self.matrix(b, dtype, *((n, k) if op_b else (k, n)), ldb)
        left, right = (left.T if op_a else left), (right.T if op_b else right)
        self.matrix(c, dtype, m, n, ldc)[...] = left.astype(scalar) @ right.astype(scalar)
        return 0

    @staticmethod
    def matrix(address, dtype, rows, columns, leading):
        """A view of column-major memory."""
        size = np.dtype(dtype).itemsize
        memory = (ctypes.c_char * (size * leading * columns)).from_address(address.value)
        return np.frombuffer(memory, dtype).reshape(columns, leading)[:, :rows].T


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(
    "shape", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1), (8, 8, 8)]
)
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("step", [1, 2])
def test_every_layout(dtype, shape, turned, step):
    m, k, n = shape
    a, b = (
        draw(size, seed=i, dtype=dtype) for i, size in enumerate([(m, step * k), (k, step * n)])
    )
    on_device = []
    for array, turn in zip((a, b), turned, strict=True):
        array = cp.asarray(array.T.copy() if turn else array)
        on_device.append((array.T if turn else array)[:, ::step])
    library = Library()
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        y = Products(cp, library)(*on_device)
    tolerance = {"f2": 1e-2, "f4": 1e-5, "f8": 1e-12}[dtype]
    expected = a[:, ::step].astype("f8") @ b[:, ::step].astype("f8")
    assert y.dtype == dtype
    np.testing.assert_allclose(y.get(), expected, rtol=tolerance, atol=tolerance * 4)
    assert library.calls == [("stream", 7, stream.ptr), ("workspace", 7, WORKSPACE)]


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (3, 4, 0)])
def test_without_elements(shape):
    m, k, n = shape
    library = Library()
    y = Products(cp, library)(cp.ones((m, k)), cp.ones((k, n)))
    np.testing.assert_array_equal(y.get(), np.zeros((m, n)))
    assert not library.calls


@pytest.mark.parametrize(
    "pair",
    [
        (cp.ones((2, 3, 4)), cp.ones((2, 4, 3))),
        (cp.ones((2, 2), np.float32), cp.ones((2, 2))),
        (cp.ones((2, 2), int), cp.ones((2, 2), int)),
    ],
)
def test_other_products_are_refused(pair):
    with pytest.raises(NotImplementedError, match="only products of two matrices of one dtype"):
        Products(cp, Library())(*pair)


def test_an_error_of_cublas_is_raised():
    library = Library()
    library.cublasGemmEx = lambda *_: 13
    with pytest.raises(RuntimeError, match="cublasGemmEx failed with the status 13"):
        Products(cp, library)(cp.ones((2, 2)), cp.ones((2, 2)))
