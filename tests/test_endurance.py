"""What runs for long, or in many threads and processes: memory stays flat, and nothing is mixed up.

`TINYBN_STEPS=100000 pytest tests/test_endurance.py` runs the long version.
"""

import gc
import os
import sys
import threading

import numpy as np
import pytest
from numeric import here

import tinybn as tb
from tinybn.modes import Mode, current_mode

STEPS = int(os.environ.get("TINYBN_STEPS", "1000"))
LENGTH = min(100 * STEPS, 10**6)


def training(seed, compiled=None):
    """A step of a small MLP with batch norm, and what it trains."""
    rng = np.random.default_rng(seed)
    model = tb.nn.MLP([4, 8, 3], "batch", rng=rng)
    optimizer = tb.optim.Adam(model.parameters(), 0.01)
    x = here(rng.standard_normal((16, 4)).astype(np.float32))
    labels = rng.integers(0, 3, 16)

    def step(x, labels):
        optimizer.zero_grad()
        loss = tb.ops.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    step = tb.compile(step, backend=compiled) if compiled else step
    return lambda: step(x, labels).item()


@pytest.mark.host("thousands of steps take minutes")
@pytest.mark.parametrize("compiled", [None, "numpy", "numba"])
def test_memory_is_flat_without_the_garbage_collector(compiled):
    if compiled == "numba":
        pytest.importorskip("numba")
    step = training(0, compiled)
    gc.collect()
    gc.disable()
    try:
        for _ in range(2500):  # until Python's free lists are full
            step()
        before = sys.getallocatedblocks()
        for _ in range(STEPS):
            step()
        grown = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    assert grown < 200  # every object is a block


@pytest.mark.host("a million kernels take minutes")
def test_a_long_chain_goes_back_and_is_freed():
    x = tb.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(LENGTH):
        y = -y
    assert tb.grad(y, [x])[0].item() == 1
    assert y._node.sources is None
    z = x
    for _ in range(LENGTH):
        z = -z
    del y, z  # also without a backward pass, and without recursion


def test_threads_train_as_if_each_were_alone():
    alone = [[step() for _ in range(30)] for step in map(training, range(8))]
    together = [[] for _ in range(8)]

    steps = [training(i) for i in range(8)]

    def run(i):
        with tb.use_fused(True):
            together[i] += [steps[i]() for _ in range(30)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert together == alone


@pytest.mark.host("a forked process can't use the GPU of its parent")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("compiled", [None, "numpy"])
def test_a_forked_process_goes_on_like_its_parent(compiled):
    """Even while another thread runs a compiled step, and so holds its lock."""
    busy, over = training(1, compiled), threading.Event()

    def keep_busy():
        while not over.is_set():
            busy()

    step = training(0, compiled)
    for _ in range(3):
        step()
    thread = threading.Thread(target=keep_busy)
    thread.start()
    try:
        with tb.no_grad():
            child = os.fork()
            if child == 0:
                os._exit(current_mode().record)  # the mode comes along
            _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writes, repr([step() for _ in range(5)]).encode())
            os._exit(0)
        os.close(writes)
        with open(reads) as file:
            found = file.read()
        os.waitpid(child, 0)
    finally:
        over.set()
        thread.join()
    assert found == repr([step() for _ in range(5)])
    assert current_mode() == Mode()


@pytest.mark.host("it takes 1 GB")
@pytest.mark.parametrize(
    ("op", "shape"), [("batch_norm", (2, 1, 10_000_064)), ("layer_norm", (2, 20_000_000))]
)
def test_rows_of_many_millions(op, shape):
    x = tb.tensor(np.ones(shape, np.float32), requires_grad=True)
    x.data[..., ::2] = 3
    y = getattr(tb.ops, op)(x)
    assert abs(y.data[..., 1:].max() - 1) < 1e-3
    (dx,) = tb.grad(y, [x], y.detach())
    assert abs(dx.data).max() < 1e-3
