"""The kernels: in both orders of threads they give what the closed forms give on NumPy, to rounding,
and no op takes more of them than it needs.
"""

import contextlib

import cupy as cp
import cupy_on_cpu
import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import ops, optim
from tinybn.fusion import FUSED
from tinybn.on_cupy import KERNELS

X, CHANNELS = (64, 6), (6,)
LABELS = np.arange(64) % 6
GIVEN = {"mean": draw(CHANNELS, seed=8), "var": draw(CHANNELS, "positive", seed=9)}

# Per call: the op, its keywords, the shapes of its inputs, and its launches forward and backward.
CALLS = {
    "batch_norm": ("batch_norm", {}, [X, CHANNELS, CHANNELS], 5),
    "batch_norm, 4 axes": ("batch_norm", {}, [(3, 6, 5, 2), CHANNELS, CHANNELS], 5),
    "batch_norm, plain": ("batch_norm", {}, [X], 5),
    "batch_norm, evaluation": ("batch_norm", GIVEN, [X, CHANNELS, CHANNELS], 8),  # copies 2
    "layer_norm": ("layer_norm", {}, [X, CHANNELS, CHANNELS], 6),
    "layer_norm, 2 axes": ("layer_norm", {"axis": (1, 2)}, [(7, 3, 4), (3, 4), (3, 4)], 6),
    "layer_norm, plain": ("layer_norm", {}, [X], 5),
    "rms_norm": ("rms_norm", {}, [X, CHANNELS], 5),
    "group_norm": ("group_norm", {"groups": 2}, [(5, 6, 7), CHANNELS, CHANNELS], 9),
    "instance_norm": ("instance_norm", {}, [(5, 6, 7), CHANNELS, CHANNELS], 9),
    "cross_entropy": ("cross_entropy", {"labels": LABELS}, [X], 4),
}
OPTIMIZERS = {
    "sgd": lambda ps: optim.SGD(ps, 0.05, weight_decay=1e-2),
    "momentum": lambda ps: optim.SGD(ps, 0.05, momentum=0.9),
    "nesterov": lambda ps: optim.SGD(ps, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda ps: optim.Adam(ps, 1e-2, weight_decay=1e-2),
    "adamw": lambda ps: optim.AdamW(ps, 1e-2),
}
DIVIDE = "true_divide__float_float32_float32"
TOLERANCES = {"float16": 2**-9, "float32": 2e-6, "float64": 1e-13}
every_call = pytest.mark.parametrize(
    ("name", "static", "shapes", "launches"), CALLS.values(), ids=CALLS
)
every_dtype = pytest.mark.parametrize("dtype", TOLERANCES)
both_orders = pytest.mark.parametrize(
    "order",
    ["forward", "reverse"]
    if cupy_on_cpu.enabled()
    else [pytest.param("any", id="the GPU's order")],
)


def in_order(order):
    return contextlib.nullcontext() if order == "any" else cupy_on_cpu.thread_order(order)


def forward_and_backward(name, static, inputs, backend):
    """A function that gives the output of an op and the gradients of its inputs."""
    with tb.use_backend(backend):
        xs = [tb.tensor(x, requires_grad=True) for x in inputs]
        dtype = xs[0].dtype
        shape = () if name == "cross_entropy" else xs[0].shape
        v = tb.tensor(draw(shape, seed=7), dtype=dtype)
        given = {k: tb.tensor(static[k], dtype=dtype) for k in ("mean", "var") if k in static}
    named = dict(zip(FUSED[name].names, xs, strict=False)) | static | given

    def run():
        y = FUSED[name].call(**named)
        return [y, *tb.grad(y, xs, v)]

    return run


def draw_inputs(shapes, dtype):
    inputs = [draw(shape, seed=i).astype(dtype) for i, shape in enumerate(shapes)]
    if len(inputs) > 1:
        inputs[1].flat[-1] = 0  # a gamma of 0
    return inputs


def assert_near(found, expected, tolerance):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    size = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=4 * tolerance * size)


