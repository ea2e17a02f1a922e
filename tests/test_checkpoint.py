"""Checkpoints: hostile files, crashes while writing, and parts that change all or not at all."""

import hashlib
import io
import os
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from numeric import here, host

import tinybn as tb
from tinybn import checkpoint, nn, optim
from tinybn.init import RandomState

host_only = pytest.mark.host("files are NumPy's")


def signed(content):
    """The bytes of an archive, with the mark and the checksum that `save` would add."""
    comment = checkpoint.MARK + bytes(checkpoint.DIGITS)
    end = content.rindex(b"PK\5\6")
    content = content[: end + 20] + struct.pack("<H", len(comment)) + checkpoint.MARK
    return content + hashlib.sha256(content).hexdigest().encode()


def archive(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as z:
        for name, content in entries:
            z.writestr(name, content)
    return signed(file.getvalue())


def npy(shape, descr="'<f4'", data=b"", order=False, version=1):
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + data


# --- hostile files ---


@host_only
def test_a_signed_archive_of_good_arrays_is_read(tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(archive([("a.npy", npy((2,), data=np.ones(2, "f4").tobytes()))]))
    np.testing.assert_array_equal(checkpoint.load(path)["a"], 1)


@host_only
def test_every_flipped_bit_is_refused_with_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"a": np.arange(5.0), "b": np.array("text"), "c": np.array(3)})
    content = bytearray(path.read_bytes())
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"model\.npz is not a file that tinybn saved"
        ) as caught:
            checkpoint.load(path)
        assert "\n" not in str(caught.value)
        content[bit // 8] ^= 1 << bit % 8


HOSTILE = {
    "an absurd shape": npy((10**12,)),
    "a shape that overflows": npy((10**30, 10**30)),
    "an absurd shape of nothing": npy((0, 10**30)),
    "no bytes an element": npy((10**9,), "'<U0'"),
    "a negative length": npy((-1,)),
    "two negative lengths": npy((-1, -1), data=bytes(4)),
    "too many axes": npy((1,) * 99, data=bytes(4)),
    "a shorter array": npy((1,), data=bytes(8)),
    "a longer array": npy((3,), data=bytes(8)),
    "objects": npy((1,), "'|O'", data=bytes(8)),
    "records": npy((1,), "[('a', '<f4')]", data=bytes(4)),
    "dates": npy((1,), "'<M8[s]'", data=bytes(8)),
    "Fortran's order": npy((1, 1), data=bytes(4), order=True),
    "another version": npy((1,), data=bytes(4), version=3),
    "a header that is code": npy((1,), "__import__('os')", data=bytes(4)),
    "no header": b"",
}


@host_only
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_array_with_the_right_checksum_is_refused(tmp_path, what):
    path = tmp_path / "model.npz"
    path.write_bytes(archive([("a.npy", HOSTILE[what])]))
    with pytest.raises(ValueError, match=r"model\.npz is not .*: its entry 'a\.npy' is damaged"):
        checkpoint.load(path)


@host_only
def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "model.npz"
    bomb = archive([("a.npy", npy((10**8,), "'|u1'") + bytes(10**8))], zipfile.ZIP_DEFLATED)
    path.write_bytes(bomb)
    assert len(bomb) < 200_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"its entry 'a\.npy' is compressed"):
        checkpoint.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(bomb)


