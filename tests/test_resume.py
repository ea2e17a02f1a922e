"""train_mlp --resume: after Ctrl-C, SIGKILL and full disks, the same numbers to the last bit."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_and_resume
import numpy as np
import pytest
import train_mlp
from test_experiments import started

from lab import resume
from tinybn import checkpoint

pytestmark = pytest.mark.host("examples run on NumPy unless told otherwise (see on_cupy)")
ROOT = Path(train_mlp.__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}"}
SMALL = ["--no-plot", "--hidden", "16", "--epochs", "3"]


def assert_same_run(folder, other):
    a, b = (checkpoint.load(f / "checkpoint.npz") for f in (folder, other))
    assert a.keys() == b.keys()
    for name in a.keys() - {"progress/seconds", "progress/spent"}:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert (folder / "model.npz").read_bytes() == (other / "model.npz").read_bytes()
    results = [json.loads((f / "result.json").read_text()) for f in (folder, other)]
    assert results[0].pop("seconds")
    assert results[1].pop("seconds")
    assert results[0] == results[1]


def interrupt_after(monkeypatch, step):
    """Let Ctrl-C come while this step is saved or done."""
    after = resume.Keeper.after

    def interrupted(self, number, parts, last):
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)
        after(self, number, parts, last)

    monkeypatch.setattr(resume.Keeper, "after", interrupted)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_interrupted_run_goes_on_to_the_last_bit(
    tmp_path, monkeypatch, capsys, compiled, optimizer
):
    options = [*SMALL, "--optimizer", optimizer, *([] if compiled else ["--no-compile"])]
    assert train_mlp.main([*options, "--out", str(tmp_path / "a")]) == 0
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for steps, flags in ((1, []), (23, ["--resume"]), (40, ["--resume"])):
            with monkeypatch.context() as patch:
                interrupt_after(patch, steps)
                capsys.readouterr()
                assert train_mlp.main([*options, *flags, "--out", str(tmp_path / "b")]) == 130
            error = capsys.readouterr().err
            assert f"interrupted and saved at step {steps}; add --resume to go on\n" in error
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert train_mlp.main(["--no-plot", "--resume", "--out", str(tmp_path / "b")]) == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="it forks, and looks at the child")
def test_a_run_that_is_killed_fifty_times_ends_with_the_same_numbers(tmp_path):
    options = ["--epochs", "90", "--hidden", "16"]
    script = [sys.executable, kill_and_resume.__file__, str(tmp_path / "killed"), "50", *options]
    killed = subprocess.run(script, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    found = re.search(
        r"50 kills, (\d+) while writing, then at step (\d+); ended with 0", killed.stdout
    )
    assert found, killed.stdout + killed.stderr
    assert int(found[1]) >= 3
    assert int(found[2]) >= 30
    assert train_mlp.main([*options, "--no-plot", "--out", str(tmp_path / "whole")]) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    left = {p.name for p in (tmp_path / "killed").iterdir()}
    assert left == {"checkpoint.npz", "model.npz", "result.json"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_ctrl_c_in_a_terminal_is_one_line(tmp_path):
    script = [sys.executable, train_mlp.__file__, "--no-plot", "--epochs", "5000"]
    process = started(
        [*script, "--out", str(tmp_path)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoint.npz").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"\ntrain_mlp: interrupted and saved at step \d+; add --resume .*\n", error)
    assert checkpoint.load(tmp_path / "checkpoint.npz")


def test_a_finished_run_that_is_resumed_ends_at_once_with_the_same_files(tmp_path):
    for flags in ([], ["--resume"]):
        assert train_mlp.main([*SMALL, *flags, "--out", str(tmp_path)]) == 0
        content = [(tmp_path / n).read_bytes() for n in ("model.npz", "result.json")]
        first = content if not flags else first  # noqa: F821
    assert content == first


def test_a_diverged_run_stays_diverged(tmp_path, capsys):
    options = ["--norm", "none", "--lr", "1e6", "--no-plot", "--out", str(tmp_path)]
    for flags in ([], ["--resume"]):
        assert train_mlp.main([*options, *flags]) == 0
        assert "Diverged at step 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "flags", "message"),
    [
        (lambda path: path.unlink(), [], r"nothing to resume: there is no \S+checkpoint.npz"),
        (lambda path: None, ["--lr", "0.5"], r"checkpoint.npz was started with lr 0.05, not 0.5"),
        (lambda path: path.write_bytes(b"x"), [], r"checkpoint.npz is not a file that tinybn saved"),
        (lambda path: checkpoint.save(path, {}), [], r"checkpoint.npz is not the checkpoint of a run"),
        (lambda path: None, ["--save-every", "0"], "--save-every must be at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_resumed_is_one_line(tmp_path, capsys, spoil, flags, message):
    assert train_mlp.main([*SMALL, "--out", str(tmp_path)]) == 0
    spoil(tmp_path / "checkpoint.npz")
    capsys.readouterr()
    assert train_mlp.main(["--resume", *flags, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"train_mlp: .*{message}.*\n", error)


def test_another_part_that_does_not_fit_is_named_with_its_file(tmp_path, capsys):
    assert train_mlp.main([*SMALL, "--out", str(tmp_path)]) == 0
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, {**checkpoint.load(path), "model/0.weight": np.ones(3)})
    capsys.readouterr()
    assert train_mlp.main(["--resume", "--no-plot", "--out", str(tmp_path)]) == 2
    assert re.fullmatch(
        r"train_mlp: \S+checkpoint.npz: model: .* 0.weight: .*\n", capsys.readouterr().err
    )


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path, capsys, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(train_mlp, "plot", None)
    assert train_mlp.main([*SMALL, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    path = tmp_path / "checkpoint.npz"
    assert error == f"train_mlp: [Errno 28] No space left on device: '{path}'\n"
    assert not any(tmp_path.iterdir())


def test_a_disk_that_fills_up_later_loses_nothing_that_was_saved(tmp_path, capsys, monkeypatch):
    assert train_mlp.main([*SMALL, "--out", str(tmp_path / "a")]) == 0
    fsync, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) > 4:  # two files, and twice their folder
            raise OSError(28, "No space left on device")
        fsync(file)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert train_mlp.main([*SMALL, "--out", str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.endswith("checkpoint.npz' (saved at step 19; add --resume to go on)\n")
    assert train_mlp.main(["--no-plot", "--resume", "--out", str(tmp_path / "b")]) == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other pipes")
def test_a_reader_that_goes_away_loses_no_file(tmp_path):
    command = [sys.executable, train_mlp.__file__, *SMALL, "--out", str(tmp_path)]
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (1, "the output was closed before its end\n")
    assert (tmp_path / "model.npz").exists()
    assert (tmp_path / "result.json").exists()