@both_orders
@every_dtype
@every_call
def test_kernels_equal_the_closed_form_on_numpy(name, static, shapes, launches, dtype, order):
    inputs = draw_inputs(shapes, dtype)
    expected = forward_and_backward(name, static, inputs, "numpy")()
    with in_order(order):
        found = forward_and_backward(name, static, inputs, "cupy")()
    for a, b in zip(found, expected, strict=True):
        assert_near(a.numpy(), b.numpy(), TOLERANCES[dtype])


@both_orders
@every_dtype
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_step_as_on_numpy(name, dtype, order):
    after = {}
    for backend in ("numpy", "cupy"):
        with tb.use_backend(backend), in_order(order):
            p = tb.tensor(draw((33, 7)).astype(dtype), requires_grad=True)
            optimizer = OPTIMIZERS[name]([p])
            for step in range(3):
                p.grad = tb.tensor(draw((33, 7), seed=step + 1).astype(dtype))
                optimizer.step()
        after[backend] = {"p": p.numpy(), **optimizer.state_dict()}
    for key, expected in after["numpy"].items():
        assert_near(after["cupy"][key], expected, 2 * TOLERANCES[dtype])


def test_kernels_take_any_strides_and_mixed_dtypes():
    x, gamma, dy = draw((6, 64)).T, draw((12,), seed=1)[::2], draw((6, 64), seed=2).T
    found = {}
    for backend in ("numpy", "cupy"):
        with tb.use_backend(backend):
            xs = [
                tb.tensor(np.ascontiguousarray(x.T), requires_grad=True),
                tb.tensor(gamma, dtype=np.float32, requires_grad=True),
            ]
            y = ops.batch_norm(xs[0].T, xs[1])
            found[backend] = [y, *tb.grad(y, xs, tb.tensor(np.ascontiguousarray(dy.T)).T)]
    for a, b in zip(found["cupy"], found["numpy"], strict=True):
        assert_near(a.numpy(), b.numpy(), TOLERANCES[str(a.dtype)])


def test_float16_is_summed_in_float32():
    x = np.full((4096, 2), 60, np.float16)  # a sum beyond float16's largest number, 65504
    x[::2] -= 1
    y, dx = (t.numpy() for t in forward_and_backward("batch_norm", {}, [x], "cupy")())
    np.testing.assert_allclose(np.abs(y), 1, rtol=1e-3)
    assert np.isfinite(dx).all()


@pytest.mark.skipif(not cupy_on_cpu.enabled(), reason="launches are only counted on the CPU")
@every_call
def test_an_op_takes_so_many_kernels_forward_and_backward(name, static, shapes, launches):
    run = forward_and_backward(name, static, draw_inputs(shapes, np.float32), "cupy")
    run()  # what it keeps for the next time
    with cupy_on_cpu.count() as counts:
        run()
    assert counts["launch"] + counts["blas"] == launches, counts.launches
    others = "max", "copy__float32_float32"  # a leaf copies what is a view of another shape
    if name == "batch_norm" and static:  # 1 / √(σ² + ε)
        others += "add__float32_float_float32", "sqrt__float32_float32", DIVIDE
    assert counts.launches.keys() <= {*KERNELS, *(f"cupy_{other}" for other in others)}
    assert counts["sync"] + counts["d2h"] + counts["d2d"] == 0


@pytest.mark.skipif(not cupy_on_cpu.enabled(), reason="launches are only counted on the CPU")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_one_kernel_for_each_array(name):
    ps = [tb.tensor(draw((5, i)), requires_grad=True) for i in (1, 2, 3)]
    optimizer = OPTIMIZERS[name](ps)
    for p in ps:
        p.grad = tb.tensor(draw(p.shape, seed=1))
    optimizer.step()
    with cupy_on_cpu.count() as counts:
        optimizer.step()
    assert counts["launch"] == 3
    assert not counts["sync"] + counts["h2d"] + counts["d2h"] + counts["d2d"]


def test_a_kernel_bears_the_name_that_it_is_known_by():
    assert len(KERNELS) == 9
    assert all(make(cp).name == name for name, make in KERNELS.items())
