"""k ranks with synchronised batch norm are one process, to the last digits of float64."""

import pytest
import scaling
from launch import CUPY, launch

from tinybn.backend import problems

CHECKS = ["norm", "float32", "graphs", "differences", "training", "compare"]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("check", CHECKS)
def test_ranks_equal_one_process(check, ranks):
    run = launch(ranks, "proof.py", check)
    assert run.returncode == 0, run.stdout
    error = float(run.stdout.split("error")[1])
    print(f"{check}, {ranks} ranks: {error:.1e}")
    assert error < 1e-12


@pytest.mark.parametrize("check", ["ghosts_are_groups", "compiled"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_what_is_not_synchronised(check, ranks):
    run = launch(ranks, "proof.py", check)
    assert run.returncode == 0, run.stdout
    assert float(run.stdout.split("error")[1]) < 1e-12


@pytest.mark.parametrize("how", [{}, {"GPU_AWARE": "1"}], ids=["host", "GPU-aware"])
def test_cupy(how):
    if problems()["cupy"]:
        pytest.skip(problems()["cupy"])
    run = launch(2, "proof.py", "cupy", runner=CUPY, **how)
    assert run.returncode == 0, run.stdout
    assert float(run.stdout.split("error")[1]) < 1e-12


@pytest.mark.parametrize("ranks", [2, 3])
def test_messages_and_bytes_are_those_of_the_formula(ranks):
    run = launch(ranks, "proof.py", "sent")
    assert run.returncode == 0, run.stdout
    t = scaling.traffic((6, 8, 7, 3))
    assert run.stdout.count(str({"messages": t.messages, "bytes": t.bytes})) == ranks


@pytest.mark.parametrize("ranks", [2, 4])
def test_without_synchronisation_they_differ(ranks):
    run = launch(ranks, "proof.py", "ghosts")
    assert run.returncode == 0, run.stdout
    assert float(run.stdout.split("error")[1]) > 1e-2
