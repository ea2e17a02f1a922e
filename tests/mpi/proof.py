"""k ranks against one process: run by test_proof.py as `mpiexec -n k python proof.py NAME`.

Every rank also computes the reference, alone and on all data, and compares its own part.
"""

import itertools
import os
import sys

import numpy as np
from graphs_across_ranks import Graph

import tinybn as tb
from tinybn import check, distributed
from tinybn.check.derivatives import by_autodiff, draw_weights, leaves

SIZES = {1: [11], 2: [9, 2], 3: [1, 7, 3], 4: [2, 1, 5, 3]}
"""Uneven parts of 11 rows; a part of one row has no variance of its own."""
LIMIT = 1e-12


def parts(comm, *arrays):
    """This rank's rows of each array."""
    ends = np.cumsum(SIZES[comm.size])
    rows = slice(ends[comm.rank] - SIZES[comm.size][comm.rank], ends[comm.rank])
    return [a[rows] for a in arrays]


def largest(comm, *pairs):
    """The largest difference on any rank, relative to the largest number."""
    errors = [np.abs(a - b).max() / max(1.0, np.abs(b).max()) for a, b in pairs]
    return float(comm.all_gather(np.array(max(errors))).max())


def derivatives(op, arrays, weights, **static):
    """y, the gradients of Σ v y, and those of Σ w · (gradient of x)."""
    leaves = [tb.tensor(a, requires_grad=True) for a in arrays]
    y = op(*leaves, **static)
    first = tb.grad((y * weights[0]).sum(), leaves, create_graph=True)
    second = tb.grad((first[0] * weights[1]).sum(), leaves, create_graph=True, allow_unused=True)
    third = tb.grad((second[0] * weights[2]).sum(), leaves[:1])
    return [a.numpy() for a in (y, *first, *second[:2], *third)]


def norm(comm):
    """Outputs and derivatives of three orders, fused and composed, easy and hard inputs."""
    rng = np.random.default_rng(1)
    worst = 0.0
    for shape, shift, scale in [((11, 4), 0, 1), ((11, 3, 2, 2), 5, 1), ((11, 4), 1e3, 0.1)]:
        x = shift + scale * rng.standard_normal(shape)
        gamma, beta = rng.standard_normal((2, shape[1]))
        gamma[0] = 0
        weights = rng.standard_normal((3, *shape))
        want = derivatives(tb.ops.batch_norm, (x, gamma, beta), weights)
        for closed in (True, False):
            with tb.use_fused(closed):
                own = parts(comm, x)[0], gamma, beta
                local = parts(comm, *weights)
                got = derivatives(distributed.sync_batch_norm, own, local, comm=comm)
            pairs = []
            for mine, theirs in zip(got, want, strict=True):
                whole = theirs.shape == shape
                mine = mine if whole else comm.all_reduce(mine)
                pairs.append((mine, parts(comm, theirs)[0] if whole else theirs))
            worst = max(worst, largest(comm, *pairs) / max(1.0, shift / scale))
    return worst


def float32(comm):
    """A mean of 1e4 costs float32 no more digits on many ranks than on one."""
    rng = np.random.default_rng(2)
    x = (1e4 + rng.standard_normal((11, 4))).astype(np.float32)
    exact = tb.ops.batch_norm(x.astype(np.float64))
    alone = float(np.abs(tb.ops.batch_norm(x) - exact).max())
    y = distributed.sync_batch_norm(*parts(comm, x), comm=comm)
    assert y.dtype == np.float32
    assert largest(comm, (y, parts(comm, exact)[0])) < max(4 * alone, 2e-6)
    half = distributed.sync_batch_norm(*parts(comm, x.astype(np.float16)), comm=comm)
    assert half.dtype == np.float16
    for dtype in (np.bool_, np.int8, np.uint8, np.int32, np.int64, np.float16, np.float64):
        y = comm.all_reduce(np.ones((2, 3), dtype))
        assert y.dtype == dtype
        assert (y == np.array(comm.size, dtype)).all()
        assert comm.all_gather(np.full(2, comm.rank, dtype)).dtype == dtype
    return 0.0


