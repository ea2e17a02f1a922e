"""The stand-in itself: what it must compute, count and refuse. (The suite on CuPy tests the rest.)"""

import cupy_on_cpu
import numpy as np
import pytest

if not cupy_on_cpu.enabled():
    pytest.skip("CuPy runs on a GPU here", allow_module_level=True)

import cupy as cp
import cupyx

sum_of_squares = cp.ReductionKernel(
    "T x", "T y", "x * x", "a + b", "y = a", "0", "sum_of_squares", reduce_type="double"
)
scaled_difference = cp.ElementwiseKernel(
    "T x, T y, float32 scale", "T z", "z = scale * (x - y)", "scaled_difference"
)
WRONG = r"""
extern "C" {
// A thread reads what its neighbour may not have written yet.
__global__ void missing_barrier(const float* x, float* y) {
    __shared__ float copy[64];
    copy[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = copy[(threadIdx.x + 1) % 64];
}
// Half of a warp waits for all of it.
__global__ void deadlock() {
    if (threadIdx.x < 16) { __syncwarp(); } else { __syncthreads(); }
}
__global__ void nothing() {}
}
"""


def wrong(name):
    return cp.RawModule(code=WRONG).get_function(name)


def same(actual, expected, tolerance):
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual.get(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("f2", 5e-3), ("f4", 2e-5), ("f8", 1e-12)])
def test_kernels_reductions_products_and_masks(order, dtype, tolerance):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((33, 70)).astype(dtype) for _ in range(2))
    a, b = cp.asarray(x), cp.asarray(y)
    exact = x.astype("f8")
    with cupy_on_cpu.thread_order(order):
        same(scaled_difference(a.T, b.T, 0.5), ((x - y) / 2).T, tolerance)
        same(sum_of_squares(a, axis=1), (exact**2).sum(1).astype(dtype), tolerance)
        same(a.sum(axis=0), exact.sum(0).astype(dtype), tolerance)
        same(a.max(axis=1), x.max(1), 0)
        same(a @ b.T, (exact @ y.astype("f8").T).astype(dtype), 4 * tolerance)
        same(a[a > 0], x[x > 0], 0)
        same(cp.exp(a) / (1 + a * a), np.exp(x) / (1 + x * x), tolerance)


@pytest.mark.filterwarnings("ignore:cupyx.allow_synchronize:UserWarning")
def test_counters_and_cupy_agree_on_what_waits():
    x = cp.asarray(np.ones((8, 8), np.float32))

    def chain():
        return (cp.maximum(x @ x + 1, 0) / 2).sum()

    chain()  # handles and memory of the first call
    with cupy_on_cpu.count() as counts:
        value = chain()
    assert (counts["launch"], counts["blas"], counts.launches["cupy_sum"]) == (4, 1, 1)
    assert counts["sync"] == counts["d2h"] == counts["h2d"] == 0
    with cupy_on_cpu.count() as counts:
        float(value)
    assert (counts["sync"], counts["d2h"], counts["launch"]) == (1, 1, 0)
    with cupy_on_cpu.count() as counts:
        cp.asarray(np.ones(3))
    assert (counts["h2d"], counts["sync"]) == (1, 0)
    with cupyx.allow_synchronize(False):
        value = chain()
        with pytest.raises(cupyx.DeviceSynchronized):
            float(value)


def test_new_memory_is_garbage():
    cp.get_default_memory_pool().free_all_blocks()
    assert cp.empty(1 << 20, np.uint8).get().all()


def test_a_race_shows_in_the_other_order_of_threads():
    x = cp.arange(64, dtype=np.float32)
    results = []
    for order in ("forward", "reverse"):
        y = cp.empty_like(x)
        with cupy_on_cpu.thread_order(order):
            wrong("missing_barrier")((1,), (64,), (x, y))
        results.append(y.get())
    assert not np.array_equal(*results)


@pytest.mark.parametrize(
    ("kind", "message", "action"),
    [
        (cp.cuda.driver.CUDADriverError, "deadlock", lambda x: wrong("deadlock")((1,), (32,), ())),
        (
            cp.cuda.driver.CUDADriverError,
            "block size",
            lambda x: wrong("nothing")((1,), (2000,), ()),
        ),
        (cp.cuda.driver.CUDADriverError, "no kernel ghost", lambda x: wrong("ghost")),
        (
            cp.cuda.compiler.CompileException,
            "was not declared",
            lambda x: cp.RawKernel('extern "C" __global__ void k() { o(); }', "k")((1,), (1,), ()),
        ),
        (RuntimeError, "compiled into the CuPy wheel", cp.argsort),
        (
            NotImplementedError,
            "compiled into the CuPy wheel",
            lambda x: cp.random.default_rng(0).standard_normal(3),
        ),
        (TypeError, "Unsupported type", lambda x: x + np.ones(6)),
        (TypeError, "Implicit conversion", np.asarray),
    ],
)
def test_what_cannot_work_raises_and_what_follows_works(kind, message, action):
    x = cp.arange(6, dtype=np.float32)
    with pytest.raises(kind, match=message):
        action(x)
    same(x + 1, np.arange(1, 7, dtype="f4"), 0)


def test_a_graph_keeps_addresses_and_reads_memory_anew():
    stream = cp.cuda.Stream(non_blocking=True)
    x, y = cp.ones((3, 3), np.float32), cp.zeros((3, 3), np.float32)
    with stream:
        x @ x  # the handle and the memory of the first call
        stream.begin_capture()
        y[...] = 2 * (x @ x)
        graph = stream.end_capture()
    same(y, np.zeros((3, 3), np.float32), 0)  # nothing has run yet
    x[...] = 3
    with cupy_on_cpu.count() as counts:
        graph.launch()
    names = ("graph", "launch", "blas", "d2d", "sync")
    assert [counts[name] for name in names] == [1, 1, 1, 1, 0]
    same(y, np.full((3, 3), 54, np.float32), 0)


@pytest.mark.parametrize("action", [float, lambda x: x.set(np.zeros(3, np.float32))])
def test_a_graph_cannot_hold_waits_and_copies_of_host_memory(action):
    stream, x = cp.cuda.Stream(non_blocking=True), cp.ones(3, np.float32)
    with stream:
        stream.begin_capture()
        with pytest.raises(
            cp.cuda.runtime.CUDARuntimeError, match="while a stream is being captured"
        ):
            action(x[:1] if action is float else x)
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="earlier error"):
            stream.end_capture()
    same(x + 1, np.full(3, 2, np.float32), 0)
