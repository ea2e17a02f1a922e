"""What `tb.distributed` does without MPI; tests/mpi has the ranks."""

import copy
import subprocess
import sys

import numpy as np
import pytest

import tinybn as tb
from tinybn import distributed
from tinybn.distributed.training import buckets


def played(rank, size):
    """A communicator that knows its rank, and can't send."""
    comm = distributed.Communicator()
    comm.rank, comm.size = rank, size
    return comm


def test_importing_tinybn_does_not_import_mpi():
    code = "import tinybn, sys; sys.exit('mpi4py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_mpi4py_connect_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    install = pytest.raises(ModuleNotFoundError, match=r"pip install 'tinybn\[mpi\]'")
    with install, distributed.connect():
        pass


def epoch(size, **options):
    """Per batch, the examples of each rank and their shares."""
    x = np.arange(options.pop("n"))
    shards = [distributed.Shards(played(r, size), x, x, **options) for r in range(size)]
    return [
        [(list(x), share) for x, _, share in batch] for batch in zip(*shards, strict=True)
    ], shards


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [12, 13, 22, 23])
def test_every_example_comes_once_an_epoch(n, size):
    batches, _ = epoch(size, n=n, batch_size=6, seed=3)
    seen = [i for batch in batches for part, _ in batch for i in part]
    assert sorted(seen) == list(range(n))
    for batch in batches:
        lengths = [len(part) for part, _ in batch]
        assert min(lengths) >= 1
        assert max(lengths) - min(lengths) <= 1
        for part, share in batch:
            assert share == pytest.approx(len(part) * size / sum(lengths))


def test_ranks_together_see_the_batches_of_one():
    alone, _ = epoch(1, n=22, batch_size=6, seed=3)
    parts, _ = epoch(4, n=22, batch_size=6, seed=3)
    together = [[i for part, _ in batch for i in part] for batch in parts]
    assert together == [batch[0][0] for batch in alone]


def test_a_last_batch_that_is_too_small_for_the_ranks_joins_the_one_before():
    batches, shards = epoch(4, n=14, batch_size=6)
    assert [sum(len(part) for part, _ in batch) for batch in batches] == [6, 8]
    assert len(shards[0]) == 2
    batches, _ = epoch(4, n=14, batch_size=6, drop_last=True)
    assert [sum(len(part) for part, _ in batch) for batch in batches] == [6, 6]


def test_shards_that_cannot_be():
    x = np.arange(6)
    for size, batch, drop, n in [(4, 3, False, 6), (4, 8, True, 6), (8, 8, False, 6)]:
        with pytest.raises(ValueError, match="too few for"):
            distributed.Shards(played(0, size), x[:n], x[:n], batch, drop_last=drop)
    with pytest.raises(ValueError, match="equal lengths"):
        distributed.Shards(distributed.ALONE, x, x[1:], 2)


def test_shards_go_on_in_the_middle_of_an_epoch():
    x = np.arange(20)
    one, other = (distributed.Shards(played(1, 2), x, x, 6, seed=s) for s in (1, 2))
    given = iter(one)
    next(given)
    other.load_state_dict(one.state_dict())
    rest = [list(a) for a, _, _ in given] + [list(a) for a, _, _ in one]
    assert [list(a) for a, _, _ in other] + [list(a) for a, _, _ in other] == rest
    with pytest.raises(ValueError, match="changed nothing"):
        other.load_state_dict(one.state_dict() | {"order": x[:5]})


def test_buckets_hold_neighbours_of_one_dtype():
    sizes = [(3, "f4"), (3, "f4"), (10, "f4"), (1, "f8"), (1, "f4"), (1, "f4")]
    tensors = [tb.tensor(np.zeros(n, dtype), backend="numpy") for n, dtype in sizes]
    assert [[t.size for t in group] for group in buckets(tensors, 24)] == [
        [3, 3],
        [10],
        [1],
        [1, 1],
    ]


def draw(n=8):
    rng = np.random.default_rng(0)
    return tb.tensor(rng.standard_normal((n, 3)).astype(np.float32))


@pytest.mark.parametrize("fused", [True, False])
def test_a_rank_alone_has_ordinary_batch_norm(fused):
    plain, synced = tb.nn.BatchNorm(3), tb.nn.BatchNorm(3, sync=distributed.ALONE)
    x = draw()
    with tb.use_fused(fused):
        np.testing.assert_allclose(synced(x).numpy(), plain(x).numpy(), atol=1e-6)
    for name, value in plain.state_dict().items():
        np.testing.assert_allclose(synced.state_dict()[name], value, atol=1e-6)
    np.testing.assert_allclose(synced.eval()(x).numpy(), plain.eval()(x).numpy(), atol=1e-6)


def test_synchronize_finds_every_batch_norm():
    model = tb.nn.MLP([4, 3, 3, 2], "batch")
    comm = played(0, 2)
    distributed.synchronize(comm, model)
    assert [m.sync for m in model.modules() if isinstance(m, tb.nn.BatchNorm)] == [comm] * 2
    assert next(m for m in copy.deepcopy(model).modules() if hasattr(m, "sync")).sync is comm


@pytest.mark.parametrize("shape", [(1, 3), (8,), (8, 4)])
def test_batches_that_do_not_fit(shape):
    layer = tb.nn.BatchNorm(3, sync=distributed.ALONE)
    with pytest.raises(ValueError, match=r"one value per channel|expected x of shape"):
        layer(tb.tensor(np.ones(shape, np.float32)))


def test_a_checkpoint_of_one_rank(tmp_path):
    comm, path = distributed.ALONE, tmp_path / "state.npz"
    model = tb.nn.MLP([3, 4, 2], "batch")
    noise = np.random.default_rng(5)
    own = {"noise": tb.init.RandomState(noise)}
    distributed.broadcast(comm, model=model)
    distributed.save(comm, path, own, model=model)
    state, drawn = model.state_dict(), noise.random()
    model(draw())
    model[0].weight.data = model[0].weight.data * 2
    distributed.load(comm, path, own, model=model)
    assert all((model.state_dict()[name] == value).all() for name, value in state.items())
    assert noise.random() == drawn


def test_gradients_of_one_rank_stay():
    model = tb.nn.Linear(3, 2)
    loss = model(draw()).sum()
    loss.backward()
    before = model.weight.grad.numpy().copy()
    mean = distributed.average_gradients(distributed.ALONE, model.parameters(), loss)
    assert (model.weight.grad.numpy() == before).all()
    assert mean.item() == loss.item()
    assert not mean.requires_grad


def test_average_buffers_leaves_parameters_and_counts():
    class Doubles(distributed.Communicator):
        size = 1

        def all_reduce(self, array, what=""):
            return 2 * array

    model = tb.nn.BatchNorm(3)
    model(draw())
    before = model.state_dict()
    distributed.average_buffers(Doubles(), model)
    after = model.state_dict()
    assert (after["running_mean"] == 2 * before["running_mean"]).all()
    assert (after["gamma"] == before["gamma"]).all()
    assert after["num_batches_tracked"] == before["num_batches_tracked"]


def test_ops_over_one_rank():
    x = draw(2)
    x = tb.tensor(x, requires_grad=True)
    y = distributed.all_gather(
        distributed.all_reduce(x, comm=distributed.ALONE), comm=distributed.ALONE
    )
    assert y.shape == (1, 2, 3)
    (g,) = tb.grad((y * y).sum(), x)
    assert (g.numpy() == 2 * x.numpy()).all()
