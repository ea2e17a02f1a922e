"""The rules of cookie_factory, gradient_ladder and with_and_without, on numbers made up for them."""

import math

import cookie_factory
import gradient_ladder
import pytest
import with_and_without

from lab.intervals import Interval
from lab.verdicts import NOT_RESOLVED, NOT_SUPPORTED, PARTLY, SUPPORTED

pytestmark = pytest.mark.host("rules are arithmetic on the host")


def exact(value):
    return Interval(value, value, value)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (Interval(4, 2.9, 6), Interval(3.5, 3.1, 5), SUPPORTED),
        (Interval(2.5, 1.1, 3), exact(math.inf), SUPPORTED),  # it reaches 3
        (Interval(2.5, 1.1, 2.9), Interval(3.5, 3.1, 5), PARTLY),
        (Interval(3.5, 0.9, 5), Interval(20, 15, 23), PARTLY),  # not faster for sure
        (Interval(2, 1.5, 2.9), Interval(1, 0.5, 4), NOT_SUPPORTED),
    ],
)
def test_speed_is_judged_by_whole_intervals(first, second, verdict):
    numbers = {"best rates: a": first, "best rates: b": second}
    numbers["networks in which an arm gets there"] = 2
    assert with_and_without.speed(numbers) == verdict
    numbers["networks in which an arm gets there"] = 0
    assert with_and_without.speed(numbers) == NOT_RESOLVED


def trained(net, norm, steps, lr=0.1):
    return [
        {"net": net, "norm": norm, "lr": lr, "seed": seed, "steps_to_target": found,
         "validation_steps_to_target": found, "validation_accuracy": 0.9}
        for seed, found in enumerate(steps)
    ]  # fmt: skip


def test_speed_counts_seeds_that_never_get_there_and_time_counts_what_a_step_costs():
    runs = trained("a", "none", (90, None, 60)) + trained("a", "batch", (30, 30, None))
    runs += trained("a", "batch", (20, 20, 20), lr=0.3)
    runs += [
        {"net": with_and_without.COST, "width": width, "seed": seed, "ms_ratio": ratio}
        for width, ratio in ((64, 1.5), (512, 1.0))
        for seed in range(3)
    ]
    numbers = with_and_without.measure(runs)
    assert numbers["best rates: a"] == (4.5, 3, math.inf)
    assert numbers["same rate: a"] == (3, 0, math.inf)
    assert numbers["time, width 64: a"] == (3, 2, math.inf)
    assert numbers["time, width 512: a"] == (4.5, 3, math.inf)
    assert with_and_without.speed(numbers) == SUPPORTED


def test_the_cost_of_a_step_is_measured_for_both_in_turns():
    config = {"net": with_and_without.COST, "width": 16, "rounds": 4}
    found = with_and_without.run(config | {"data": "digits", "backend": "numpy", "seed": 0})
    assert found["ms_ratio"] == found["ms_per_step_batch"] / found["ms_per_step_none"]
    assert min(found.values()) > 0


@pytest.mark.parametrize(
    ("sigmoid", "relu", "verdict"),
    [
        (Interval(0.3, 0.2, 0.4), Interval(1.0, 0.98, 1.04), SUPPORTED),
        (Interval(0.3, 0.2, 0.4), Interval(1.2, 1.1, 1.3), PARTLY),
        (Interval(0.7, 0.6, 0.81), Interval(1.0, 0.98, 1.04), PARTLY),
        (Interval(0.7, 0.6, 0.81), Interval(1.0, 0.98, 1.06), NOT_SUPPORTED),
    ],
)
def test_gradients_neither_vanish_nor_explode_if_whole_intervals_say_so(sigmoid, relu, verdict):
    numbers = {f"growth, {a}, batch": exact(1.01) for a in gradient_ladder.ACTIVATIONS}
    numbers |= {"growth, sigmoid, none": sigmoid, "growth, relu, batch": relu}
    assert gradient_ladder.tame(numbers) == verdict


def test_the_theory_must_hold_for_both_norms_and_every_batch():
    near, far = Interval(0.01, -0.019, 0.019), Interval(0.01, -0.01, 0.021)
    for batch, layer, verdict in (
        (near, near, SUPPORTED), (near, far, PARTLY), (far, far, NOT_SUPPORTED)
    ):  # fmt: skip
        gaps = {"gap to the theory, batch": batch, "gap to the theory, layer": layer}
        assert gradient_ladder.as_in_theory(gaps) == verdict
    falls, flat = Interval(0.9, 0.8, 0.99), Interval(0.9, 0.8, 1.0)
    off = Interval(0.02, 0.01, 0.03)
    for ratio, gap, verdict in (
        (falls, near, SUPPORTED), (flat, near, PARTLY), (falls, off, PARTLY), (flat, off, NOT_SUPPORTED)
    ):  # fmt: skip
        numbers = {"growth with 8 to 4": ratio, "gap to the theory with 8": gap}
        assert gradient_ladder.falls_with_the_batch(numbers) == verdict


def test_the_theory_of_batch_norm_and_relu_is_the_formula_of_yang_et_al():
    limit = math.sqrt(math.pi / (math.pi - 1))
    assert gradient_ladder.theory("batch", "relu", "he", 10**6) == pytest.approx(limit, rel=1e-5)
    assert gradient_ladder.theory("batch", "relu", "he", 4) > 1.7
    assert gradient_ladder.theory("batch", "relu", "he", 2) == 0
    assert gradient_ladder.theory("none", "relu", "he", 64) == 1
    assert gradient_ladder.growth([8.0 * 2.0**-k for k in range(12)]) == pytest.approx(2)


def test_the_cookies_must_be_right_to_the_last_digits():
    right = {
        "mean of 2, 10, 6": 6.0,
        "error of the steps": 1e-16,
        "mean left by the whole table": 1.2,
        "variance left by the whole table": 1.0,
        "fourth path": 0.0,
        "sum less closed form": 1e-17,
        "finite difference less closed form": 1e-11,
        "sum less what it is by hand": 1e-7,
    }
    assert cookie_factory.steps_are_right(right) == SUPPORTED
    assert cookie_factory.code_is_right(right) == NOT_SUPPORTED
    assert cookie_factory.paths_add_up(right) == SUPPORTED
    assert cookie_factory.paths_add_up(right | {"fourth path": 1e-18}) == NOT_SUPPORTED
    assert cookie_factory.steps_are_right(right | {"error of the steps": 1e-8}) == NOT_SUPPORTED
