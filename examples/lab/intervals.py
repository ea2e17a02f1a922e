"""Confidence intervals over seeds: by the bootstrap, and by Student's t.

The numbers of an interval are paired by seed before they come here: differences or ratios of two
arms that saw the same weights and the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 4000
LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval."""

    middle: float
    low: float
    high: float

    def text(self, form: str = ".3g") -> str:
        """As in "3.1 (2.8 to 3.4)"."""
        middle, low, high = (written(v, form) for v in self)
        return middle if low == high else f"{middle} ({low} to {high})"

    def above(self, value: float) -> bool:
        """Whether the whole interval is above a value."""
        return self.low > value

    def below(self, value: float) -> bool:
        """Whether the whole interval is below a value."""
        return self.high < value


def written(value: float, form: str = ".3g") -> str:
    """A number, with ∞ and ? for those that are not finite."""
    if math.isfinite(value):
        return format(value + 0.0, form)
    return "?" if math.isnan(value) else "∞" if value > 0 else "−∞"


def median_interval(numbers: Sequence[float]) -> Interval:
    """The median and its percentile bootstrap interval; a number may be infinite.

    Only the order of the numbers counts, so a seed that never reached a target counts as well. With
    5 seeds the interval is their range. No seed can give a narrower one than the data allow.
    """
    return _bootstrap(numbers, middle_of_each)


def mean_interval(numbers: Sequence[float]) -> Interval:
    """The mean and its interval by Student's t: mean ± t s/√n.

    The percentile bootstrap of a mean is too narrow for few seeds: with 5 it holds the true mean in
    83 % of all cases, and Student's t in 95 % if the numbers are about normal.
    """
    from scipy.stats import t

    known = np.asarray(numbers, float)
    n, mean = len(known), float(known.mean())
    if n < 2 or not np.isfinite(known).all():
        return Interval(mean, -math.inf, math.inf)
    half = float(t.ppf((1 + LEVEL) / 2, n - 1) * known.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half)


def share_interval(hits: Sequence[bool]) -> Interval:
    """The share of hits and its interval by Wilson's score: right for 0 of 5 and 5 of 5, too."""
    z = 1.959964
    n, share = len(hits), sum(hits) / len(hits)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def middle_of_each(samples: np.ndarray) -> np.ndarray:
    """The median of each row; with an even number of columns, of infinite numbers too."""
    ordered = np.sort(samples, axis=1)
    n = samples.shape[1]
    low, high = ordered[:, (n - 1) // 2], ordered[:, n // 2]
    return np.where(low == high, low, (low + high) / 2)


def _bootstrap(numbers: Sequence[float], statistic: object) -> Interval:
    assert callable(statistic)
    known = np.asarray(numbers, float)
    if np.isnan(known).any() or not len(known):
        raise ValueError(f"an interval needs numbers that can be ordered, got {numbers}")
    middle = float(statistic(known[None])[0])
    if len(known) < 2:
        return Interval(middle, -math.inf, math.inf)
    drawn = np.random.default_rng(0).integers(len(known), size=(RESAMPLES, len(known)))
    found = np.sort(statistic(known[drawn]))
    cut = int(RESAMPLES * (1 - LEVEL) / 2)
    return Interval(middle, float(found[cut]), float(found[-1 - cut]))
