"""A training step never waits for the GPU: nothing comes back to the host, and the labels go there."""

import cupy_on_cpu
import numpy as np
import pytest
from numeric import draw

import tinybn as tb
from tinybn import nn, optim

pytestmark = pytest.mark.skipif(
    not cupy_on_cpu.enabled(), reason="copies and waits are only counted on the CPU"
)

N = 32
LABELS = np.arange(N) % 5
FLAT, DEEP = draw((N, 12), dtype=np.float32), draw((N, 4, 3), dtype=np.float32)


def mlp(norm):
    return lambda: nn.MLP([12, 16, 16, 5], norm, rng=np.random.default_rng(0))


def around(layer):
    """A model of (N, 4, 3) with a norm in its middle."""
    rng = np.random.default_rng(0)
    return nn.Sequential(nn.Linear(3, 6, rng=rng), layer, nn.Tanh(), nn.Flatten(), nn.Linear(24, 5))


MODELS = {
    **{f"MLP-{norm}": (mlp(norm), FLAT) for norm in ("none", *nn.NORMS)},
    "BatchNorm-cumulative": (lambda: around(nn.BatchNorm(4, momentum=None)), DEEP),
    "BatchNorm-plain": (
        lambda: around(nn.BatchNorm(4, affine=False, track_running_stats=False)),
        DEEP,
    ),
    "LayerNorm-2": (lambda: around(nn.LayerNorm((4, 6))), DEEP),
    "RMSNorm-2": (lambda: around(nn.RMSNorm((4, 6))), DEEP),
    "GroupNorm": (lambda: around(nn.GroupNorm(2, 4)), DEEP),
    "InstanceNorm": (lambda: around(nn.InstanceNorm(4, affine=True)), DEEP),
}
OPTIMIZERS = {
    "sgd": lambda ps: optim.SGD(ps, 0.05),
    "momentum": lambda ps: optim.SGD(ps, 0.05, momentum=0.9),
    "nesterov": lambda ps: optim.SGD(ps, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda ps: optim.Adam(ps, 1e-2, weight_decay=1e-2),
    "adamw": lambda ps: optim.AdamW(ps, 1e-2),
}


def training(model, optimizer, loss=None):
    """A function that does one training step on x, and whatever goes into it."""
    schedule = optim.Schedule(optimizer, optim.warmup(5, optim.cosine(100)))
    loss = loss or (lambda y: tb.ops.cross_entropy(y, LABELS))

    def step(x):
        value = loss(model(x))
        optimizer.zero_grad()
        value.backward()
        optim.clip_grad_norm(optimizer.params, 1.0)
        optimizer.step()
        schedule.step()
        return value

    return step


def counts_of(step, *args):
    """What a step costs, once kernels are compiled and memory is there."""
    for _ in range(2):
        step(*args)
    with cupy_on_cpu.count() as counts:
        step(*args)
    assert counts["launch"] > 10  # it did run there
    return counts


def assert_no_wait(counts, copies_to_the_device):
    assert (counts["sync"], counts["d2h"]) == (0, 0)
    assert counts["h2d"] == copies_to_the_device


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_never_waits_and_copies_only_the_labels(name, optimizer, fused):
    make, x = MODELS[name]
    model = make()
    step = training(model, OPTIMIZERS[optimizer](model.parameters()))
    with tb.use_fused(fused):
        assert_no_wait(counts_of(step, tb.tensor(x)), copies_to_the_device=1)


def test_nor_does_a_regression_whose_targets_are_there():
    model = nn.MLP([12, 16, 5], "batch", rng=np.random.default_rng(0))
    target = tb.tensor(draw((N, 5), seed=1, dtype=np.float32))
    optimizer = optim.Adam(model.parameters())
    step = training(model, optimizer, lambda y: tb.ops.mse_loss(y, target))
    assert_no_wait(counts_of(step, tb.tensor(FLAT)), copies_to_the_device=0)


def test_a_batch_of_data_that_are_there_costs_a_copy_of_its_indices():
    batches = tb.data.Batches(tb.tensor(FLAT).data, LABELS, 8)
    with cupy_on_cpu.count() as counts:
        taken = list(batches)
    assert_no_wait(counts, copies_to_the_device=len(taken))


def test_dropout_draws_on_the_host_and_costs_a_copy_of_its_mask():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(12, 16, rng=rng), nn.Dropout(rng=rng), nn.Linear(16, 5))
    step = training(model, optim.SGD(model.parameters(), 0.1))
    assert_no_wait(counts_of(step, tb.tensor(FLAT)), copies_to_the_device=2)


def test_evaluation_waits_for_nothing_and_a_line_of_a_log_once():
    model = nn.MLP([12, 16, 5], "batch", rng=np.random.default_rng(0)).eval()
    x = tb.tensor(FLAT)
    with tb.no_grad():
        model(x)
        with cupy_on_cpu.count() as counts:
            loss = tb.ops.cross_entropy(model(x), LABELS)
        assert_no_wait(counts, copies_to_the_device=1)
    with cupy_on_cpu.count() as counts:
        assert f"loss {loss:.3f}".startswith("loss ")
    assert (counts["sync"], counts["d2h"]) == (1, 1)


def test_second_order_gradients_wait_for_nothing():
    x, v = (tb.tensor(draw((N, 12), seed=i), requires_grad=True) for i in (0, 1))

    def penalty():
        (g,) = tb.grad((tb.ops.batch_norm(x) * v).sum(), x, create_graph=True)
        return tb.grad((g * g).sum(), [x, v])

    assert_no_wait(counts_of(penalty), copies_to_the_device=0)


@pytest.mark.parametrize(
    ("norm", "most"), [("none", 65), ("batch", 97), ("layer", 101), ("group", 105), ("rms", 87)]
)
def test_a_step_of_an_mlp_launches_no_more_kernels_than_it_did(norm, most):
    """Two hidden layers and SGD; products count as one launch each. Lower these when they fall."""
    make, x = MODELS[f"MLP-{norm}"]
    model = make()
    counts = counts_of(training(model, optim.SGD(model.parameters(), 0.1)), tb.tensor(x))
    assert counts["launch"] + counts["blas"] <= most
