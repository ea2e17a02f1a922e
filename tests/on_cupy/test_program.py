"""A step compiled on CuPy: it does what the step does there, stays there, and never waits."""

import cupy_on_cpu
import numpy as np
import pytest
from numeric import draw, here, host
from program.test_ops_compiled import arguments, derivatives, leaves
from test_ops import CASES

import tinybn as tb
from tinybn import nn, optim
from tinybn.program import RecordingError

N = 32
BATCHES = [
    (draw((N, 12), seed=i, dtype=np.float32), (np.arange(N) * (i + 3)) % 5) for i in range(3)
]
OPTIMIZERS = {
    "SGD": lambda ps: optim.SGD(ps, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "Adam": lambda ps: optim.Adam(ps, 1e-2),
}
MODELS = {
    "batch norm": lambda rng: nn.MLP([12, 16, 16, 5], "batch", rng=rng),
    "layer norm": lambda rng: nn.MLP([12, 16, 16, 5], "layer", rng=rng),
    "dropout": lambda rng: nn.Sequential(
        nn.Linear(12, 16, rng=rng), nn.Dropout(0.3, rng=rng), nn.ReLU(), nn.Linear(16, 5, rng=rng)
    ),
}
every_model = pytest.mark.parametrize("name", MODELS)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
counted = pytest.mark.skipif(
    not cupy_on_cpu.enabled(), reason="copies and waits are only counted on the CPU"
)


def made(name, optimizer):
    """A step, and all of its state."""
    model = MODELS[name](np.random.default_rng(0))
    optimizer = OPTIMIZERS[optimizer](model.parameters())

    def step(x, labels):
        optimizer.zero_grad()
        loss = tb.ops.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step, model, optimizer


def trained(name, optimizer, compiled):
    step, model, optimizer = made(name, optimizer)
    run = tb.compile(step, backend="numpy") if compiled else step
    losses = [host(run(tb.tensor(x), labels)) for x, labels in BATCHES * 2]
    gradients = {f"d_{k}": host(p.grad) for k, p in model.named_parameters()}
    if compiled:
        assert run.recordings == 1
    return {"loss": losses, **model.state_dict(), **optimizer.state_dict(), **gradients}


def assert_close(found, expected, rtol):
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        a, b = np.asarray(a), np.asarray(found[name])
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            b, a, rtol=rtol, atol=rtol * (np.abs(a).max() + 1e-6), err_msg=name
        )


@every_model
@every_optimizer
@pytest.mark.parametrize("fused", [True, False], ids=["closed form", "composition"])
def test_it_trains_like_the_step(name, optimizer, fused):
    """Closed forms are recorded as array code, while the eager op runs kernels of its own."""
    with tb.use_fused(fused):
        expected, found = (trained(name, optimizer, compiled) for compiled in (False, True))
    assert_close(found, expected, 1e-4 if fused else 2e-6)


@every_model
def test_it_trains_as_on_the_host(name):
    found = trained(name, "SGD", compiled=True)
    with tb.use_backend("numpy"):
        expected = trained(name, "SGD", compiled=True)
    assert_close(found, expected, 1e-4)


@counted
@every_model
@every_optimizer
@pytest.mark.parametrize("fused", [True, False], ids=["closed form", "composition"])
def test_a_call_never_waits_and_copies_only_labels_and_masks(name, optimizer, fused):
    step, *_ = made(name, optimizer)
    run = tb.compile(step)
    x = tb.tensor(BATCHES[0][0])
    with tb.use_fused(fused):
        for _ in range(3):
            run(x, BATCHES[0][1])
        with cupy_on_cpu.count() as counts:
            run(x, BATCHES[1][1])
    assert run.recordings == 1
    assert counts["launch"] > 10
    assert (counts["sync"], counts["d2h"]) == (0, 0)
    assert counts["h2d"] == (2 if name == "dropout" else 1)


@counted
def test_nor_does_recording_wait():
    step, *_ = made("batch norm", "Adam")
    run = tb.compile(step)
    x = tb.tensor(BATCHES[0][0])
    run(x, BATCHES[0][1])
    with cupy_on_cpu.count() as counts:
        run(x, BATCHES[0][1])
    assert run.recordings == 1
    assert (counts["sync"], counts["d2h"]) == (0, 0)


@every_model
@every_optimizer
def test_state_and_results_stay_on_the_device(name, optimizer):
    import cupy

    step, model, optimizer = made(name, optimizer)
    run = tb.compile(step)
    for x, labels in BATCHES:
        loss = run(tb.tensor(x), labels)
    assert loss.backend == "cupy"
    for p in model.parameters():
        assert (p.backend, p.grad.backend) == ("cupy", "cupy")
    for layer in model.modules():
        for value in vars(layer).values():
            assert not isinstance(value, tb.Tensor) or value.backend == "cupy"
    arrays = [a for memory in optimizer.state for a in memory.values() if not isinstance(a, int)]
    assert arrays
    assert {type(a) for a in arrays} == {cupy.ndarray}


