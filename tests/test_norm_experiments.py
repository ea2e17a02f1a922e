"""The measurements and the rules of the experiments on learning rates, depth, batch size, epsilon,
feature scaling and regularisation, on made-up numbers and on tiny runs.
"""

import math

import batch_size
import deep_network
import epsilon
import feature_scaling
import learning_rate
import numpy as np
import pytest
import regularizer

import tinybn as tb
from lab.intervals import Interval
from lab.training import Config, dataset
from lab.verdicts import NOT_RESOLVED, NOT_SUPPORTED, PARTLY, SUPPORTED

pytestmark = pytest.mark.host("examples run on NumPy unless told otherwise (see on_cupy)")


def near(value, half=0.001):
    return Interval(value, value - half, value + half)


# --- learning rates ---


def runs_at(accuracies):
    data = {"seed": 0, "data": "digits"}
    rates = learning_rate.RATES
    return [data | {"lr": lr, "test_accuracy": a} for lr, a in zip(rates, accuracies, strict=False)]


@pytest.mark.parametrize(
    ("accuracies", "width"),
    [
        ([0.5, 0.95, 0.95, 0.95, 0.5], 1 + 2 * 0.5 / 9),  # 3 points are 1 decade, and its two ends
        ([0.5, 0.5, 0.9, 0.5, 0.5], 0),  # one point at the limit
        ([0.5, 0.5, 0.5], 0),  # none
        ([0.95, 0.95, 0.95], 1),  # the whole grid
        ([0.95, 0.1, 0.97, 0.1, 0.95], 2 * 0.5 * 0.07 / 0.87),  # only around the best
    ],
)
def test_decades_are_counted_between_points(accuracies, width):
    assert learning_rate.decades(runs_at(accuracies)) == pytest.approx(width, abs=0.003)


def test_a_factor_of_the_weights_changes_nothing_but_the_rate():
    config = {"norm": "batch", "lr": 0.1, "factor": 10.0, "hidden": (8, 8), "seed": 3}
    found = learning_rate.scaled(config)
    assert found["output_changes"] < 1e-9
    assert found["gradient_differs"] < 1e-9
    assert found["loss_differs"] < 1e-6


def test_the_angle_of_a_step_and_the_effective_rate():
    weight = tb.tensor(np.array([[3.0, 0.0], [0.0, 4.0]]))
    assert np.linalg.norm(learning_rate.unit(weight)) == pytest.approx(1)
    assert learning_rate.effective_rate(0.5, [weight]) == pytest.approx(0.5 / 25)
    config = {"norm": "batch", "lr": 1.0, "decay": 0.0, "steps": 200, "hidden": (8,), "seed": 0}
    still, moved = (
        learning_rate.decayed(config | {"lr": lr, "decay": d}) for lr, d in ((1e-9, 0), (1.0, 0.1))
    )
    assert still["angle"] < 1e-6
    assert moved["angle"] == pytest.approx(math.sqrt(2 * 0.1), rel=0.4)
    assert len(moved["curves"]["angle"]) == 2


def test_the_rules_on_learning_rates():
    decide = learning_rate.less_sensitive
    assert decide({"decades more than none": near(1)}) == SUPPORTED
    assert decide({"decades more than none": near(0.1)}) == PARTLY
    assert decide({"decades more than none": Interval(0.5, -0.1, 1)}) == NOT_SUPPORTED
    numbers = {f"scaled weights: {k}": 1e-15
               for k in ("output changes", "gradient differs", "loss differs")}  # fmt: skip
    assert learning_rate.invariant(numbers) == SUPPORTED
    assert learning_rate.invariant(numbers | {"scaled weights: loss differs": 1}) == PARTLY
    assert learning_rate.invariant(numbers | {"scaled weights: output changes": 1}) == NOT_SUPPORTED
    angle, times = "angle / √(2ηλ), a", "effective rate / that without decay, a"
    assert learning_rate.sets_the_rate({angle: near(1), times: near(9)}) == SUPPORTED
    assert learning_rate.sets_the_rate({angle: near(1.3), times: near(9)}) == PARTLY
    assert learning_rate.sets_the_rate({angle: near(1.3), times: near(2)}) == NOT_SUPPORTED


# --- depth ---


def test_the_predicted_limit_is_where_a_step_gets_too_large():
    numbers = {"whole step, 5 layers": near(3.0), "smallest useful rate": 0.003}
    numbers |= {"growth per layer": 1.2}
    expected = 5 + math.log(0.1 * 3 / 0.003) / math.log(1.2)
    assert deep_network.limit(numbers) == pytest.approx(expected)
    assert deep_network.limit(numbers | {"smallest useful rate": math.inf}) == 0


def shares(**good):
    return {f"share, batch, {d} layers": near(good.get(f"d{d}", 0)) for d in deep_network.DEPTHS}