@host_only
def test_entries_that_share_their_bytes_are_refused(tmp_path):
    """A bomb without compression: a thousand names for one large array."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        z.writestr("0.npy", npy((10_000,), data=bytes(40_000)))
        (first,) = z.filelist
        for i in range(1, 1000):
            copy = zipfile.ZipInfo(f"{i}.npy")
            copy.CRC, copy.compress_size, copy.file_size = first.CRC, first.file_size, 40_128
            copy.header_offset = first.header_offset
            z.filelist.append(copy)
    path = tmp_path / "model.npz"
    path.write_bytes(signed(file.getvalue()))
    with pytest.raises(ValueError, match="claim to be larger than the file"):
        checkpoint.load(path)


@host_only
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(archive([("a.npy", npy((1,), data=bytes(4)))] * 2))
    with pytest.raises(ValueError, match=r"its entry 'a\.npy' comes twice"):
        checkpoint.load(path)


@host_only
def test_a_later_version_and_a_file_without_checksum_are_told_apart(tmp_path):
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"a": np.ones(2)})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"checkpoint 1, sha256", b"checkpoint 2, sha256"))
    with pytest.raises(ValueError, match="it has another version"):
        checkpoint.load(path)
    np.savez(path, a=np.ones(2))
    with pytest.raises(ValueError, match=r"it has no checksum; if you trust it, .* np\.load"):
        checkpoint.load(path)


@host_only
@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": np.zeros(2, "M8[s]")}, "a: expected numbers or text, got datetime64"),
        ({"a": np.zeros(2, [("x", "f4")])}, "a: expected numbers or text"),
        ({1: np.zeros(2)}, "expected a text as a name, got 1"),
        ({"a\0b": np.zeros(2)}, r"expected a text as a name, got 'a\\x00b'"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, state, message):
    with pytest.raises(ValueError, match=rf"model\.npz: {message}"):
        checkpoint.save(tmp_path / "model.npz", state)
    assert not any(tmp_path.iterdir())


# --- writing ---


@host_only
def test_equal_states_give_equal_files_that_numpy_reads(tmp_path):
    state = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.array("text")}
    for name in ("x", "y"):
        checkpoint.save(tmp_path / name, state)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    with np.load(tmp_path / "x", allow_pickle=False) as read:
        np.testing.assert_array_equal(read["a"], state["a"])
    assert checkpoint.load(tmp_path / "x")["b"] == "text"


@host_only
@pytest.mark.skipif(os.name == "nt", reason="Windows has other modes")
def test_a_file_has_the_mode_of_other_files_or_its_old_one(tmp_path):
    path, other = tmp_path / "model.npz", tmp_path / "other"
    old = os.umask(0o027)
    try:
        checkpoint.save(path, {})
        other.write_text("")
    finally:
        os.umask(old)
    assert path.stat().st_mode == other.stat().st_mode == stat.S_IFREG | 0o640
    path.chmod(0o604)
    checkpoint.save(path, {"a": 1})
    assert path.stat().st_mode == stat.S_IFREG | 0o604


@host_only
@pytest.mark.skipif(os.name == "nt", reason="Windows asks for a privilege")
def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "latest.npz"
    link.symlink_to(tmp_path / "far" / "model.npz")
    for value in (1, 2):
        checkpoint.save(link, {"a": value})
        assert link.is_symlink()
        assert checkpoint.load(tmp_path / "far" / "model.npz")["a"] == value
    assert [p.name for p in (tmp_path / "far").iterdir()] == ["model.npz"]


@host_only
def test_what_is_no_file_is_not_replaced(tmp_path):
    for path in (tmp_path, os.devnull):
        with pytest.raises(OSError, match="is not a regular file"):
            checkpoint.save(path, {})
    assert os.path.exists(os.devnull)
    assert not os.path.isfile(os.devnull)


@host_only
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_full_disk_is_one_line_that_names_the_file_and_the_old_one_stays(tmp_path):
    path = tmp_path / "model.npz"
    checkpoint.save(path, {"a": np.ones(10)})
    code = (
        "import resource, signal, sys, numpy as np; from tinybn import checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try: checkpoint.save(sys.argv[1], {'a': np.ones(10000)})\n"
        "except OSError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert found.stdout == f"[Errno 27] File too large: '{path}'\n"
    np.testing.assert_array_equal(checkpoint.load(path)["a"], 1)
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


@host_only
def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no/model\.npz'"):
        checkpoint.save(tmp_path / "no" / "model.npz", {})


@host_only
def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (done.append("fsync"), fsync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    checkpoint.save(tmp_path / "model.npz", {})
    assert done == ["fsync", "replace", "fsync"]  # the file, and then its folder


@host_only
def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    path = tmp_path / "model.npz"
    for name in (".model.npz.0a1b.tmp", ".model.npz.tmp.txt", ".other.npz.0a1b.tmp", "x.tmp"):
        (tmp_path / name).write_text("")
    checkpoint.sweep(path)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {".model.npz.tmp.txt", ".other.npz.0a1b.tmp", "x.tmp"}


# --- parts ---


class Training:
    """Everything that a run needs in order to go on."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        x = np.random.default_rng(0).standard_normal((22, 4)).astype(np.float32)
        self.batches = tb.data.Batches(here(x), np.arange(22) % 3, 5, rng=rng)
        self.model = nn.Sequential(
            nn.Linear(4, 8, rng=rng), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.optimizer = optim.Adam(self.model.parameters(), 0.01)
        self.schedule = optim.Schedule(self.optimizer, optim.warmup(5, optim.cosine(20)))
        self.random = RandomState()

    def parts(self):
        names = ("model", "optimizer", "schedule", "batches", "random")
        return {name: getattr(self, name) for name in names}

    def run(self, steps):
        """Loss by loss; steps may end in the middle of an epoch."""
        while steps > 0:
            for x, labels in self.batches:
                self.optimizer.zero_grad()
                loss = tb.ops.cross_entropy(self.model(x), labels)
                loss.backward()
                self.optimizer.step()
                self.schedule.step()
                yield loss.item()
                steps -= 1
                if steps == 0:
                    return


@pytest.mark.parametrize("halfway", range(12))
def test_a_restored_run_goes_on_to_the_last_bit(tmp_path, halfway):
    tb.seed(3)
    straight = Training(1)
    expected = [*straight.run(20)]
    tb.seed(3)
    first = Training(1)
    found = [*first.run(halfway)]
    best = {"accuracy": 0.5, **{f"model/{k}": v for k, v in first.model.state_dict().items()}}
    checkpoint.save(tmp_path / "run.npz", checkpoint.join(**first.parts(), best=best))
    tb.seed(99)
    second = Training(2)
    state = checkpoint.load(tmp_path / "run.npz")
    checkpoint.restore(state, **second.parts())
    assert checkpoint.part(state, "best")["accuracy"] == 0.5
    assert found + [*second.run(20 - halfway)] == expected
    a, b = (checkpoint.join(**t.parts()) for t in (straight, second))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_parts_are_restored_all_or_not_at_all():
    tb.seed(0)
    one, other = Training(1), Training(2)
    [*one.run(3)]
    good = checkpoint.join(**one.parts())
    before = checkpoint.join(**other.parts())
    for spoil in (
        "model/0.weight", "model/1.running_var", "optimizer/lr", "schedule/t", "batches/order",
        "batches/given", "batches/state", "random/state",
    ):  # fmt: skip
        for value in (None, np.array("text"), np.ones(77), np.array(np.nan)):
            bad = {k: v for k, v in good.items() if k != spoil}
            if value is not None:
                bad[spoil] = value
            with pytest.raises(ValueError, match=spoil.partition("/")[0] + ": "):
                checkpoint.restore(bad, **other.parts())
            after = checkpoint.join(**other.parts())
            assert after.keys() == before.keys()
            for name in before:
                np.testing.assert_array_equal(after[name], before[name], err_msg=f"{spoil} {name}")


class Interrupts(nn.Module):
    """Ctrl-C comes while its second buffer is set."""

    buffers = ("a", "b")
    armed = False

    def __init__(self):
        self.weight = tb.tensor([1.0], requires_grad=True)
        self.a, self.b = 1.0, 1.0

    def __setattr__(self, name, value):
        if self.armed and name == "b":
            type(self).armed = False
            raise KeyboardInterrupt
        super().__setattr__(name, value)


def test_an_interrupted_load_changes_nothing():
    module = Interrupts()
    state = {name: value * 2 for name, value in module.state_dict().items()}
    Interrupts.armed = True
    with pytest.raises(KeyboardInterrupt):
        module.load_state_dict(state)
    assert (module.weight.item(), module.a, module.b) == (1, 1, 1)
    module.load_state_dict(state)
    assert (module.weight.item(), module.a, module.b) == (2, 2, 2)


@pytest.mark.parametrize("value", [1e300, np.array(1j), np.array(True), "x"])
def test_a_value_that_would_not_be_itself_in_the_models_dtype_is_refused(value):
    layer = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"bias: (expected numbers|1e\+300 is too large)"):
        layer.load_state_dict({"weight": [[1.0]], "bias": np.asarray([value]).reshape(1)})
    assert layer.bias.item() == 0


