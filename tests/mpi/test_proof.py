"""k ranks with synchronised batch norm are one process, to the last digits of float64."""

import pytest
from launch import launch

CHECKS = ["norm", "float32", "graphs", "differences", "training", "compare"]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("check", CHECKS)
def test_ranks_equal_one_process(check, ranks):
    run = launch(ranks, "proof.py", check)
    assert run.returncode == 0, run.stdout
    error = float(run.stdout.split("error")[1])
    print(f"{check}, {ranks} ranks: {error:.1e}")
    assert error < 1e-12


@pytest.mark.parametrize("ranks", [2, 4])
def test_without_synchronisation_they_differ(ranks):
    run = launch(ranks, "proof.py", "ghosts")
    assert run.returncode == 0, run.stdout
    assert float(run.stdout.split("error")[1]) > 1e-2
