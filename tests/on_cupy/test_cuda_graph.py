"""A step as a CUDA graph: it does what the same kernels do without one, and waits for nothing."""

import gc

import cupy as cp
import cupy_on_cpu
import numpy as np
import pytest
from numeric import here, host
from on_cupy.test_program import BATCHES, OPTIMIZERS, N, assert_close, counted, every_model, made

import tinybn as tb
from benchmarks.gpu.agreement import uncaptured
from tinybn import optim
from tinybn.program import RecordingError, capture

COUNT = {"1.num_batches_tracked": 5, "4.num_batches_tracked": 5}


def trained(name, optimizer, backend="graph"):
    """All numbers after six steps."""
    step, model, optimizer = made(name, optimizer)
    run = tb.compile(step, backend=backend)
    schedule = optim.Schedule(optimizer, lambda t: 1 / (1 + t))
    losses = []
    for x, labels in BATCHES * 2:
        losses.append(host(run(here(x), labels)))
        schedule.step()
    gradients = {f"d_{k}": host(p.grad) for k, p in model.named_parameters()}
    assert run.recordings == 1
    return {"loss": losses, **model.state_dict(), **optimizer.state_dict(), **gradients}, run


@every_model
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_graph_does_what_its_kernels_do(name, optimizer):
    """To the last bit, while the learning rate, the batches and the masks change."""
    found, run = trained(name, optimizer)
    assert run.latest.machine.captures == 1
    with uncaptured():
        expected, _ = trained(name, optimizer)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    program, _ = trained(name, optimizer, backend="numpy")  # reads every number at every call
    assert_close(found, program, 1e-5)


@counted
@every_model
def test_a_call_is_one_launch_and_never_waits(name):
    """Besides it: copies of the batch, the numbers and the masks there, and of the loss back."""
    step, *_ = made(name, "Adam")
    run = tb.compile(step, backend="graph")
    x = here(BATCHES[0][0])
    for _ in range(3):
        run(x, BATCHES[0][1])
    with cupy_on_cpu.count() as whole:
        run(x, BATCHES[1][1])
    assert (whole["graph"], whole["sync"], whole["d2h"]) == (1, 0, 0)
    assert whole["h2d"] == (3 if name == "dropout" else 2)  # numbers, labels and masks
    with cupy_on_cpu.count() as alone:
        run.latest.machine._graph.launch()
    assert alone["h2d"] == 0
    assert alone["launch"] > 10
    copies = sum(whole[k] - alone[k] for k in ("launch", "d2d"))
    assert copies == 2  # of x and the loss


def test_nor_does_capturing_wait():
    step, *_ = made("batch norm", "Adam")
    run = tb.compile(step, backend="graph")
    x = here(BATCHES[0][0])
    for _ in range(2):
        run(x, BATCHES[0][1])
    assert run.latest.machine.captures == 0
    with cupy_on_cpu.count() as counts:
        run(x, BATCHES[0][1])
    assert run.latest.machine.captures == 1
    assert (counts["sync"], counts["d2h"]) == (0, 0)


def test_another_shape_is_captured_as_well_and_state_that_moved_again():
    step, model, _ = made("batch norm", "SGD")
    twin_step, twin, _ = made("batch norm", "SGD")
    run, plain = tb.compile(step, backend="graph"), tb.compile(twin_step)
    x, labels = BATCHES[0]

    def both(n):
        a, b = (f(here(x[:n]), labels[:n]) for f in (run, plain))
        np.testing.assert_allclose(host(a), host(b), rtol=1e-5)

    for n in (N, N, N, N, 8, 8, 8, N, 8):
        both(n)
    assert run.recordings == 2
    for m in (model, twin):
        m.load_state_dict({k: v * 0.5 for k, v in m.state_dict().items()} | COUNT)
    for n in (N, 8, N, 8):
        both(n)
    assert run.recordings == 2
    for name, value in twin.state_dict().items():
        np.testing.assert_allclose(
            model.state_dict()[name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_memory_is_bounded_and_goes_with_the_step():
    pool = cp.get_default_memory_pool()
    step, model, _ = made("batch norm", "Adam")
    run = tb.compile(step, backend="graph")
    x, labels = BATCHES[0]
    used = []
    for i in range(12):
        model.load_state_dict(model.state_dict())  # new arrays: captured again
        run(here(x), labels)
        gc.collect()
        used.append(pool.used_bytes() + run.latest.machine._pool.total_bytes() if i > 1 else 0)
    assert run.latest.machine.captures == 10
    assert used[4] == used[-1]


def test_capturing_again_and_again_warns():
    step, model, _ = made("batch norm", "SGD")
    run = tb.compile(step, backend="graph")

    def often():
        for _ in range(20):
            model.load_state_dict(model.state_dict())
            run(here(BATCHES[0][0]), BATCHES[0][1])

    with pytest.warns(UserWarning, match="captured 16 times"):
        often()


def test_results_are_copies():
    """A later launch changes neither the losses nor the arrays of before."""
    step, model, _ = made("layer norm", "SGD")
    run = tb.compile(step, backend="graph")
    x, labels = BATCHES[0]
    for _ in range(3):
        loss = run(here(x), labels)
    kept = [model.parameters()[0].data, model.parameters()[0].grad, loss]
    before = [host(a) for a in kept]
    run(here(x), labels)
    for a, b in zip(kept, before, strict=True):
        np.testing.assert_array_equal(host(a), b)


def test_what_cannot_be_captured_says_why_and_changes_nothing(monkeypatch):
    def matmul(a, b):
        """Reads a number, which waits."""
        return (a @ b) * float(a[0, 0] > 0)

    monkeypatch.setattr(capture, "matmul", lambda xp: matmul)
    step, model, _ = made("layer norm", "SGD")
    run = tb.compile(step, backend="graph")
    x, labels = here(BATCHES[0][0]), BATCHES[0][1]
    for _ in range(2):
        run(x, labels)
    before = model.state_dict()
    with pytest.raises(RecordingError, match=r"captured as a CUDA graph: .*the host while"):
        run(x, labels)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    step(x, labels)  # what follows works


def test_a_step_on_numpy_arrays_has_no_graph():
    with tb.use_backend("numpy"):
        step, *_ = made("layer norm", "SGD")
    run = tb.compile(step, backend="graph")
    run(*BATCHES[0])
    with pytest.raises(RecordingError, match="on CuPy arrays"):
        run(*BATCHES[0])