# --- random states, batches ---


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_every_generators_state_comes_back_from_a_file(tmp_path, kind):
    rng, other = (np.random.Generator(getattr(np.random, kind)(s)) for s in (1, 2))
    rng.random(7, np.float32)
    checkpoint.save(tmp_path / "rng.npz", RandomState(rng).state_dict())
    expected = rng.random(5)
    RandomState(other).load_state_dict(checkpoint.load(tmp_path / "rng.npz"))
    np.testing.assert_array_equal(other.random(5), expected)


def test_a_state_of_another_generator_is_refused():
    other = RandomState(np.random.Generator(np.random.MT19937(1)))
    for wrong in (other.state_dict(), {}, {"state": "{}"}, {"state": "x"}, {"state": 3}):
        with pytest.raises(ValueError, match="changed nothing: expected the state of a PCG64"):
            RandomState().load_state_dict(wrong)


def test_the_order_of_batches_follows_a_seed_that_comes_later():
    batches = tb.data.Batches(np.arange(20), np.arange(20), 5)
    orders = []
    for seed in (1, 1, 2):
        tb.seed(seed)
        orders.append([list(x) for x, _ in batches])
    assert orders[0] == orders[1] != orders[2]


def test_a_loop_that_was_left_begins_a_new_epoch_but_a_restored_one_goes_on():
    batches = tb.data.Batches(np.arange(20), np.arange(20), 5, rng=np.random.default_rng(0))
    loop = iter(batches)
    given = [next(loop)[0] for _ in range(3)]
    state = batches.state_dict()
    assert len([*batches]) == 4
    batches.load_state_dict(state)
    (last,) = (x for x, _ in batches)
    assert sorted(np.concatenate([*given, last])) == [*range(20)]
    assert len([*batches]) == 4


@pytest.mark.parametrize(
    "wrong", [{"order": np.zeros(20, int)}, {"given": 5}, {"batch_size": 4}, {"order": np.ones(20)}]
)
def test_a_state_of_other_batches_is_refused(wrong):
    batches = tb.data.Batches(np.arange(20), np.arange(20), 5)
    with pytest.raises(ValueError, match="load_state_dict changed nothing"):
        batches.load_state_dict({**batches.state_dict(), **wrong})
    assert host(np.concatenate([x for x, _ in batches])).size == 20
