"""Data sets and batches, and files of arrays."""

import sys

import numpy as np
import pytest

from tinybn import checkpoint, data


@pytest.mark.parametrize(
    ("name", "n", "features", "classes"),
    [("digits", 1797, 64, 10), ("wine", 178, 13, 3), ("breast_cancer", 569, 30, 2)],
)
def test_real_data_in_three_parts(name, n, features, classes):
    d = data.load(name, seed=1)
    assert (d.name, d.features, d.classes) == (name, features, classes)
    parts = (d.train, d.validation, d.test)
    assert sum(len(p.x) for p in parts) == n
    assert len(d.test.x) == len(d.validation.x) == round(0.15 * n)
    for part in parts:
        assert part.x.dtype == np.float32
        assert part.y.dtype == np.int64
        assert part.x.shape == (len(part.y), features)
        assert set(part.y) == set(range(classes))


def test_the_parts_are_disjoint_and_complete():
    parts = data.load("wine", scale=False)[1:4]
    rows = np.concatenate([p.x for p in parts])
    assert len(np.unique(rows, axis=0)) == len(rows)
    from sklearn.datasets import load_wine

    expected = load_wine().data.astype(np.float32)
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(expected, axis=0))


def test_the_split_is_seeded():
    a, b, c = (data.load("wine", seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.test.x, b.test.x)
    assert not np.array_equal(a.test.y, c.test.y)


def test_scaling_is_learnt_from_the_training_part_alone():
    d = data.load("wine")
    np.testing.assert_allclose(d.train.x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(d.train.x.std(0), 1, rtol=1e-5)
    assert np.abs(d.test.x.mean(0)).max() > 0.01
    digits = data.load("digits").train.x
    assert digits.min() == 0
    assert digits.max() == 1
    assert data.load("digits", scale=False).train.x.max() == 16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.load("mnist"), "unknown data 'mnist': expected one of 'digits', 'wine'"),
        (lambda: data.load("wine", test=0), "fractions > 0"),
        (lambda: data.load("wine", test=0.5, validation=0.5), "got 0.5 and 0.5"),
        (lambda: data.Batches(np.ones(3), np.ones(2), 1), "equal lengths, got 3 and 2"),
        (lambda: data.Batches(np.ones(3), np.ones(3), 0), "batch_size.*got 0"),
        (lambda: data.Batches(np.ones(3), np.ones(3), 1.5), "batch_size.*got 1.5"),
        (lambda: data.Batches(np.ones(0), np.ones(0), 1), "0 examples give no batch of 1"),
        (
            lambda: data.Batches(np.ones(3), np.ones(3), 4, drop_last=True),
            "3 examples give no batch",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_missing_scikit_learn_is_named_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        data.load("wine")


def numbered(n, size, seed=0, **options):
    x = np.arange(n)
    return data.Batches(x, x * 10, size, rng=np.random.default_rng(seed), **options)


def test_an_epoch_gives_every_example_once_with_its_label():
    batches = numbered(10, 4)
    seen = list(batches)
    assert [len(x) for x, _ in seen] == [4, 4, 2]
    assert len(batches) == 3
    assert sorted(np.concatenate([x for x, _ in seen])) == list(range(10))
    for x, y in seen:
        np.testing.assert_array_equal(y, 10 * x)


def test_drop_last_leaves_out_the_smaller_batch():
    batches = numbered(10, 4, drop_last=True)
    assert [len(x) for x, _ in batches] == [4, 4]
    assert len(batches) == 2
    assert len(numbered(8, 4, drop_last=True)) == 2


def test_epochs_differ_and_seeds_repeat_them():
    a, b = numbered(20, 5), numbered(20, 5)
    first, second = ([list(x) for x, _ in a] for _ in range(2))
    assert first != second
    assert [list(x) for x, _ in b] == first
    assert [list(x) for x, _ in b] == second
    assert [list(x) for x, _ in numbered(4, 2, shuffle=False)] == [[0, 1], [2, 3]]


def test_saved_arrays_come_back_exactly(tmp_path):
    state = {"0.weight": np.random.default_rng(0).random((3, 2), np.float32), "n": np.array(7)}
    checkpoint.save(tmp_path / "model.npz", state)
    loaded = checkpoint.load(tmp_path / "model.npz")
    assert loaded.keys() == state.keys()
    for name in state:
        np.testing.assert_array_equal(loaded[name], state[name])
        assert loaded[name].dtype == state[name].dtype
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"a": np.ones(3)})

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"a": np.zeros(3)})
    np.testing.assert_array_equal(checkpoint.load(path)["a"], 1)
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.npz is not a file that tinybn saved"):
        checkpoint.load(path)
