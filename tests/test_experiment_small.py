"""The small experiments (covariate_shift to units): their own parts, and their rules on numbers made
up for them.
"""

import math

import covariate_shift
import gamma_beta
import memorizing
import numpy as np
import placement
import pytest
import sequences
import stations
import swings
import train_and_eval
import units

import tinybn as tb
from lab.intervals import Interval
from lab.training import Config, build, dataset, stream
from lab.verdicts import NOT_RESOLVED, NOT_SUPPORTED, PARTLY, SUPPORTED

pytestmark = pytest.mark.host("examples run on NumPy unless told otherwise (see on_cupy)")


def around(middle, half=0.001):
    """An interval."""
    return Interval(middle, middle - half, middle + half)


# --- units ---


def test_units_of_any_size_are_equal_for_batch_norm_and_not_for_layer_norm():
    x = dataset("digits", 0).train.x[:64]
    for norm, same in (("batch", True), ("layer", False), ("none", False)):
        outputs = []
        for factor in (1, 10):
            model = build(Config(norm=norm, hidden=(32, 32)))
            units.unequal(model, factor, stream(0, "noise"))
            outputs.append(model(tb.tensor(x)).numpy())
        assert np.allclose(*outputs, atol=0.02) == same


def test_the_factors_lie_within_their_range_and_differ_by_unit():
    config = Config(norm="none", hidden=(500,))
    before = build(config).layers[0].weight.numpy()
    model = build(config)
    units.unequal(model, 10, stream(0, "noise"))
    factors = model.layers[0].weight.numpy() / before
    assert np.allclose(factors, factors[:1], rtol=1e-4)
    assert 0.1 <= factors.min() < 0.12
    assert 8 < factors.max() <= 10.001
    assert model.layers[0].weight.requires_grad


def test_the_rule_of_units():
    cost = {"cost, batch, factor 100": around(0.0), "cost, none, factor 100": around(0.4)}
    assert units.indifferent(cost) == SUPPORTED
    assert units.indifferent(cost | {"cost, none, factor 100": around(0.02)}) == PARTLY
    assert units.indifferent(cost | {"cost, batch, factor 100": around(0.02)}) == NOT_SUPPORTED


# --- gamma and beta ---


@pytest.mark.parametrize("learned", gamma_beta.LEARNED)
def test_only_what_may_be_learned_is_a_parameter(learned):
    data = dataset("digits", 0)
    model = gamma_beta.build(Config(hidden=(8, 8)), data, learned)
    names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    weights = set() if learned == "nothing else" else {"weight", "bias"}
    affine = {"neither": set(), "gamma": {"gamma"}, "beta": {"beta"}}
    assert names == weights | affine.get(learned, {"gamma", "beta"})
    x = tb.tensor(data.train.x[:16])
    both = gamma_beta.build(Config(hidden=(8, 8)), data, "both")
    np.testing.assert_allclose(model(x).numpy(), both(x).numpy(), atol=1e-5)


def test_the_rules_of_gamma_and_beta():
    def numbers(*pairs):
        found = {}
        for net, (steps, accuracy) in zip(gamma_beta.NETS, pairs, strict=False):
            found[f"steps, {net}, both"] = around(20)
            found[f"steps, {net}, neither to both"] = around(steps)
            found[f"accuracy, {net}, both less neither"] = around(accuracy)
            found[f"accuracy, {net}, nothing else"] = around(accuracy)
        return found

    assert gamma_beta.needed(numbers((1.5, 0.0), (1.0, 0.02))) == SUPPORTED
    assert gamma_beta.needed(numbers((1.5, 0.0), (1.0, 0.0))) == PARTLY
    assert gamma_beta.needed(numbers((0.9, -0.1), (1.0, 0.0))) == NOT_SUPPORTED
    assert gamma_beta.enough(numbers((1, 0.8), (1, 0.6))) == SUPPORTED
    assert gamma_beta.enough(numbers((1, 0.8), (1, 0.5))) == PARTLY
    assert gamma_beta.enough(numbers((1, 0.3), (1, 0.5))) == NOT_SUPPORTED


# --- stations and placement ---


@pytest.mark.parametrize("name", stations.STATIONS)
def test_batch_norm_is_at_these_stations_alone(name):
    chosen = stations.STATIONS[name]
    data = dataset("digits", 0)
    model = stations.build(Config(hidden=(8,) * stations.DEPTH), data, chosen)
    station, found = 0, []
    for layer in model.layers:
        station += isinstance(layer, tb.nn.Linear)
        found += [station] if isinstance(layer, tb.nn.BatchNorm) else []
        if isinstance(layer, tb.nn.Linear) and station <= stations.DEPTH:
            assert (layer.bias is None) == (station in chosen)
    assert tuple(found) == chosen