def test_labels_are_checked_at_each_call():
    step, model, _ = made("batch norm", "SGD")
    run = tb.compile(step)
    x, labels = BATCHES[0]
    for _ in range(3):
        run(tb.tensor(x), labels)
    before = model.state_dict()
    with pytest.raises(ValueError, match="labels from 0 to 4 for 5 classes"):
        run(tb.tensor(x), labels + 1)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


REFUSED = {
    "getitem-mask": "a mask selects depends on numbers",
    "to": "moving a Tensor to the host",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_op(case):
    """Its value and its gradients of two orders; kernels of fused ops round in other places."""
    step = derivatives(case.op)
    run = tb.compile(step)
    for k in range(3):
        inputs, v, weights = arguments(case, k, np.float64)
        args = [*map(here, inputs)], here(v), [*map(here, weights)]
        if k and case.name in REFUSED:
            with pytest.raises(RecordingError, match=REFUSED[case.name]):
                run(*args)
            continue
        for a, b in zip(leaves(run(*args)), leaves(step(*args)), strict=True):
            assert a.backend == "cupy"
            np.testing.assert_allclose(host(a), host(b), rtol=1e-9, atol=1e-11)


def test_arrays_of_the_closure_are_read_at_each_call():
    table, rows, labels = here(draw((N, 5))), np.arange(N)[::-1].copy(), np.arange(N) % 5

    def step(x):
        loss = tb.ops.cross_entropy(x * table, labels)
        return tb.ops.where(x > table, x, table), x[rows], loss

    run = tb.compile(step)
    for k in range(4):
        x = tb.tensor(draw((N, 5), seed=k))
        for a, b in zip(run(x), step(x), strict=True):
            np.testing.assert_allclose(host(a), host(b), rtol=1e-12)
        table[:] = k
        rows[:2] = k
        labels[:] = k
    assert run.recordings == 1


def test_second_order_gradients():
    def penalty(x, v):
        x, v = (tb.tensor(a, requires_grad=True) for a in (x, v))
        (g,) = tb.grad((tb.ops.batch_norm(x) * v).sum(), x, create_graph=True)
        return tb.grad((g * g).sum(), [x, v])

    run = tb.compile(penalty)
    for k in range(3):
        args = [tb.tensor(draw((N, 12), seed=k + i)).data for i in (0, 9)]
        for a, b in zip(run(*args), penalty(*args), strict=True):
            assert a.backend == "cupy"
            np.testing.assert_allclose(host(a), host(b), rtol=1e-9, atol=1e-12)


def test_arrays_of_the_two_backends_do_not_mix():
    w = tb.tensor(draw((12,), dtype=np.float32))
    run = tb.compile(lambda x: x * w)
    x = BATCHES[0][0]
    run(tb.tensor(x))
    run(tb.tensor(x))
    for _ in range(2):
        with pytest.raises(tb.BackendMismatchError, match=r"multiply: float32 .* on numpy"):
            run(tb.tensor(x, backend="numpy"))


def test_a_model_that_moves_between_calls():
    _, model, _ = made("layer norm", "SGD")
    run = tb.compile(lambda x: model(x), backend="numpy")
    for name in ("cupy", "numpy", "cupy"):
        model.to(name)
        for x, _ in BATCHES:
            found, expected = (f(tb.tensor(x, backend=name)) for f in (run, model))
            assert found.backend == name
            np.testing.assert_allclose(host(found), host(expected), rtol=1e-5, atol=1e-6)


def test_moving_to_the_device_in_a_step():
    both = tb.compile(lambda a, b: a * b.to("cupy"))
    for k in range(3):
        a, b = tb.tensor(draw((4,), seed=k)), tb.tensor(draw((4,), seed=k + 1), backend="numpy")
        y = both(a, b)
        assert y.backend == "cupy"
        np.testing.assert_array_equal(host(y), host(a) * host(b))


def test_moving_to_the_host_in_a_step_is_refused():
    run = tb.compile(lambda a: a.to("numpy"))
    x = tb.tensor(draw((4,)))
    run(x)
    with pytest.raises(RecordingError, match="moving a Tensor to the host"):
        run(x)


def test_moving_to_a_device_that_the_step_does_not_use_is_refused():
    run = tb.compile(lambda a: a.to("cupy"))
    x = tb.tensor(draw((4,)), backend="numpy")
    run(x)
    with pytest.raises(RecordingError, match="nothing else that the step uses is on cupy"):
        run(x)
