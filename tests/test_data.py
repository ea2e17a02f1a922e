"""Data sets and batches, and files of arrays."""

import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

import tinybn as tb
from tinybn import checkpoint, data

pytestmark = pytest.mark.host("data sets and files are NumPy's")


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


def test_every_row_keeps_its_label():
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    labels = {row.tobytes(): label for row, label in zip(x.astype(np.float32), y, strict=True)}
    assert len(labels) == len(x)
    for part in data.load("wine", scale=False)[1:4]:
        assert [labels[row.tobytes()] for row in part.x] == part.y.tolist()


def test_fractions_give_the_sizes_of_the_parts():
    d = data.load("digits", validation=0.1, test=0.25)
    assert [len(p.x) for p in (d.test, d.validation, d.train)] == [449, 180, 1168]


def test_the_split_is_seeded():
    a, b, c = (data.load("wine", seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.test.x, b.test.x)
    assert not np.array_equal(a.test.y, c.test.y)


def test_scaling_is_learnt_from_the_training_part_alone():
    d = data.load("wine")
    np.testing.assert_allclose(d.train.x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(d.train.x.std(0), 1, rtol=1e-5)
    assert np.abs(d.test.x.mean(0)).max() > 0.01
    raw = data.load("wine", scale=False)
    mean, std = raw.train.x.mean(0, np.float64), raw.train.x.std(0, np.float64)
    for part, unscaled in zip(d[1:4], raw[1:4], strict=True):
        np.testing.assert_allclose(part.x, (unscaled.x - mean) / std, atol=1e-4)
        np.testing.assert_array_equal(part.y, unscaled.y)
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
        (lambda: data.load("wine", test=-0.1), "got 0.15 and -0.1"),
        (lambda: data.load("wine", validation=np.nan), "got nan and 0.15"),
        (lambda: data.load("wine", validation=1.5), "got 1.5 and 0.15"),
        (lambda: data.load("wine", test=0.001), "0.001"),  # of 178: an empty part
        (lambda: data.load("wine", test=0.5, validation=0.499), "0.499"),  # nothing for training
        (lambda: data.Batches(np.ones(3), np.ones(3), -1), "batch_size.*got -1"),
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


def test_without_a_generator_the_order_follows_the_shared_seed():
    orders = []
    for seed in (1, 1, 2):
        tb.seed(seed)
        orders.append([list(x) for x, _ in data.Batches(np.arange(20), np.arange(20), 5)])
    assert orders[0] == orders[1] != orders[2]
    with pytest.raises(TypeError, match=r"numpy.random.Generator, got int"):
        data.Batches(np.ones(3), np.ones(3), 1, rng=0)


def test_drop_last_leaves_out_the_smaller_batch():
    batches = numbered(10, 4, drop_last=True)
    assert [len(x) for x, _ in batches] == [4, 4]
    assert len(batches) == 2
    assert len(numbered(8, 4, drop_last=True)) == 2
    for _ in range(3):  # no example twice
        assert len({i for x, _ in batches for i in x}) == 8


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


def test_checkpoint_needs_no_import_of_its_own(tmp_path):
    code = "import sys, tinybn as tb; tb.checkpoint.save(sys.argv[1], {'a': [1, 2]})"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.npz")], check=True)
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "a.npz")["a"], [1, 2])


def test_saving_again_replaces_the_file(tmp_path):
    path = str(tmp_path / "model")  # no suffix is added
    for i in (1, 2):
        checkpoint.save(path, {"a": np.full(3, i)})
    np.testing.assert_array_equal(checkpoint.load(path)["a"], 2)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["file", "allow_pickle", "a/b", "0.weight"])
def test_a_parameter_may_have_any_name(tmp_path, name):
    checkpoint.save(tmp_path / "model.npz", {name: np.arange(3)})
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "model.npz")[name], [0, 1, 2])


def test_a_missing_file_is_not_called_broken(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "model.npz")


def test_what_is_no_array_of_numbers_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="a: expected numbers or text, got object"):
        checkpoint.save(tmp_path / "model.npz", {"a": np.array([{}], object)})
    assert list(tmp_path.iterdir()) == []


class Breaks:
    """What fails when it is made an array, that is, while a file is being written."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("writing", [True, False])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, writing, error):
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"a": np.ones(3)})
    state = {"a": np.zeros(3)}
    if writing:
        state["b"] = Breaks(error)
    else:
        monkeypatch.setattr(os, "replace", lambda *paths: np.asarray(Breaks(error)))
    with pytest.raises(type(error)):
        checkpoint.save(path, state)
    np.testing.assert_array_equal(checkpoint.load(path)["a"], 1)
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


@pytest.fixture
def saved(tmp_path):
    """A file that was saved, and its bytes."""
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"a": np.arange(5.0), "b": np.ones(3, np.float32)})
    return path, path.read_bytes()


@pytest.mark.parametrize("part", [0.01, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_off_is_named(saved, part):
    path, content = saved
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"model.npz is not a file that tinybn saved"):
        checkpoint.load(path)


def test_a_file_of_another_kind_is_named(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "b.npz").write_bytes(b"text")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=r"tinybn saved: it is no \.npz file"):
            checkpoint.load(path)


def test_an_unknown_compression_is_named(saved):
    path, content = saved
    entry = content.index(b"PK\x01\x02")  # of the zip directory; the method stands at 10
    path.write_bytes(content[: entry + 10] + struct.pack("<H", 99) + content[entry + 12 :])
    with pytest.raises(ValueError, match=r"model.npz is not a file that tinybn saved"):
        checkpoint.load(path)


def test_an_array_that_claims_to_be_shorter_is_noticed(tmp_path):
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"a": np.arange(2000.0)})
    path.write_bytes(path.read_bytes().replace(b"(2000,)", b"(1000,)"))
    with pytest.raises(ValueError, match="its checksum is another"):
        checkpoint.load(path)


def test_a_flipped_byte_gives_no_wrong_number_and_no_other_error(saved):
    path, content = saved
    good = checkpoint.load(path)
    refused = 0
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :])
        try:
            loaded = checkpoint.load(path)
        except ValueError:
            refused += 1
            continue
        for name, array in loaded.items():
            np.testing.assert_array_equal(array, good[name])
    assert refused > len(content) / 3


def test_an_archive_of_something_else_is_named(tmp_path):
    import zipfile

    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no array")
    with pytest.raises(ValueError, match=r"model.npz is not a file that tinybn saved"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", b"PK\x03\x04 cut off", pickle.dumps({})]
)
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.npz is not a file that tinybn saved"):
        checkpoint.load(path)
