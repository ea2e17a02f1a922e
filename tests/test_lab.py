"""What the experiments count with: records, intervals, claims and pictures."""

import itertools
import math

import matplotlib.image
import numpy as np
import pytest

import tinybn as tb
from lab import claims, figures
from lab.files import dumps, tidy, write
from lab.intervals import Interval, mean_interval, median_interval, share_interval, written
from lab.records import (
    best,
    differences,
    fastest,
    group,
    most_accurate,
    ratios,
    spread,
    summary,
    summary_table,
    values,
)
from lab.training import Config, train

pytestmark = pytest.mark.host("statistics and pictures are the host's")

# --- records ---


def test_medians_count_what_never_happened_as_infinite():
    assert values([{"a": None}, {"a": 2}], "a") == [math.inf, 2]
    assert spread([3, 1, math.inf]) == (3, 1, math.inf)
    assert spread([3, 1, math.inf]).text(".0f") == "3 (1–∞)"
    assert spread([5.0, 5.0]).text(".0f") == "5"


def test_pairs_are_those_of_a_seed_and_none_is_dropped():
    a = [{"seed": 1, "s": 6}, {"seed": 0, "s": None}, {"seed": 2, "s": None}]
    b = [{"seed": 0, "s": 2}, {"seed": 1, "s": 3}, {"seed": 2, "s": None}]
    assert ratios(a, b, "s") == [math.inf, 2, 1]  # never divided by never: neither is ahead
    assert differences(a, b, "s") == [math.inf, 3, 0]
    assert ratios(b, a, "s") == [0, 0.5, 1]
    with pytest.raises(ValueError, match=r"not the same seeds: \[0\] and \[0, 1, 2\]"):
        ratios(b[:1], a, "s")


def test_the_learning_rate_is_chosen_on_validation_data_by_the_mean():
    accuracies = {0.1: (0.97, 0.97, 0.4), 1.0: (0.95, 0.96, 0.95)}
    runs = [
        {"lr": lr, "seed": seed, "validation_accuracy": a, "validation_steps_to_target": steps}
        for (lr, found), steps in zip(accuracies.items(), (10, 20), strict=True)
        for seed, a in zip((2, 0, 1), found, strict=True)
    ]
    chosen = best(runs, most_accurate)
    assert {r["lr"] for r in chosen} == {1.0}  # a median would have hidden the failed seed
    assert [r["seed"] for r in chosen] == [0, 1, 2]
    assert best(runs, fastest)[0]["lr"] == 0.1
    assert list(group(runs, ["lr"])) == [(0.1,), (1.0,)]


def test_a_summary_counts_diverged_runs_and_shows_what_is_not_measured():
    runs = [{"a": 1, "seed": s, "m": s, "diverged_at": d} for s, d in ((0, None), (1, 5))]
    (row,) = rows = summary(runs, ["a", "b"], {"m": ".1f", "other": ".1f"})
    assert row["diverged"] == 1
    assert row["m"] == {"median": 0.5, "low": 0, "high": 1}
    table = summary_table(rows, ["a", "b"], {"m": ".1f", "other": ".1f"})
    assert table[1] == ["1", "–", "0.5 (0.0–1.0)", "–", "1 of 2"]


def test_files_have_null_for_what_is_not_finite_and_no_curves_in_the_table():
    assert dumps({"a": math.inf, "b": [math.nan, 1.5]}) == '{"a": null, "b": [null, 1.5]}'
    assert tidy([{"a": 1, "curve": [1, 2]}, {"a": 2, "b": "x,y"}]) == 'a,b\n1,\n2,"x,y"\n'


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write(path, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


# --- intervals ---


def exact_median_quantile(numbers, quantile):
    """The quantile of the median over all n^n resamples: what the bootstrap draws from."""
    medians = sorted(np.median(drawn) for drawn in itertools.product(numbers, repeat=len(numbers)))
    return medians[int(len(medians) * quantile)]


def test_the_interval_of_a_median_is_that_of_all_resamples():
    numbers = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0]
    found = median_interval(numbers)
    assert found.middle == 3.5
    assert abs(found.low - exact_median_quantile(numbers, 0.025)) <= 0.5
    assert abs(found.high - exact_median_quantile(numbers, 0.975)) <= 2
    assert median_interval(numbers) == found  # the draws are the same each time
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (3, 1, 5)  # of 5 seeds, the range


def test_the_interval_of_a_median_counts_seeds_that_never_got_there():
    assert median_interval([1.0, 2.0, 3.0, 4.0, math.inf]) == (3, 1, math.inf)
    assert median_interval([math.inf] * 4) == (math.inf,) * 3
    assert median_interval([2.0]) == (2, -math.inf, math.inf)
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="an interval needs numbers"):
            median_interval(bad)


def test_the_interval_of_a_mean_is_that_of_students_t():
    numbers = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    half = 2.3646 * np.std(numbers, ddof=1) / math.sqrt(8)  # t of 7 degrees of freedom
    np.testing.assert_allclose(mean_interval(numbers), (3.875, 3.875 - half, 3.875 + half), 1e-4)
    assert mean_interval([1.0]) == (1, -math.inf, math.inf)
    assert mean_interval([1.0, math.inf]) == (math.inf, -math.inf, math.inf)


