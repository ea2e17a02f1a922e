"""One rank fails: all end within seconds, the message names the rank, and the checkpoint is whole."""

import re
import time

import pytest
from launch import launch

from tinybn import checkpoint

FAULTS = {
    "raise": "rank 1 of 3 failed: ValueError: a bad example in two lines",
    "kill": r"rank 1 \(pid \d+\) died first",
    "exit": r"rank 1 \(pid \d+\) died first",
    "batches": r"rank 1 \(pid \d+\) has left after \d+ messages: do all ranks have the same number|"
    r"rank 1 of 3 failed: .*this rank has left, but rank .* do all ranks have the same number",
    "shape": r"rank 1 \(pid \d+\) is in all_gather of the moments of batch norm, float64 \(13,\)",
    "eval": r"rank 1 \(pid \d+\) is in all_reduce of gradients, bucket 0, float32 \(64,\)|"
    r"rank 1 of 3 failed: DistributedError: waiting in all_reduce of gradients",
    "features": "rank 1 of 3 failed: ValueError: linear: x .* does not fit weight",
    "break": r"rank 1 .*all_reduce of gradients, bucket 0, float32 \(18,\)",
    "state": "rank 1 has another model/0.weight than rank 0",
}
SECONDS = 5
TRIES = 4
"""On a busy machine, mpiexec can end all ranks before one of them was given the time to speak."""


def ended(pattern, ranks, fault, path, **environment):
    """A run that ended with the message, and when it ended."""
    for _ in range(TRIES):
        path.unlink(missing_ok=True)
        run = launch(ranks, "faults.py", fault, path, **environment)
        end = time.time()
        assert run.returncode != 0
        assert "came to the end" not in run.stdout
        if re.search(pattern, run.stdout):
            return run, end
    raise AssertionError(f"no {pattern!r} in {TRIES} runs, the last:\n{run.stdout}")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_rank_ends_all_and_is_named(fault, tmp_path):
    run, end = ended(FAULTS[fault], 3, fault, tmp_path / "state.npz")
    seconds = end - float(re.search(r"fault ([\d.]+)", run.stdout)[1])
    print(f"{fault}: all ranks ended after {seconds:.2f} s")
    assert seconds < SECONDS
    state = checkpoint.load(tmp_path / "state.npz")
    assert state["batches/given"] == 1
    assert state["optimizer/0.step"] == 6


def test_a_rank_that_stops_ends_the_patience_of_the_others(tmp_path):
    message = r"patience has ended; rank 1 \(pid \d+\) is after "
    ended(message, 2, "stop", tmp_path / "state.npz", PATIENCE="2")


def test_a_killed_training_resumes_bit_for_bit(tmp_path):
    path = tmp_path / "state.npz"
    whole = launch(3, "faults.py", "none", path)
    assert whole.returncode == 0, whole.stdout
    assert "tinybn:" not in whole.stdout
    path.unlink()
    assert launch(3, "faults.py", "kill", path).returncode != 0
    resumed = launch(3, "faults.py", "resume", path)
    ends = [set(re.findall("came to the end: ([0-9a-f]{64})", r.stdout)) for r in (whole, resumed)]
    assert len(ends[0]) == 1
    assert ends[0] == ends[1]


def test_another_number_of_ranks_cannot_resume(tmp_path):
    assert launch(3, "faults.py", "kill", tmp_path / "state.npz").returncode != 0
    run = launch(2, "faults.py", "resume", tmp_path / "state.npz")
    assert "was saved by 3 ranks, and can't be loaded by 2" in run.stdout
