"""What single experiments are made of: their own layers and measures."""

import math

import cookie_factory
import covariate_shift
import numpy as np
import placement
import pytest
import regularizer
import train_and_eval

import tinybn as tb
from lab.training import Config, build, dataset, fit

X = np.random.default_rng(0).standard_normal((regularizer.BATCH, 5)).astype(np.float32)


def test_ghost_norm_is_batch_norm_of_each_group():
    norm = regularizer.GhostNorm(5, 8)
    groups = [slice(i, None, 6) for i in range(6)]
    y = norm(tb.tensor(X)).numpy()
    for rows in groups:
        np.testing.assert_allclose(y[rows], tb.ops.batch_norm(X[rows]), atol=1e-5)
    mean = 0.1 * np.mean([X[rows].mean(axis=0) for rows in groups], axis=0)
    var = 0.9 + 0.1 * np.mean([X[rows].var(axis=0, ddof=1) for rows in groups], axis=0)
    y = norm.eval()(tb.tensor(X[:7])).numpy()
    np.testing.assert_allclose(y, (X[:7] - mean) / np.sqrt(var + 1e-5), atol=1e-5)


def test_a_ghost_norm_of_the_whole_batch_is_batch_norm():
    ghost, norm = regularizer.GhostNorm(5, len(X)), tb.nn.BatchNorm(5)
    for mode in (True, False):
        a, b = (layer.train(mode)(tb.tensor(X)).numpy() for layer in (ghost, norm))
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_few_digits_to_learn_from_leave_all_others_for_testing():
    whole = dataset("digits", 0)
    data = regularizer.few(whole)
    assert len(data.train.y) == 150
    assert sum(len(part.y) for part in data[1:4]) == 1797
    rows = {row.tobytes() for row in data.train.x}
    assert sum(row.tobytes() in rows for row in data.test.x) < 5  # nearly no digit comes twice


def test_noise_changes_each_step_and_is_its_mean_in_evaluation():
    noise = covariate_shift.Noise(1, (0, 0))
    x = tb.tensor(np.ones((4000, 3), np.float32))
    first, second = (noise(x).numpy() for _ in range(2))
    assert abs(first.mean(axis=0) - second.mean(axis=0)).max() > 0.1
    assert (first.std(axis=0) > 0.05).all()
    steps = np.mean([noise(x).numpy().mean(axis=0) for _ in range(300)])
    np.testing.assert_allclose(steps, noise.eval()(x).numpy().mean(), atol=0.05)


@pytest.mark.parametrize("net", ["no norm", "batch norm, 4 × noise"])
def test_a_probe_leaves_model_and_noise_as_they_were(net):
    norm, amount, *_ = covariate_shift.NETS[net]
    config = Config(norm=norm, hidden=(8, 8), lr=0.1)
    data = dataset("digits", 0)
    model = covariate_shift.build(config, data, amount)
    before = model.state_dict()
    counts = [m.count for m in model.modules() if isinstance(m, covariate_shift.Noise)]
    found = covariate_shift.probe(model, data.train.x[:64], data.train.y[:64], config)
    assert all(math.isfinite(v) and v > 0 for v in found.values())
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert counts == [m.count for m in model.modules() if isinstance(m, covariate_shift.Noise)]


def test_evaluating_in_every_way_leaves_the_model_as_it_was():
    config = Config(steps=20, batch_size=16)
    model, data = build(config), dataset("digits", 0)
    fit(model, data, config, progress=False)
    before = model.state_dict()
    found = train_and_eval.evaluate(model, data, config)
    assert list(found) == list(train_and_eval.WAYS)
    assert found["sorted"] < found["shuffled"]
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert [norm.momentum for norm in train_and_eval.norms(model)] == [0.1] * 3


@pytest.mark.parametrize("place", placement.PLACES)
def test_a_bias_is_dead_before_batch_norm_and_only_there(place):
    config = Config(hidden=(16, 16))
    data = dataset("digits", 0)
    model = placement.build(config, data, place)
    before = model.state_dict()
    found = placement.gradients(model, data, config)
    assert (found["bias_gradient"] < 1e-13) == (place == "before")
    if place != "after":  # ReLU passes a factor on, so there it depends on the biases
        assert (found["radial"] < 1e-3) == (place == "before")
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
        assert value.dtype == before[name].dtype


def test_the_cookie_s_difference_follows_no_rule_and_agrees():
    x, dy = np.array([[2.0], [10.0], [6.0]]), np.array(cookie_factory.DY)
    found = cookie_factory.difference(x, dy).ravel()
    np.testing.assert_allclose(found, cookie_factory.BY_HAND, atol=1e-6)
