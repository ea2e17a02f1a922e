"""The benchmark measures what it says, and runs; what it measures is no business of a test."""

import json
import subprocess
import sys

import numpy as np
import pytest

import tinybn as tb
from benchmarks import __main__ as command
from benchmarks import accuracy, bench, compiling, goals, memory, mlp, norm, overhead, report
from benchmarks.floor import Floor
from benchmarks.worker import timed

pytestmark = pytest.mark.host("what is timed beside its rivals runs on NumPy")

SIZES, BATCH = [3, 8, 8, 4], 16


def test_the_floor_has_the_gradients_of_tinybn():
    weights, [(x, labels), *_] = mlp.weights_and_batches(SIZES, BATCH)
    floor = Floor(weights, "sgd")
    model = tb.nn.MLP(SIZES, norm="batch")
    linears, norms = model.layers[::3], model.layers[1::3]
    rng = np.random.default_rng(1)
    for i, linear in enumerate(linears):
        linear.weight.data = weights[i].copy()
    for i, layer in enumerate(norms):
        layer.gamma.data = rng.uniform(0.5, 2, 8).astype(np.float32)
        layer.beta.data = rng.standard_normal(8).astype(np.float32)
        floor.gamma[i][...], floor.beta[i][...] = layer.gamma.data, layer.beta.data
    loss = tb.ops.cross_entropy(model(x), labels)
    loss.backward()
    np.testing.assert_allclose(floor.gradients(x, labels), loss.item(), rtol=1e-5)
    pairs = [(linear.weight, dw) for linear, dw in zip(linears, floor.dw, strict=True)]
    pairs += [(layer.gamma, dgamma) for layer, dgamma in zip(norms, floor.dgamma, strict=True)]
    pairs += [(layer.beta, dbeta) for layer, dbeta in zip(norms, floor.dbeta, strict=True)]
    pairs.append((linears[-1].bias, floor.dbias))
    for parameter, by_hand in pairs:
        np.testing.assert_allclose(by_hand, parameter.grad.numpy(), rtol=1e-4, atol=1e-5)
    for i, layer in enumerate(norms):
        np.testing.assert_allclose(floor.running_mean[i], layer.running_mean.data, rtol=1e-4)
        np.testing.assert_allclose(floor.running_var[i], layer.running_var.data, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_rivals_without_extras_train_the_same_network(optimizer):
    losses = {r: mlp.make(r, SIZES, BATCH, optimizer)[1]["losses"] for r in ("eager", "floor")}
    mlp.check_losses(losses)
    with pytest.raises(RuntimeError, match="eager does other work"):
        mlp.check_losses({**losses, "eager": [2 * loss for loss in losses["eager"]]})


@pytest.mark.parametrize("op", norm.OPS)
def test_norms_that_do_other_work_are_found_out(op):
    _, found = norm.make("eager", op, (6, 5))
    with tb.use_fused(False):
        _, composed = norm.make("eager", op, (6, 5))
    norm.check_gradients({"eager": found["dx"], "composition": composed["dx"]})
    with pytest.raises(RuntimeError, match="composition does other work"):
        norm.check_gradients({"eager": found["dx"], "composition": composed["dx"][::-1]})


@pytest.mark.parametrize(
    "spec",
    [{"op": op, "shape": (64, 8), "mean": 100.0} for op in norm.OPS]
    + [{"sizes": SIZES, "batch": BATCH}],
)
def test_rounding_is_measured_in_float32s_last_digits(spec):
    _, found = accuracy.make("eager", ["eager"], spec)
    assert 0.05 < found["eager"] < 50


@pytest.mark.parametrize("op", overhead.OPS)
def test_a_chain_of_any_op_has_a_gradient(op):
    chain, _ = overhead.make("eager", op)
    assert np.isfinite(chain()).all()


def test_another_width_is_another_network():
    assert compiling.wider([2, 16, 16, 3]) == [2, 40, 40, 3]


def test_memory_counts_an_array():
    nbytes = 64 * 2**20
    instruments = [memory.traced, *([memory.resident] if sys.platform == "linux" else [])]
    for instrument in instruments:
        assert 0.98 * nbytes < instrument(lambda: np.ones(nbytes, np.int8)) < 1.1 * nbytes


def test_a_timed_call_takes_the_time_it_takes():
    calls = []
    assert 0 < timed(lambda: calls.append(1), 0.01)["seconds"] < 0.01
    assert len(calls) > 2


def test_a_table_is_aligned():
    assert report.table([["net", "µs"], ["a", "1.5"], ["long", "12"]]).split("\n") == [
        "net    µs",
        "---------",
        "a     1.5",
        "long   12",
    ]
    shown = [report.number(v) for v in (1234.5, 12.34, 0.1234, None)]
    assert shown == ["1234", "12.3", "0.12", "–"]


def race(net="a", threads=1, optimizer="sgd", **times):
    sizes = [2, 8, 2] if net == "a" else [784, 8, 2]
    about = {"net": net, "threads": threads, "optimizer": optimizer, "sizes": sizes}
    return {**about, "times": times, "cores": dict.fromkeys(times, 1.0)}


def test_a_ratio_is_the_median_of_those_of_the_rounds():
    row = race(compiled=[1, 2, 6], torch=[4, 4, 4])
    assert report.ratio(row, "compiled", "torch") == 0.5
    assert report.ratio(row, "compiled", "jax") is None
    other = race(compiled=[2], torch=[1])
    assert report.mean_ratio([row, other], "compiled", "torch") == pytest.approx(1)
    assert "0.50" in report.step_tables([row])


def test_a_goal_is_held_or_not_at_its_worst_case():
    rows = [race("a", compiled=[1], torch=[8]), race("b", compiled=[1], torch=[2])]
    found = {goal["goal"]: goal for goal in goals.goals({"mlp": rows})}
    assert found.keys() == {"compiled / torch, each", "compiled / torch, mean"}
    each = found["compiled / torch, each"]
    assert (each["worst"], each["where"], each["held"]) == (0.5, "b, sgd, threads: 1", True)
    assert found["compiled / torch, mean"]["worst"] == pytest.approx(0.25)
    rows[1]["times"]["compiled"] = [3]
    assert [goal["held"] for goal in goals.goals({"mlp": rows})] == [False, False]
    assert "MISSED" in goals.goals_table(goals.goals({"mlp": rows}))
    assert goals.goals_table([]) == "No goal is about this."


def test_every_goal_is_about_something_that_is_measured():
    rivals = ("compiled", "composition", "eager", "floor", "torch", "jax", "pytensor")
    everything = {rival: [1.0] for rival in rivals}
    cost = {"seconds": 1.0, "import": 0.2, "files": 0}
    ways = {"eager": 2.0**20, "compiled": 2.0**20, "composition": 2.0**20, "torch": 2.0**20}
    results = {
        "mlp": [race(net, **everything) for net in "ab"],
        "norm": [{**race(**everything), "op": op, "shape": (8, 4)} for op in norm.OPS],
        "compiling": [{"net": "a", "cold": cost, "warm": cost, "wider": cost, "call": 2e-5}],
        "accuracy": [{"case": "a", "found": {"eager": 1.0, "compiled": 1.5, "composition": 4.0}}],
        "memory": [{"net": "a", "found": ways}],
    }
    found = {goal["goal"]: goal["held"] for goal in goals.goals(results)}
    assert len(found) == 24
    assert [text for text, held in found.items() if not held] == [
        "compiled / torch, mean",
        "compiled / jax, mean",
        "compiled / floor, mean",
        "eager / torch, small networks, mean",
        "compiling, warm: s",
        "compiling, wider: s",
        "guards and bookkeeping of a call: µs",
        "float32 error: composition - eager, ULP",
    ]
    for part, rows in results.items():
        assert report.TABLES[part](rows)


def run(tmp_path, monkeypatch, *options):
    monkeypatch.setattr(mlp, "NETS", {"tiny": (SIZES, BATCH)})
    monkeypatch.setattr(norm, "SHAPES", ((8, 4),))
    monkeypatch.setattr(overhead, "OPS", ("add",))
    monkeypatch.setattr(memory, "LENGTHS", (100,))
    quick = ["--quick", "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]
    assert command.main([*quick, *options]) == 0
    return json.loads((tmp_path / "result.json").read_text())


def test_the_command_measures_prints_and_draws_without_rivals(tmp_path, monkeypatch, capsys):
    results = run(tmp_path, monkeypatch, "--rivals")
    out = capsys.readouterr().out
    for word in ("MLPs with batch norm", "Norm ops", "Rounding", "MiB", "One op", "bytes traced"):
        assert word in out
    assert {"eager", "floor", "products"} <= results["mlp"][0]["times"].keys()
    assert results["overhead"][0]["length"] == overhead.LENGTH
    if hasattr(tb, "compile"):
        assert {"compiled", "composition"} <= results["mlp"][0]["times"].keys()
        assert "What compiling costs" in out
        assert (tmp_path / "bench.png").stat().st_size > 10_000


def test_a_rival_that_is_absent_or_cannot_run_is_named_and_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "_version", lambda package, python: "")
    results = run(tmp_path, monkeypatch, "--rivals", "jax", "--only", "overhead")
    assert "jax was skipped: it is not installed; `make bench` does that" in capsys.readouterr().out
    assert results["overhead"][0]["times"].keys() == {"eager"}


def test_a_rival_may_have_an_interpreter_of_its_own(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "_version", lambda *given: asked.append(given) or "")
    python = ["--python", "jax=/another/python"]
    run(tmp_path, monkeypatch, "--rivals", "jax", "torch", "--only", "overhead", *python)
    assert asked == [("jax", "/another/python"), ("torch", sys.executable)]


def test_the_help_says_what_runs():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], capture_output=True, text=True, check=True
    )
    assert "the floor: the same training step" in result.stdout


def test_rivals_run_in_processes_without_tinybn():
    parts = (
        "from benchmarks import memory, mlp, norm, overhead, rivals, symbolic, worker; import sys"
    )
    command = [sys.executable, "-c", f"{parts}; sys.exit('tinybn' in sys.modules)"]
    assert subprocess.run(command, check=False).returncode == 0