def test_the_rules_of_stations_and_of_their_order():
    slower = {f"{name} to all": around(2.0) for name in stations.SOME}
    assert stations.all_needed(slower) == SUPPORTED
    assert stations.all_needed(slower | {"last to all": around(1.0)}) == PARTLY
    assert stations.all_needed({name: around(1.0) for name in slower}) == NOT_SUPPORTED

    def order(*factors):
        found = {f"steps, {net}, before": around(20) for net in placement.NETS}
        for net, factor in zip(placement.NETS, factors, strict=True):
            found[f"steps, {net}, after to before"] = around(factor)
        return placement.before_is_faster(found)

    assert order(2, 2, 1.1) == SUPPORTED
    assert order(2, 0.5, 1) == PARTLY
    assert order(1, 0.5, 1) == NOT_SUPPORTED
    assert order(1, 1, 1) == NOT_RESOLVED

    dead = {"largest bias_gradient, before": 1e-16, "largest radial, before": 1e-5}
    dead |= {f"smallest bias_gradient, {place}": 0.1 for place in ("after", "none")}
    assert placement.bias_is_dead(dead) == SUPPORTED
    assert placement.bias_is_dead(dead | {"largest radial, before": 0.1}) == NOT_SUPPORTED
    assert placement.bias_is_dead(dead | {"smallest bias_gradient, none": 0}) == NOT_SUPPORTED


# --- swings ---


def test_every_step_has_its_loss_and_the_norm_of_its_gradient():
    config = Config(norm="batch", hidden=(16,), lr=0.1, momentum=0.0, steps=6, compile=False)
    data = dataset("digits", 0)
    model = build(config)
    losses, sizes = swings.every_step(model, data, config)

    other = build(config)
    batches = tb.data.Batches(*data.train, 64, drop_last=True, rng=stream(0, "order"))
    optimizer = tb.optim.SGD(other.parameters(), 0.1)
    for i, (x, y) in zip(range(6), batches, strict=False):
        optimizer.zero_grad()
        loss = tb.ops.cross_entropy(other(tb.tensor(x)), y)
        loss.backward()
        gradient = np.concatenate([p.grad.numpy().ravel() for p in other.parameters()])
        np.testing.assert_allclose(losses[i], loss.item(), rtol=1e-4)
        np.testing.assert_allclose(sizes[i], np.linalg.norm(gradient), rtol=1e-4)
        optimizer.step()


def test_a_setback_is_measured_from_the_lowest_loss_so_far(monkeypatch):
    losses, sizes = np.array([3.0, 1.0, 2.5, 0.5, 1.0]), np.array([2.0, 1, 5, 1, 1])
    monkeypatch.setattr(swings, "every_step", lambda *_: (losses, sizes))
    config = {"norm": "batch", "lr": 0.1, "steps": 5, "seed": 0}
    found = swings.run(config)
    assert (found["setback"], found["peak"], found["start"]) == (1.5, 5.0, 2.0)
    losses[4] = math.nan
    found = swings.run(config)
    assert (found["setback"], found["peak"], found["diverged_at"]) == (math.inf, math.inf, 5)


def test_the_rule_of_swings():
    calm = {}
    for at in ("best", "0.1", "0.3"):
        calm[f"setback, batch, {at}"] = around(0.3)
        calm[f"setback, none to batch, {at}"] = around(5)
        calm[f"peak, none to batch, {at}"] = around(3)
    assert swings.calm(calm) == SUPPORTED
    assert swings.calm(calm | {"setback, batch, best": around(1)}) == PARTLY
    assert swings.calm(calm | {"peak, none to batch, 0.1": around(1)}) == PARTLY
    assert swings.calm({name: around(1) for name in calm}) == NOT_SUPPORTED


# --- memorizing ---


def test_wrong_labels_are_wrong_and_as_many_as_said():
    data = dataset("digits", 0)
    found, wrong = memorizing.mislabelled(data, 0.2, stream(0, "noise"))
    assert len(found.train.y) == memorizing.EXAMPLES
    assert len(wrong) == 128
    differ = found.train.y != data.train.y[: memorizing.EXAMPLES]
    np.testing.assert_array_equal(np.flatnonzero(differ), wrong)
    assert set(found.train.y) == set(range(10))
    assert found.test is data.test
    none, nobody = memorizing.mislabelled(data, 0.0, stream(0, "noise"))
    assert len(nobody) == 0
    np.testing.assert_array_equal(none.train.y, data.train.y[: memorizing.EXAMPLES])


