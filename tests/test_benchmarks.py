"""The benchmark measures what it says, and runs; what it measures is no business of a test."""

import json
import subprocess
import sys

import numpy as np
import pytest

import tinybn as tb
from benchmarks import __main__ as command
from benchmarks import limits, memory, mlp, norm, overhead, report
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
    losses = {r: mlp.make(r, SIZES, BATCH, optimizer)[1]["losses"] for r in ("tinybn", "floor")}
    mlp.check_losses(losses)
    with pytest.raises(RuntimeError, match="tinybn does other work"):
        mlp.check_losses({**losses, "tinybn": [2 * loss for loss in losses["tinybn"]]})


@pytest.mark.parametrize("op", ["batch", "layer"])
def test_the_norms_are_the_same_fused_and_composed(op):
    found = {r: norm.make(r, op, (6, 5))[1]["dx"] for r in ("fused", "composed")}
    norm.check_gradients(found)
    with pytest.raises(RuntimeError, match="composed does other work"):
        norm.check_gradients({**found, "composed": found["fused"][::-1]})


@pytest.mark.parametrize("op", overhead.OPS)
def test_the_bare_chain_has_the_gradient_of_the_recorded_one(op):
    recorded, bare = (overhead.make(rival, op)[0] for rival in ("tinybn", "bare"))
    np.testing.assert_allclose(bare(), recorded(), rtol=1e-5, atol=1e-30)


def test_the_work_of_a_step_is_counted_as_by_hand():
    n, k, m, c = 16, 3, 8, 4
    found = limits.count([k, m, c], n, "sgd")
    assert found["products"] == 5
    assert found["flops"] == 2 * n * (2 * k * m + 3 * m * c)  # no gradient of the data
    layer, unit, row, out = 4 * n * m, 4 * m, 4 * n, 4 * n * c
    # A batch norm and its ReLU, with the running statistics; and back again,
    # where `dy *= y > 0` writes and reads bools.
    there = 21, 15 * layer + 35 * unit + 2 * row
    back = 12, 17 * layer + 2 * (layer // 4) + 12 * unit + 2 * row
    # Bias, max, its row subtracted, the chosen (rows and labels are int64), exp, total, log, minus,
    # mean; n · total, divided, 1/n taken away from the chosen, dbias. Two views are calls, too.
    chosen = 2 * 8 * n + 2 * row
    loss = 17, (
        (2 * out + 4 * c) + (out + row) + (2 * out + row) + chosen + 2 * out + (out + row)
        + 2 * row + 3 * row + row + 2 * row + (2 * out + row) + (chosen + 2 * row + chosen)
        + (row + out + 4 * c)
    )  # fmt: skip
    sgd = 4, (2 + 3 + 2 + 3) * 4 * (k * m + m * c + c + 2 * m)
    calls, nbytes = (sum(parts) for parts in zip(there, back, loss, sgd, strict=True))
    assert found["calls"] == calls + found["products"]
    assert found["bytes"] == nbytes


def test_a_step_is_explained_by_its_products_its_calls_and_its_bytes():
    floor = {"calls": 30, "products": 10, "flops": 4e9, "bytes": 6e9}
    square, add, ops = {"flops": 8e9}, {"bytes": 3e9}, {"ops": 5}
    best = {"floor": 10.0, "tinybn": 20.0, "products": 2.0, "square": 1.0, "add": 1.5}
    best |= {"floor, no data": 3.0, "tinybn, no data": 5.5}
    found = limits.explain(
        {"facts": {"floor": floor, "square": square, "add": add, "tinybn": ops}, "best": best}
    )
    assert (found["rate"], found["peak"], found["bandwidth"]) == (2e9, 8e9, 2e9)
    assert found["explained"] == pytest.approx(2 + 20 * 0.1 + 3)
    assert (found["op"], found["op_no_data"]) == (2, 0.5)


def test_memory_counts_an_array():
    nbytes = 64 * 2**20
    for instrument in (memory.traced, memory.resident):
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


def test_a_goal_holds_or_not_at_its_worst_case():
    row = {"net": "a", "optimizer": "sgd", "threads": 1}
    results = {
        "mlp": [{**row, "ratios": {"torch": 0.4}}, {**row, "net": "b", "ratios": {"torch": 0.8}}]
    }
    each, mean = report.goals(results)
    assert (each["worst"], each["holds"]) == (0.8, True)
    assert each["where"] == "b, sgd, threads: 1"
    assert mean["holds"]
    results["mlp"][1]["ratios"]["torch"] = 1.1
    assert [goal["holds"] for goal in report.goals(results)] == [False, False]
    assert "NO" in report.goals_table(report.goals(results))


def test_the_command_measures_prints_and_draws_without_rivals(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mlp, "NETS", {"tiny": (SIZES, BATCH)})
    monkeypatch.setattr(norm, "SHAPES", ((8, 4),))
    monkeypatch.setattr(overhead, "OPS", ("add",))
    monkeypatch.setattr(memory, "LENGTHS", (100,))
    monkeypatch.setattr(command.Bench, "seconds", 0.001, raising=False)
    options = ["--quick", "--rounds", "1", "--threads", "1", "--rivals", "--out", str(tmp_path)]
    assert command.main(options) == 0
    out = capsys.readouterr().out
    for word in (
        "tinybn/floor",
        "= sum",
        "fused/composed",
        "overhead",
        "bytes traced",
        "MiB",
        "holds",
    ):
        assert word in out
    results = json.loads((tmp_path / "result.json").read_text())
    assert results["mlp"][0]["seconds"].keys() == {"tinybn", "floor", "products"}
    assert results["limits"][0]["facts"]["tinybn"]["ops"] == 8  # of three layers and the loss
    assert (tmp_path / "bench.png").stat().st_size > 10_000


def test_a_rival_that_is_absent_is_named_and_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "PACKAGES", ("no_such_rival",))
    monkeypatch.setattr(overhead, "OPS", ())
    options = ["--only", "overhead", "--rivals", "no_such_rival", "--out", str(tmp_path)]
    monkeypatch.setitem(report.TABLES, "overhead", lambda rows: "nothing")
    assert command.main(options) == 0
    assert "no_such_rival is not installed: skipped. `make bench`" in capsys.readouterr().out


def test_the_help_says_what_runs():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], capture_output=True, text=True, check=True
    )
    assert "The floor is the same training step" in result.stdout


def test_rivals_run_in_processes_without_tinybn():
    parts = "from benchmarks import memory, mlp, norm, overhead, rivals, worker; import sys"
    command = [sys.executable, "-c", f"{parts}; sys.exit('tinybn' in sys.modules)"]
    assert subprocess.run(command, check=False).returncode == 0