def test_the_interval_of_a_share_is_wilsons():
    np.testing.assert_allclose(share_interval([True] * 5), (1, 0.5655, 1), atol=1e-4)
    np.testing.assert_allclose(share_interval([False] * 5), (0, 0, 0.4345), atol=1e-4)
    np.testing.assert_allclose(
        share_interval([True] * 3 + [False] * 7), (0.3, 0.1078, 0.6032), atol=1e-4
    )


def test_intervals_hold_the_true_value_as_often_as_they_say():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((400, 8))
    for interval in (mean_interval, median_interval):
        found = [interval(sample) for sample in samples]
        assert np.mean([i.low <= 0 <= i.high for i in found]) > 0.91


def test_an_interval_is_above_what_is_below_all_of_it():
    interval = Interval(3.1, 2.8, 3.4)
    assert interval.text(".1f") == "3.1 (2.8 to 3.4)"
    assert interval.above(2.7)
    assert not interval.above(2.8)
    assert interval.below(3.5)
    assert not interval.below(3.2)
    assert [written(v) for v in (math.inf, -math.inf, math.nan, -0.0)] == ["∞", "−∞", "?", "0"]


# --- claims ---


def test_a_claims_hash_changes_with_its_sentence_and_its_rule():
    said = claims.said("cookie_factory.steps")
    assert said.hash != said._replace(rule="Supported.").hash
    assert said.hash != said._replace(quote="Cookies!").hash
    assert said.hash == said._replace(title="Other").hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[b]\nquote = "q"\n', r"a\.toml: \[b\]: .*missing"),
        ('[b]\ntitle = "t"\nquote = "q"\nwhose = "mine"\nrule = "r"\n', "a.b is whose"),
        ('[b]\ntitle = "t"\nquote = "q"\nwhose = "ours"\nrule = "r"\nx = "y"\n', "unexpected"),
    ],
)
def test_a_claim_without_its_parts_is_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(claims, "FOLDERS", [tmp_path])
    (tmp_path / "a.toml").write_text(text)
    claims.claims_of.cache_clear()
    with pytest.raises(ValueError, match=message):
        claims.said("a.b")
    with pytest.raises(KeyError, match=r"c\.toml has no claim c\.d"):
        claims.said("c.d")
    claims.claims_of.cache_clear()


def test_a_sentence_says_whose_words_it_is_in():
    tutorial = claims.said("with_and_without.speed")
    assert (tutorial.sentence, tutorial.by) == ("“trains 3–5x faster”", "the tutorial")
    ours = claims.said("cookie_factory.paths")
    assert (ours.sentence, ours.by) == (ours.quote, "our own sentence")
    told = claims.said("gradient_ladder.rate")
    assert told.sentence == told.quote
    assert told.by == "Yang et al., ICLR 2019, in our words"
    assert told._replace(quote="“It grows.”").by == "Yang et al., ICLR 2019"


def test_rules_without_a_repository_have_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "FOLDERS", [tmp_path])
    (tmp_path / "a.toml").write_text("")
    assert claims.commit("a") == ""


# --- pictures ---


def test_no_norm_shares_its_colour():
    colours = [colour for colour, _ in figures.STYLES.values()]
    assert len({*colours, *figures.OTHERS}) == len(colours) + len(figures.OTHERS)


def test_a_picture_has_all_its_colours_a_short_title_and_few_panels(tmp_path):
    figure, ((ax,),) = figures.panels()
    ax.fill_between([0, 1], 0, 1, color=figures.STYLES["layer"][0])
    figures.save(figure, tmp_path / "f.png", "A finding")
    pixels = (matplotlib.image.imread(tmp_path / "f.png")[..., :3] * 255).round().astype(int)
    assert (pixels == (0xD5, 0x5E, 0x00)).all(axis=-1).mean() > 0.3
    with pytest.raises(ValueError, match="a title has fewer than 80 characters, not 80"):
        figures.save(figure, tmp_path / "g.png", "x" * 80)
    assert not (tmp_path / "g.png").exists()
    with pytest.raises(ValueError, match="a figure has at most 4 panels, not 2 x 3"):
        figures.panels(2, 3)


# --- training ---


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group", "rms"])
def test_compiled_steps_give_the_losses_of_eager_ones(norm):
    curves = [
        train(Config(norm=norm, steps=100, every=10, compile=c), progress=False)[0].loss
        for c in (True, False)
    ]
    np.testing.assert_allclose(*curves, rtol=1e-3)


def test_looking_at_the_test_data_does_not_record_the_step_again(monkeypatch):
    steps = []
    compiled = tb.compile
    monkeypatch.setattr(tb, "compile", lambda step: steps.append(compiled(step)) or steps[-1])
    train(Config(steps=12, every=3), progress=False)
    (step,) = steps
    assert step.recordings == 1
