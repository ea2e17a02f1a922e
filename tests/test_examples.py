"""The examples, run as a person runs them."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import demo
import numpy as np
import pytest
import train_mlp

import tinybn as tb
from lab.training import Config, accuracy, train
from tinybn import checkpoint

pytestmark = pytest.mark.host("examples run on NumPy unless told otherwise (see on_cupy)")
EXAMPLES = Path(train_mlp.__file__).parent
ROOT = EXAMPLES.parent


def command(*arguments, cwd=ROOT, encoding="utf-8", **variables):
    """Run Python on these arguments, with these environment variables."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, **variables}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        encoding=encoding,
        check=False,
        cwd=cwd,
        env=environment,
    )


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group", "rms"])
def test_every_norm_learns_digits(norm):
    run, _ = train(Config(norm=norm, epochs=12), progress=False)
    assert run.test_accuracy > 0.9
    assert run.diverged_at is None


@pytest.mark.parametrize("data", ["wine", "breast_cancer"])
def test_the_other_data_are_learnt_too(data):
    run, _ = train(
        Config(data=data, hidden=(16,), batch_size=16, epochs=20, optimizer="adam", lr=0.01),
        progress=False,
    )
    assert run.test_accuracy > 0.85


def test_a_run_can_be_repeated_to_the_last_digit():
    first, model = train(Config(epochs=2), progress=False)
    again, twin = train(Config(epochs=2), progress=False)
    assert first.loss == again.loss
    assert first.accuracy == again.accuracy
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)


def test_train_mlp_writes_a_table_a_picture_and_a_model_that_loads(tmp_path, capsys):
    assert train_mlp.main(["--epochs", "3", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "validation accuracy" in out
    assert "test accuracy 9" in out
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"model.npz", "result.json", "curves.png", "checkpoint.npz"}
    result = json.loads((tmp_path / "result.json").read_text())
    model = tb.nn.MLP([64, 64, 64, 64, 10], "batch")
    model.load_state_dict(checkpoint.load(tmp_path / "model.npz"))
    test = tb.data.load("digits").test
    assert accuracy(model, test, "numpy") == result["test_accuracy"]


def test_a_diverged_run_says_at_which_step(tmp_path, capsys):
    arguments = ["--norm", "none", "--lr", "1e6", "--no-plot", "--out", str(tmp_path)]
    assert train_mlp.main(arguments) == 0
    assert "Diverged at step 5: the loss is nan. Try a smaller --lr." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "0"], "learning rate lr > 0, got 0.0"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--batch-size", "0"], "batch_size"),
        (["--batch-size", "5000"], "give no batch of 5000"),
        (["--hidden", "0"], "at least 1, got 0"),
        (["--norm", "group", "--hidden", "6"], "4 groups do not divide 6"),
        (["--out", str(Path(__file__, "x"))], "test_examples.py"),
    ],
)
def test_bad_options_are_one_line_and_exit_status_2(tmp_path, capsys, arguments, message):
    assert train_mlp.main(["--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_mlp: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_demo_prints_both_norms_side_by_side(tmp_path):
    result = command(EXAMPLES / "demo.py", "--seeds", "1", "--out", tmp_path)
    assert result.returncode == 0
    assert result.stderr == ""  # no progress bar where there is no terminal, and no warning
    for word in ("none", "batch", "steps to 95%", "seconds", "test accuracy", "gradient"):
        assert word in result.stdout
    assert (tmp_path / "with_and_without.png").stat().st_size > 10_000


def test_the_demo_compares_gradients_to_the_last_digits():
    for _, double, single, fused in demo.compare_gradients()[1:]:
        assert float(double) < 1e-14
        assert float(single) < 1e-6
        assert float(fused) < 1e-6


def test_the_commands_run_from_a_wheel_in_an_empty_folder(tmp_path):
    built = command("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("tinybn-*.whl")
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)

    def run(*arguments):
        return command("-m", "tinybn", *arguments, cwd=empty, PYTHONPATH=str(installed))

    for name in ("demo", "train", "compare", "prove"):
        result = run(name, "--help")
        assert (result.returncode, result.stderr) == (0, "")
    result = run("demo", "--seeds", "1", "--epochs", "1")
    assert "gradient of" in result.stdout
    assert (empty / "runs/demo/with_and_without.png").exists()
    assert run("microscope", "--view", "ladder").stdout.startswith("wrote ladder.html")
    assert "<svg" in (empty / "ladder.html").read_text(encoding="utf-8")


def test_a_command_says_which_extra_it_needs():
    code = (
        "import sys; sys.modules['tqdm'] = None; from tinybn.__main__ import main; main(['demo'])"
    )
    result = command("-c", code)
    assert result.returncode == 1
    assert "tqdm" in result.stderr
    assert result.stderr.endswith("run `pip install 'tinybn[examples]'`\n")


@pytest.mark.parametrize(
    "line",
    [
        "-m benchmarks --quick --rounds 1 --threads 1 --rivals --only overhead --out",
        "examples/demo.py --seeds 1 --epochs 1 --out",
        "examples/cookie_factory.py --no-plot --out",
    ],
)
def test_any_terminal_can_show_what_is_printed(tmp_path, line):
    folder = [tmp_path / "out"] if line.endswith("--out") else []
    result = command(*line.split(), *folder, encoding="ascii")
    assert result.returncode == 0, result.stderr
    assert "?" in result.stdout
