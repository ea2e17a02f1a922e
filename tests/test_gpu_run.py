"""The run on a GPU: what it keeps and says. (`make bench-gpu` runs its parts.)"""

import json
import sys
import types

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import part, table

pytestmark = pytest.mark.host("the driver of the run needs no GPU")


def test_a_part_goes_on_after_an_error_and_says_what_it_left_out(monkeypatch, capsys):
    clock = part.Clock(60, small=True)

    def works(_):
        yield {"n": 1}, lambda: {"ms": 2.0}
        yield {"n": 2}, lambda: 1 / 0
        yield {"n": 3}, lambda: setattr(clock, "end", 0) or {"ms": 1.0}
        yield {"n": 4}, lambda: {"ms": 1.0}

    module = types.SimpleNamespace(works=works)
    monkeypatch.setitem(sys.modules, "benchmarks.gpu.fake", module)
    assert [*part.rows("fake_tf32", clock)] == [
        {"n": 1, "ms": 2.0},
        {"n": 2, "error": "ZeroDivisionError: division by zero"},
        {"n": 3, "ms": 1.0},
        {"n": 4, "left_out": "no time"},
    ]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_part_that_ends_badly_costs_the_others_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "on_cpu", lambda: False)
    results = command.Results(tmp_path, {"report": ["x"]})
    results.run("nothing", 5, True, {})
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["report"] == ["x"]
    assert found["parts"]["nothing"]["ended"] == "exit 1: see nothing.log"
    assert "No module named 'benchmarks.gpu.nothing'" in (tmp_path / "nothing.log").read_text()
    assert table.failed("nothing", found["parts"]["nothing"])


def test_nothing_is_written_elsewhere(tmp_path):
    found = command.settings(tmp_path)
    folders = [v for k, v in found.items() if k.endswith(("DIR", "DIRECTORY", "HOME", "PREFIX"))]
    assert len(folders) == 9
    assert all(folder.startswith(str(tmp_path)) for folder in folders)


def test_the_goals_are_answered():
    def step(rival, ms, net="a"):
        return {"net": net, "optimizer": "sgd", "rival": rival, "ms": ms}

    def norm(op, speed, **more):
        return {"rows": 4096, "width": 1024, "op": op, "gb_per_s": speed, **more}

    parts = {
        "steps": {"rows": [step("graph", 1.0), step("jax", 2.0), step("graph", 3.0, "b"),
                           step("jax", 2.0, "b"), step("eager", 9.0), {**step("torch", 1), "ms": 3.0}]},
        "norms": {"rows": [norm("copy", 100.0), norm("batch", 70.0, way="kernels"),
                           norm("layer", 90.0, way="kernels"), norm("layer", 10.0, way="arrays")]},
        "agreement": {"rows": [{"waits": False}, {"waits": True}]},
        "suite": {"rows": [{"passed": 3, "right": True}, {"passed": 1, "failed": 2, "right": False}]},
    }  # fmt: skip
    assert table.answers(parts) == [
        "graph / jax: 0.50 to 1.50 (worst: b sgd); goal: at most 1",
        "eager / torch: 3.00 to 3.00 (worst: a sgd); goal: at most 1",
        "bandwidth of norm kernels / copy, from 4096 x 1024 on: 0.70 to 0.90 (lowest: batch 4096 x "
        "1024); goal: at least 0.8",
        "steps that wait: 1 of 2; goal: 0",
        "tests: 4 passed, 2 failed; goal: all pass",
    ]
    assert table.answers({}) == []


def test_a_table_shows_what_is_missing_and_wrong():
    rows = [
        {"net": "a", "optimizer": "sgd", "rival": "graph", "ms": 1.23456, "host_ms": 0.5},
        {"net": "a", "optimizer": "sgd", "rival": "jax", "missing": "not installed"},
        {"net": "a", "optimizer": "adam", "rival": "graph", "error": "OSError: no cuBLAS"},
    ]
    assert table.text("steps", rows).splitlines() == [
        "net  optimizer  rival  ms     host_ms",
        "a    sgd        graph  1.235  0.5",
        "error: a adam graph: OSError: no cuBLAS",
        "jax: not installed",
    ]


def test_small_sizes_are_for_the_cpu_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command.backend, "problems", lambda: {"cupy": "no GPU"})
    assert command.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "benchmarks.gpu: no GPU\n"
    with pytest.raises(SystemExit):
        command.main(["--minutes", "0"])
