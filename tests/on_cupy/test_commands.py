"""The commands, on CuPy."""

import json

import cupy_on_cpu
import demo
import numpy as np
import pytest
import train_mlp

import tinybn as tb
from benchmarks import gpu
from lab import resume, training
from tinybn import checkpoint
from tinybn.__main__ import report


def test_train_mlp_trains_on_cupy_and_its_model_is_evaluated_on_numpy(tmp_path, capsys):
    options = ["--backend", "cupy", "--epochs", "3", "--no-plot", "--out", str(tmp_path)]
    assert train_mlp.main(options) == 0
    assert "validation accuracy" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    with tb.use_backend("numpy"):
        model = tb.nn.MLP([64, 64, 64, 64, 10], "batch")
    model.load_state_dict(checkpoint.load(tmp_path / "model.npz"))
    test = tb.data.load("digits").test
    expected = training.accuracy(model, test, "numpy")
    assert result["test_accuracy"] == pytest.approx(expected, abs=0.01)  # a tie may fall otherwise
    assert expected > 0.85


def test_a_run_of_train_mlp_has_the_losses_that_it_has_on_numpy():
    runs = [
        train_mlp.train(train_mlp.Config(epochs=1, backend=name), progress=False)[0]
        for name in ("numpy", "cupy")
    ]
    np.testing.assert_allclose(runs[1].loss, runs[0].loss, rtol=1e-3)
    assert runs[1].steps == runs[0].steps


def test_the_demo_runs_on_cupy(tmp_path, capsys):
    options = ["--seeds", "1", "--epochs", "2", "--backend", "cupy", "--out", str(tmp_path)]
    assert demo.main(options) == 0
    assert "steps to 95%" in capsys.readouterr().out


def test_the_report_names_cupy_and_its_device():
    import cupy

    assert f"cupy: ready, CuPy {cupy.__version__} (cupy-" in report()


def test_the_benchmark_runs_all_it_times_and_times_nothing_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "SHAPES", [(8, 4)])
    lines = gpu.measure(repeat=2, warmup=1)
    assert len(lines) == 1 + 4 + 3
    if cupy_on_cpu.enabled():
        assert gpu.main() == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_an_interrupted_run_goes_on_to_the_last_bit_on_cupy(tmp_path, monkeypatch):
    options = ["--backend", "cupy", "--epochs", "2", "--hidden", "8", "--no-plot", "--out"]
    assert train_mlp.main([*options, str(tmp_path / "a")]) == 0
    after = resume.Keeper.after

    def interrupted(self, number, parts, last):
        self._stop = number == 25
        after(self, number, parts, last)

    with monkeypatch.context() as patch:
        patch.setattr(resume.Keeper, "after", interrupted)
        assert train_mlp.main([*options, str(tmp_path / "b")]) == 130
    assert train_mlp.main(["--resume", "--no-plot", "--out", str(tmp_path / "b")]) == 0
    a, b = ((tmp_path / name / "model.npz").read_bytes() for name in "ab")
    assert a == b