def test_the_rules_of_memorizing():
    def gap(half, less):
        return memorizing.smaller_gap(
            {"gap, batch less half of none": half, "gap, batch less none, 0% wrong": less}
        )

    assert gap(around(-0.01), around(-0.03)) == SUPPORTED
    assert gap(around(0.01), around(-0.01)) == PARTLY
    assert gap(around(0.02), around(0.0)) == NOT_SUPPORTED
    assert gap(around(0.0), around(-0.02)) == NOT_RESOLVED

    def by_heart(few, many):
        names = [f"learned, batch less none, {share}% wrong" for share in (20, 40)]
        return memorizing.fewer_by_heart(dict(zip(names, (few, many), strict=True)))

    assert by_heart(around(-0.2), around(-0.1)) == SUPPORTED
    assert by_heart(around(-0.2), around(0.1)) == PARTLY
    assert by_heart(around(0.5), around(-0.01)) == NOT_SUPPORTED
    assert by_heart(around(-0.05, 0.1), around(0.0)) == NOT_RESOLVED


# --- sequences ---


def test_padded_rows_enter_no_statistics():
    rng = np.random.default_rng(0)
    z, live = rng.standard_normal((6, 5)).astype(np.float32), np.ones((6, 1), np.float32)
    live[4:] = 0
    norm, usual = sequences.RowNorm(5, 2), tb.nn.BatchNorm(5)
    for garbage in (0.0, 1e3):
        z[4:] = garbage
        y = norm(tb.tensor(z), tb.tensor(live), 1).numpy()
        np.testing.assert_allclose(y[:4], usual(tb.tensor(z[:4])).numpy(), atol=1e-5)
        np.testing.assert_array_equal(y[4:], 0)
    running = norm.statistics[1]
    np.testing.assert_allclose(running.mean.numpy(), usual.running_mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(running.var.numpy(), usual.running_var.numpy(), atol=1e-6)
    np.testing.assert_array_equal(norm.statistics[0].var.numpy(), 1)
    norm.eval(), usual.eval()
    for step in (1, 7):  # a later one uses the last
        y = norm(tb.tensor(z), tb.tensor(live), step).numpy()
        np.testing.assert_allclose(y, usual(tb.tensor(z)).numpy(), rtol=1e-4, atol=1e-5)


def test_one_row_alone_and_none_leave_the_statistics():
    norm = sequences.RowNorm(3, 1)
    z = tb.tensor(np.ones((2, 3), np.float32))
    for live in ([[1], [0]], [[0], [0]]):
        y = norm(z, tb.tensor(np.array(live, np.float32))).numpy()
        np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(norm.statistics[0].mean.numpy(), 0)
    np.testing.assert_array_equal(norm.statistics[0].var.numpy(), 1)


@pytest.mark.parametrize("norm", sequences.NORMS)
def test_padding_changes_no_answer(norm):
    rng = np.random.default_rng(1)
    part = sequences.sequences(dataset("digits", 0).test, 0, 8, rng)
    model = sequences.Reader(8, 10, Config(norm=norm))
    short = part.x[:20]
    long = np.concatenate([short, np.zeros((20, 3, 9), np.float32)], axis=1)
    for mode in (True, False):
        model.train(mode)
        a, b = (model(tb.tensor(x)).numpy() for x in (short, long))
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_rule_of_sequences():
    leads = {
        f"{name}, layer less {norm}, batch {b}": around(0.1)
        for name in ("test_accuracy", "longer")
        for norm in ("each step", "all steps")
        for b in (4, 32)
    }
    assert sequences.layer_is_better(leads) == SUPPORTED
    behind = {"longer, layer less all steps, batch 32": around(0.0)}
    assert sequences.layer_is_better(leads | behind) == PARTLY
    assert sequences.layer_is_better({name: around(0) for name in leads}) == NOT_SUPPORTED


# --- covariate shift ---


def test_the_gradient_s_shift_follows_definition_2_1():
    data, config = dataset("digits", 0), Config(norm="none", hidden=(8, 8), lr=0.1)
    model = covariate_shift.build(config, data, 0)
    x, y = data.train.x[:64], data.train.y[:64]
    found = covariate_shift.probe(model, x, y, config)

    def gradients():
        return tb.grad(tb.ops.cross_entropy(model(tb.tensor(x)), y), model.parameters())

    parameters, before = model.parameters(), gradients()
    old = [p.data for p in parameters]
    shifts = []
    for i in (2, 4):  # the weights of the second and the third layer
        for j, p in enumerate(parameters):
            p.data = old[j] - 0.1 * before[j].data if j < i else old[j]
        after = gradients()[i].numpy()
        first = before[i].numpy()
        shifts.append(np.linalg.norm(after - first) / np.linalg.norm(first))
    np.testing.assert_allclose(found["gradient_shift"], np.mean(shifts), rtol=1e-4)
    assert -1 <= found["cosine"] <= 1


def test_the_rules_of_the_covariate_shift():
    n = {
        "shift, noise to batch norm": around(50),
        "shift, 4 × noise to no norm": around(4),
        "steps, no norm to 4 × noise": around(2),
    }
    assert covariate_shift.the_reason(n) == NOT_SUPPORTED
    assert covariate_shift.the_reason(n | {"steps, no norm to 4 × noise": around(0.5)}) == SUPPORTED
    assert (
        covariate_shift.the_reason(n | {"steps, no norm to 4 × noise": around(1)}) == NOT_RESOLVED
    )
    assert (
        covariate_shift.the_reason(n | {"shift, 4 × noise to no norm": around(1)}) == NOT_RESOLVED
    )

    def shifts(name, best, *same):
        rates = (covariate_shift.SAME, covariate_shift.SMALL)
        found = {f"{name}, no norm to batch norm": around(best)}
        return found | {f"{name}, no norm to batch norm at {lr:g}": around(v)
                        for lr, v in zip(rates, same, strict=False)}  # fmt: skip

    assert covariate_shift.cuts(shifts("shift", 50, 100)) == SUPPORTED
    assert covariate_shift.cuts(shifts("shift", 5, 100)) == PARTLY
    assert covariate_shift.cuts(shifts("shift", 1, 100)) == NOT_SUPPORTED
    assert covariate_shift.not_of_gradients(shifts("gradient_shift", 1, 0.5, 0.5)) == SUPPORTED
    assert covariate_shift.not_of_gradients(shifts("gradient_shift", 1, 3, 0.5)) == PARTLY
    assert covariate_shift.not_of_gradients(shifts("gradient_shift", 2, 3, 2)) == NOT_SUPPORTED

    smooth = {f"{name}, no norm to batch norm at 0.1": around(2)
              for name in ("loss_range", "gradient_change", "smoothness")}  # fmt: skip
    assert covariate_shift.smoother(smooth) == SUPPORTED
    one = {"smoothness, no norm to batch norm at 0.1": around(1)}
    assert covariate_shift.smoother(smooth | one) == PARTLY
    assert covariate_shift.smoother({name: around(1) for name in smooth}) == NOT_SUPPORTED


# --- training and evaluation ---


def test_no_example_is_left_out_of_the_batches():
    batches = train_and_eval.in_batches(np.arange(270), 64)
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(270))
    assert {len(b) for b in batches} == {67, 68}
    assert [len(b) for b in train_and_eval.in_batches(np.arange(3), 4)] == [3]


