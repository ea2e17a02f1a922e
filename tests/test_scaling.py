"""The formula for messages and bytes, the model of step times, and the page that shows them."""

import json
import math

import ghost_batch_norm
import pytest
import scaling

import tinybn as tb
from lab.howto import DOCS

PAGE = (DOCS / "distributed.md").read_text(encoding="utf-8")
MACHINE = scaling.Machine(1e-3, 1e-5, 2e-6, 1e9)


def test_the_formula_of_the_page():
    t = scaling.traffic((4, 8, 3))
    parameters = sum(p.size for p in tb.nn.MLP([4, 8, 3], "batch").parameters()) + 8  # a bias
    assert t.messages == 2 + 1
    assert t.bytes == 8 * (3 * 8 + 2) + 4 * (2 * 8 + 1) + 4 * (parameters + 1 + 1)


def test_large_gradients_need_several_buckets():
    t = scaling.traffic((1000, 1000, 1000, 3))
    assert t.messages == 4 + 2


def test_one_rank_sends_nothing():
    t = scaling.traffic((4, 8, 3))
    assert MACHINE.step(64, 1, t) == pytest.approx(1e-3 + 64e-5)


def test_the_model_adds_up():
    t = scaling.Traffic(messages=3, reduced=10_000, gathered=1000)
    expected = 1e-3 + 1e-5 * 64 / 4 + 3 * 2 * 2e-6 + (3 * 1000 + 1.5 * 10_000) / 1e9
    assert MACHINE.step(64, 4, t) == pytest.approx(expected)
    assert MACHINE._replace(cores=2).step(64, 4, t) == pytest.approx(2 * expected)
    gain = MACHINE.step(64, 4, t) - MACHINE.step(64, 4, t, overlap=True)
    assert gain == pytest.approx(2 * 2e-6 + 1.5 * 10_000 / 1e9)


def test_constants_are_found_again():
    t = scaling.Traffic(messages=3, reduced=10_000, gathered=1000)
    one = {"steps": {b: MACHINE.step(b, 1, t) for b in (64, 128, 256)}}
    two = {"messages": {n: MACHINE.latency + n / MACHINE.bandwidth for n in scaling.SIZES}}
    found = scaling.fit(one, two, math.inf)
    assert found[:2] == pytest.approx(MACHINE[:2])
    assert found.bandwidth == pytest.approx(MACHINE.bandwidth)
    assert found.latency == pytest.approx(MACHINE.latency, rel=0.6)  # with its 1000 bytes


@pytest.mark.parametrize(
    ("name", "report", "file"),
    [
        ("scaling", scaling.report, "scaling.json"),
        ("ghosts", ghost_batch_norm.report, "ghost_batch_norm.json"),
    ],
)
def test_the_page_shows_what_was_measured(name, report, file):
    found = json.loads((DOCS / file).read_text(encoding="utf-8"))
    shown = PAGE.partition(f"<!-- {name} -->\n```text\n")[2].partition("\n```\n<!-- end -->")[0]
    assert shown == report(found)


def test_ghosts_in_one_group_are_batch_norm():
    x = tb.ops.reshape(tb.tensor([float(i * i % 7) for i in range(16)]), (8, 2))
    plain, ghost = tb.nn.BatchNorm(2), ghost_batch_norm.GhostBatchNorm(2, 8)
    assert (plain(x).numpy() == ghost(x).numpy()).all()
    assert (plain.running_var.numpy() == ghost.running_var.numpy()).all()
    halves = ghost_batch_norm.GhostBatchNorm(2, 4)(x).numpy()
    assert (halves[:4] == tb.nn.BatchNorm(2)(x[:4]).numpy()).all()
    assert ghost.eval()(x).shape == (8, 2)


def test_a_group_that_does_not_divide_the_batch_is_refused(capsys):
    assert ghost_batch_norm.main(["--groups", "3"]) == 2
    assert "must divide 64" in capsys.readouterr().err