def test_the_rule_on_where_batch_norm_breaks():
    found = shares(d5=1, d10=1, d20=1)
    assert deep_network.breaks(found | {"predicted limit": 26.0}) == SUPPORTED
    assert deep_network.breaks(found | {"predicted limit": 40.0}) == NOT_SUPPORTED  # 30 fails
    assert deep_network.breaks(found | {"predicted limit": 20.0}) == NOT_SUPPORTED  # nothing below
    assert deep_network.breaks(shares(d5=1) | {"predicted limit": 26.0}) == NOT_SUPPORTED


def test_the_rules_on_depth():
    nets = {f"share, batch: {net}": near(0) for net in deep_network.NETS}
    assert deep_network.smoothly(nets) == NOT_SUPPORTED
    assert deep_network.smoothly(nets | {f"share, batch: {deep_network.TANH}": near(1)}) == PARTLY
    assert deep_network.smoothly(dict.fromkeys(nets, near(1))) == SUPPORTED
    gains = {f"batch norm gains: {net}": near(-0.1) for net in deep_network.NETS}
    assert deep_network.impossible(gains) == NOT_SUPPORTED
    one = {f"batch norm gains: {deep_network.DEFAULT}": near(0.5)}
    assert deep_network.impossible(gains | one) == PARTLY
    assert deep_network.impossible(dict.fromkeys(gains, near(0.5))) == SUPPORTED
    skips = {f"share, {deep_network.describe(*arm)}": near(1) for arm in deep_network.SKIPS}
    plain = {f"share, {norm}, 50 layers": near(0) for norm in deep_network.NORMS}
    assert deep_network.what_trains(skips | plain) == SUPPORTED
    assert deep_network.what_trains(skips | plain | {"share, none, 50 layers": near(1)}) == PARTLY
    no_layer = {"share, layer norm, skip": near(0.5)}
    assert deep_network.what_trains(skips | plain | no_layer) == NOT_SUPPORTED


def test_a_deep_network_has_its_depth_and_its_skips():
    config = {"net": deep_network.USUAL, "norm": "batch", "seed": 0, "depth": 4, "skip": "1/depth"}
    model = deep_network.network(config, 64, 10)
    assert sum(p.ndim == 2 for p in model.parameters()) == 5
    residual = [x for x in model.layers if isinstance(x, deep_network.Residual)]
    assert [x.scale for x in residual] == [1 / 4] * 3
    x = tb.tensor(np.ones((6, 32), np.float32))
    branch = residual[0].branch(x).numpy()
    np.testing.assert_allclose(residual[0](x).numpy(), 1 + branch / 4, rtol=1e-6)


def test_a_whole_step_is_as_long_as_the_weights():
    options, part = Config(norm="none"), dataset("digits", 0).train
    model = tb.nn.MLP([64, 8, 10], "none", rng=np.random.default_rng(0))
    lr = deep_network.whole_step(model, part, options)
    weight = next(p for p in model.parameters() if p.ndim == 2)
    before = weight.numpy().copy()
    batch = slice(deep_network.BATCH)
    tb.ops.cross_entropy(model(tb.tensor(part.x[batch])), part.y[batch]).backward()
    step = lr * weight.grad.numpy()
    assert np.linalg.norm(step) == pytest.approx(np.linalg.norm(before), rel=1e-4)


# --- batch size ---


def test_a_run_is_looked_at_where_each_budget_ends():
    config = {"norm": "batch", "batch_size": 16, "lr": 0.1, "examples": 320, "steps": 30, "seed": 1}
    both = batch_size.run(config)
    few = batch_size.run(config | {"steps": 20})
    assert few["test_examples"] == few["test_steps"] == both["test_examples"]
    assert both["passed"] == pytest.approx(math.sqrt(1 - 2 / 16), abs=0.01)
    assert "passed" not in batch_size.run(config | {"norm": "group"})


def test_the_rules_on_the_batch_size():
    held = {f"32 gains over 2, batch, equal {b}": near(0.3) for b in batch_size.BUDGETS}
    held |= {f"more than layer norm, equal {b}": near(0.2) for b in batch_size.BUDGETS}
    assert batch_size.larger(held) == SUPPORTED
    assert batch_size.larger(held | {"more than layer norm, equal steps": near(-0.1)}) == PARTLY
    assert batch_size.larger(dict.fromkeys(held, near(0))) == NOT_SUPPORTED
    assert (
        batch_size.plateau({"32 gains over 16": near(0), "64 gains over 16": near(0)}) == SUPPORTED
    )
    assert batch_size.plateau({"32 gains over 16": near(0.03)}) == NOT_SUPPORTED
    assert batch_size.plateau({"32 gains over 16": Interval(0, -0.03, 0.03)}) == NOT_RESOLVED
    assert batch_size.as_in_the_formula({"farthest from √((B − 2)/B)": 0.01}) == SUPPORTED


# --- epsilon ---


def test_the_seeds_of_epsilon_have_a_pixel_that_varies_later():
    seeds = [seed for seed in range(12) if epsilon.varies_later(seed)]
    assert 0 < len(seeds) < 12
    data = dataset("digits", seeds[0])
    constant = np.ptp(data.train.x, axis=0) == 0
    assert np.ptp(data.test.x[:, constant], axis=0).max() > 0