def test_the_batch_size_varies_from_step_to_step(monkeypatch):
    config = Config(norm="layer", hidden=(8,), lr=0.1, steps=30)
    model, sizes = build(config), []
    forward = tb.nn.MLP.forward
    monkeypatch.setattr(tb, "compile", lambda step: step)
    monkeypatch.setattr(
        tb.nn.MLP, "forward", lambda self, x: (sizes.append(len(x)), forward(self, x))[1]
    )
    before = model.state_dict()
    assert train_and_eval.fit_varying(model, dataset("digits", 0), config) is None
    assert set(sizes) == set(train_and_eval.VARYING)
    assert any((model.state_dict()[name] != value).any() for name, value in before.items())


def test_the_rules_of_training_and_evaluation():
    n = {f"{name}, batch {b}": around(0)
         for name in ("running", "running less shuffled", "shuffled less sorted",
                      "precise less running")
         for b in train_and_eval.BATCHES}  # fmt: skip
    n |= {"lag of a small momentum": around(0), "noise of a large momentum": around(0)}
    mixed = {f"shuffled less sorted, batch {b}": around(0.5) for b in train_and_eval.BATCHES}
    assert train_and_eval.one_formula(n) == SUPPORTED
    assert train_and_eval.one_formula(n | mixed) == PARTLY
    one = {"running less shuffled, batch 4": around(0.2)}
    assert train_and_eval.one_formula(n | mixed | one) == NOT_SUPPORTED
    assert train_and_eval.running_is_enough(n) == SUPPORTED
    lag = {"lag of a small momentum": around(0.2)}
    assert train_and_eval.running_is_enough(n | lag) == PARTLY
    behind = {"precise less running, batch 4": around(0.02)}
    assert train_and_eval.running_is_enough(n | behind) == NOT_SUPPORTED
    for largest, verdict in ((0.0, SUPPORTED), (0.1, NOT_SUPPORTED)):
        found = {"layer norm, largest difference": largest}
        assert train_and_eval.same_in_both(found) == verdict
    leads = {
        around(0.03): SUPPORTED,
        around(0.005): PARTLY,
        around(0.0): NOT_SUPPORTED,
        around(0.0, 0.1): NOT_RESOLVED,
    }
    for lead, verdict in leads.items():
        found = {"varying, layer less batch": lead}
        assert train_and_eval.better_with_varying(found) == verdict