def graphs(comm):
    """Random graphs with sums and stacks over ranks, and batch norms, in every place."""
    worst = 0.0
    for seed in range(40):
        graph = Graph(seed, SIZES[comm.size])
        got, want = graph.across(comm), graph.alone(comm.rank)
        worst = max(worst, largest(comm, *zip(got, want, strict=True)))
    return worst


def differences(comm):
    """Finite differences of the whole batch, through the exchange, to order 2."""
    rng = np.random.default_rng(3)
    x, gamma, beta = rng.standard_normal((4, 1)), *rng.standard_normal((2, 1))
    k = comm.size
    rows = np.array_split(np.arange(4), k)[comm.rank]

    def same(a):  # equal on all ranks; its gradient is the average of theirs
        return distributed.all_reduce(a, comm=comm) / k

    def fn(x, gamma, beta):
        own = same(x)[rows]
        y = distributed.sync_batch_norm(own, same(gamma), same(beta), comm=comm)
        total = distributed.all_gather((y * weights[rows]).sum(axis=0), comm=comm)
        return total.tanh() + distributed.all_reduce((y * y * y).sum(axis=0), comm=comm) / 9

    weights = rng.standard_normal((4, 1))
    xs, step, worst = [x, gamma, beta], 1e-3, 0.0
    levels = draw_weights(rng, (k, 1), xs, 2)
    for closed in (True, False):
        with tb.use_fused(closed):
            for order in (1, 2):
                found = by_autodiff(fn, leaves(xs), levels, order)[-1]
                for i, index in [(i, at) for i, a in enumerate(xs) for at in np.ndindex(a.shape)]:

                    def s(h, i=i, index=index, order=order):
                        moved = [a.copy() for a in xs]
                        moved[i][index] += h * step
                        below = by_autodiff(fn, leaves(moved), levels, order - 1)[-1]
                        return sum(
                            (v * w).sum() for v, w in zip(below, levels[order - 1], strict=True)
                        )

                    slope = (45 * (s(1) - s(-1)) - 9 * (s(2) - s(-2)) + s(3) - s(-3)) / (60 * step)
                    worst = max(worst, abs(slope - found[i][index]) / np.abs(found[i]).max())
    assert worst < 1e-8, worst
    return 0.0


def compare(comm):
    """The closed form against the composition in higher precision, as `make compare` does it."""
    for case in check.cases():
        if (
            case.op == "batch_norm"
            and "mean" not in case.static
            and len(case.inputs[0]) >= comm.size
        ):
            x = np.array_split(case.inputs[0], comm.size)[comm.rank]
            inputs = [x, *case.inputs[1:]]
            table = check.compare("sync_batch_norm", inputs, {"comm": comm}, differences=False)
            table.check()
    return 0.0


def model_of(sync, dtype=np.float64, norm=tb.nn.BatchNorm):
    rng = np.random.default_rng(4)
    layers = []
    for a, b in ((6, 8), (8, 7)):
        layers += [tb.nn.Linear(a, b, rng=rng), norm(b, sync=sync), tb.nn.ReLU()]
    return tb.nn.Sequential(*layers, tb.nn.Linear(7, 3, rng=rng)).to(dtype)