@pytest.mark.parametrize("place", [*epsilon.LOOKS])
def test_batch_norm_is_where_the_place_says(place):
    model = epsilon.network(place, 1e-3, 64, 10, Config())
    kinds = [type(layer).__name__ for layer in model.layers]
    assert (
        kinds
        == {
            "input": ["BatchNorm", "Linear", "ReLU", "Linear", "ReLU", "Linear"],
            "before ReLU": ["Linear", "BatchNorm", "ReLU", "Linear", "BatchNorm", "ReLU", "Linear"],
            "after ReLU": ["Linear", "ReLU", "BatchNorm", "Linear", "ReLU", "BatchNorm", "Linear"],
        }[place]
    )
    assert {m.eps for m in model.layers if isinstance(m, tb.nn.BatchNorm)} == {1e-3}


def test_the_rules_on_epsilon():
    lost = {"fail with 0, input": near(1), "fail with 0, after ReLU": near(0.9)}
    lost |= {"fail with 0, before ReLU": near(0), "fail with 1e-05": 0}
    assert epsilon.without(lost) == SUPPORTED
    assert epsilon.without(lost | {"fail with 0, after ReLU": near(0.5, 0.2)}) == PARTLY
    assert epsilon.without(lost | {"fail with 1e-05": 1}) == PARTLY
    assert epsilon.without(dict.fromkeys(lost, near(0)) | {"fail with 1e-05": 0}) == NOT_SUPPORTED
    gains = {f"most gain / bound, {place}": 1.0 for place in epsilon.LOOKS}
    gains |= {"least gain / bound, input": 0.99}
    assert epsilon.bounded(gains) == SUPPORTED
    assert epsilon.bounded(gains | {"most gain / bound, input": 1.01}) == NOT_SUPPORTED
    same = {f"accuracy gained with 1e-12, {place}": near(0) for place in epsilon.LOOKS}
    same |= {f"test loss with 1e-12 / with 1e-05, {place}": near(1) for place in epsilon.LOOKS}
    assert epsilon.any_small(same) == SUPPORTED
    huge = {"test loss with 1e-12 / with 1e-05, input": near(500, 400)}
    assert epsilon.any_small(same | huge) == PARTLY
    worse = {f"accuracy gained with 1e-12, {place}": near(-0.1) for place in epsilon.LOOKS}
    assert epsilon.any_small(same | worse) == NOT_SUPPORTED


# --- feature scaling ---


def test_the_rules_on_feature_scaling():
    does = {f"raw costs, no norm: {data}": near(0.3) for data in feature_scaling.DATA}
    does |= {f"behind scaling, batch norm, input: {data}": near(0) for data in feature_scaling.DATA}
    assert feature_scaling.on_the_input(does) == SUPPORTED
    assert feature_scaling.on_the_input(does | {"raw costs, no norm: wine": near(0)}) == PARTLY
    assert feature_scaling.on_the_input(dict.fromkeys(does, near(0))) == NOT_SUPPORTED
    costs = {f"raw costs, batch norm, hidden: {d}": near(0.2) for d in feature_scaling.DATA}
    assert feature_scaling.in_hidden_layers(costs) == NOT_SUPPORTED
    assert feature_scaling.in_hidden_layers(dict.fromkeys(costs, near(0))) == SUPPORTED
    one = {"raw costs, batch norm, hidden: wine": near(0)}
    assert feature_scaling.in_hidden_layers(costs | one) == PARTLY


# --- regularisation ---


def test_the_rules_on_regularisation():
    def said(gained, saved, data="digits"):
        return {f"{name}, accuracy gained: {data}": gained for name in ("noise", "norm")} | {
            f"{name}, test loss saved: {data}": saved for name in ("noise", "norm")
        }

    assert regularizer.contrast(said(near(0.01), near(0)), "noise") == SUPPORTED
    assert regularizer.contrast(said(near(0), near(0.2)), "norm") == SUPPORTED
    assert regularizer.contrast(said(near(0.002), near(0.02)), "norm") == NOT_SUPPORTED
    assert regularizer.contrast(said(near(0.004, 0.002), near(0)), "norm") == NOT_RESOLVED
    digits = said(near(0), near(0))
    assert regularizer.as_on_digits(digits) == NOT_RESOLVED  # no Fashion-MNIST
    assert regularizer.as_on_digits(digits | said(near(0), near(0), "fashion")) == SUPPORTED
    assert regularizer.as_on_digits(digits | said(near(0.1), near(0), "fashion")) == NOT_SUPPORTED
    assert "apt-get install" in regularizer.on_fashion(digits)


def test_the_test_loss_saved_is_a_part_of_the_others():
    runs = [{"seed": s, "test_loss": v} for s, v in enumerate((0.9, 1.8))]
    others = [{"seed": s, "test_loss": v} for s, v in enumerate((1.0, 2.0))]
    assert regularizer.saved(runs, others).middle == pytest.approx(0.1)
