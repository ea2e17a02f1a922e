"""Checks work where longdouble is float64, and where the terminal's encoding is not UTF-8."""

import contextlib
import io
import os
import subprocess
import sys

import compare_gradients
import numpy as np
import prove as prove_command
import pytest

from tinybn.check import explain_batch_norm, prove

AS_FLOAT64 = """
import numpy
numpy.longdouble = numpy.float64
import compare_gradients
raise SystemExit(compare_gradients.main())
"""


@pytest.mark.host("the command compares all backends anyway")
@pytest.mark.parametrize("op", ["cross_entropy", "rms_norm"])
def test_the_comparison_passes_where_longdouble_is_float64_and_says_so(op, tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", AS_FLOAT64, "--op", op, "--no-plot", "--out", tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "composition in float64 (eps = 2e-16)" in found.stdout
    assert "Here numpy.longdouble is no more precise than float64: in float64" in found.stdout
    assert "results are right" in found.stdout


@pytest.mark.skipif(
    np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps, reason="longdouble is float64 here"
)
def test_the_legend_is_silent_where_the_reference_is_more_precise():
    assert "no more precise" not in compare_gradients.legend()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (compare_gradients, ["--help"]),
        (compare_gradients, ["--op", "linear", "--orders", "1", "--no-plot"]),
        (compare_gradients, ["--op", "linear", "--orders", "1", "--no-plot", "--rows"]),
        (prove_command, ["--help"]),
        (prove_command, ["--op", "linear", "--orders", "1", "--n", "2"]),
    ],
)
def test_what_commands_print_can_be_printed_everywhere(
    command, arguments, encoding, tmp_path, monkeypatch
):
    pytest.importorskip("sympy")
    monkeypatch.chdir(tmp_path)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    with contextlib.redirect_stdout(terminal):
        try:
            status = command.main(arguments)
        except SystemExit as finished:  # of --help
            status = finished.code
    assert status == 0


def test_counterexamples_can_be_printed_everywhere(planted):
    pytest.importorskip("sympy")
    op = planted(
        lambda x: x * x,
        lambda xp, x: (x + x, ()),
        lambda xp, needed, g, saved, x: (g,),
    )
    (claim,) = prove(op, [np.zeros(1)])
    assert claim.counterexample
    assert str(claim).isascii()


def test_explanations_can_be_printed_everywhere():
    for n in (3, 64):
        explanation = explain_batch_norm(np.arange(2.0 * n).reshape(n, 2), np.ones((n, 2)))
        assert str(explanation).isascii()