def trained(comm, sync, epochs=3, size=12, norm=tb.nn.BatchNorm):
    """Losses, and the model's state, after some epochs; 40 examples in batches of `size`."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((40, 6)), rng.integers(0, 3, 40)
    model = model_of(sync, norm=norm)
    optimizer = tb.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    distributed.broadcast(comm, model=model, optimizer=optimizer)
    losses = []
    x = tb.tensor(x, dtype=np.float64).data  # on the backend in use
    batches = distributed.Shards(comm, x, y, size, seed=6)
    for _ in range(epochs):
        for xb, yb, share in batches:
            optimizer.zero_grad()
            loss = tb.ops.cross_entropy(model(xb), yb) * share
            loss.backward()
            losses.append(distributed.average_gradients(comm, optimizer.params, loss).item())
            optimizer.step()
    if sync is None and comm.size > 1:
        distributed.average_buffers(comm, model)
    distributed.agree(comm, model.state_dict())
    return [np.array(losses), *model.state_dict().values()]


def training(comm):
    """Losses, parameters, running statistics."""
    want = trained(distributed.ALONE, None)
    worst = largest(comm, *zip(trained(comm, comm), want, strict=True))
    with tb.use_fused(False):
        return max(worst, largest(comm, *zip(trained(comm, comm), want, strict=True)))


def ghosts(comm):
    """Without synchronisation, k ranks do something else; the loss differs by so much."""
    alone, ghost = trained(distributed.ALONE, None, 1, 8)[0], trained(comm, None, 1, 8)[0]
    return float(np.abs(alone - ghost).max())


def ghosts_are_groups(comm):
    """k ranks without synchronisation are one process that normalizes k groups of the batch."""

    class Ghosts(tb.nn.BatchNorm):
        def forward(self, x):
            size = len(x) // comm.size
            groups = [x[i * size : (i + 1) * size] for i in range(comm.size)]
            return tb.ops.concatenate([super(Ghosts, self).forward(group) for group in groups])

    one = trained(distributed.ALONE, None, 1, 8, norm=Ghosts)[0]
    return largest(comm, (trained(comm, None, 1, 8)[0], one))


def compiled(comm):
    """Without synchronised norms, the part between the messages compiles; with them, it refuses."""
    found = []
    for wrap in (lambda f: f, tb.compile):
        rng = np.random.default_rng(8)
        model = tb.nn.MLP([6, 5, 3], "layer", rng=rng).to(np.float64)
        optimizer = tb.optim.SGD(model.parameters(), 0.1)

        def slopes(x, y, share, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = tb.ops.cross_entropy(model(x), y) * share
            loss.backward()
            return loss

        slopes = wrap(slopes)
        x, y = rng.standard_normal((40, 6)), rng.integers(0, 3, 40)
        for xb, yb, share in distributed.Shards(comm, x, y, 8):
            loss = slopes(xb, yb, share)
            found.append(distributed.average_gradients(comm, optimizer.params, loss).numpy())
            optimizer.step()
    half = len(found) // 2
    if comm.size > 1:
        synced = model_of(comm)
        step, message = tb.compile(lambda x: synced(x).sum()), ""
        step(np.ones((4, 6)))  # the first call runs op by op
        try:
            step(np.ones((4, 6)))
        except RuntimeError as error:
            message = str(error)
        assert "can't be compiled: run it without tb.compile" in message, message
    return largest(comm, (np.array(found[:half]), np.array(found[half:])))


def cupy(comm):
    """CuPy's arrays travel through the host, and give what NumPy's do."""
    with tb.use_backend("cupy"):
        found = trained(comm, comm, 1)
    return largest(comm, *zip(found, trained(comm, comm, 1), strict=True))


def sent(comm):
    """Messages and bytes of a step."""
    rng = np.random.default_rng(0)
    widths = 6, 8, 7, 3
    norms = [
        layer
        for n, m in itertools.pairwise(widths[:-1])
        for layer in (tb.nn.Linear(n, m), tb.nn.BatchNorm(m, sync=comm))
    ]
    model = tb.nn.Sequential(*norms, tb.nn.Linear(7, 3))
    for _ in range(2):
        before = comm.traffic.copy()
        loss = tb.ops.cross_entropy(
            model(rng.standard_normal((4, 6)).astype("f4")), np.ones(4, int)
        )
        loss.backward()
        distributed.average_gradients(comm, model.parameters(), loss)
    print({key: comm.traffic[key] - before[key] for key in before}, flush=True)
    return 0.0


def main(name):
    gpu_aware = "GPU_AWARE" in os.environ
    with distributed.connect(patience=30, gpu_aware=gpu_aware) as comm:
        error = globals()[name](comm)
        if comm.rank == 0:
            print(f"error {error!r}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
