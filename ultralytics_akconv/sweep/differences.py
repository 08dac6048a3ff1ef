# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether two ways of training differ: paired differences over common seeds, with what the spread over them allows.

A seed fixes the order of the images, the augmentation and much of the first weights, so two trainings of one seed are a
pair: what the seed does to both of them drops out of their difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

CONFIDENCE, POINT, POWER = 0.95, 0.01, 0.8
_MOST_SEEDS = 100_000
_MISSING = "intervals need SciPy: pip install 'ultralytics-akconv[eval]'"


@dataclass(frozen=True)
class Difference:
    """What `paired_difference` returns, in units of the score.

    Attributes:
        seeds: Number of pairs.
        mean: Mean of the differences.
        spread: Their standard deviation; None with one pair.
        low: Lower end of the interval of the mean; None with one pair.
        high: Upper end of it.
        needed: Pairs with which a true difference of one point would be shown, by a test at the same confidence, in
            four of five repetitions, if the spread is as seen; None with one pair, without any spread (a score that is
            0 in every training tells nothing of a point), or beyond 100,000.
    """

    seeds: int
    mean: float
    spread: float | None
    low: float | None
    high: float | None
    needed: int | None

    @property
    def shown(self) -> bool:
        """Whether the interval does not hold 0."""
        return self.low is not None and not self.low <= 0 <= self.high

    @property
    def verdict(self) -> str:
        """What the interval says, in words."""
        if self.low is None:
            return "one seed says nothing"
        return ("better" if self.mean > 0 else "worse") if self.shown else "no difference shown"


def paired_difference(
    scores: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE, point: float = POINT
) -> Difference | None:
    """Compare scores with those of a baseline over the seeds that both have.

    Args:
        scores: Score by seed.
        baseline: The same of what it is compared with.
        confidence: Coverage of the interval, which is Student's of the mean of the differences.
        point: The difference that `Difference.needed` is about.

    Returns:
        The difference, scores minus baseline; None without a common seed.

    Raises:
        ImportError: If SciPy is not installed.

    Example:
        >>> paired_difference({0: 0.36, 1: 0.35}, {0: 0.34, 1: 0.32}).verdict
        'no difference shown'
    """
    distribution = student()
    values = [scores[seed] - baseline[seed] for seed in sorted(scores.keys() & baseline.keys())]
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Difference(1, mean, None, None, None, None)
    spread = statistics.stdev(values)
    half = float(distribution.ppf((1 + confidence) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    needed = seeds_needed(spread, confidence, point) if spread else None
    return Difference(len(values), mean, spread, mean - half, mean + half, needed)


def seeds_needed(spread: float, confidence: float = CONFIDENCE, point: float = POINT) -> int | None:
    """Return the least number of pairs whose test at `confidence` shows a true difference of `point` with power 0.8.

    Args:
        spread: Standard deviation of the paired differences.
        confidence: Coverage of the interval that must not hold 0.
        point: The true difference.

    Returns:
        The number, at least 2; None if 100,000 do not suffice.
    """
    low, high = 1, 2  # of the numbers, one too small and one to try
    while _power(high, spread, confidence, point) < POWER:
        low, high = high, 2 * high
        if low > _MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, spread, confidence, point) >= POWER else (middle, high)
    return high


def _power(pairs: int, spread: float, confidence: float, point: float) -> float:
    """Return how often a two-sided paired t test of so many pairs shows a true difference of `point`."""
    from scipy.stats import nct

    if spread == 0:
        return 1.0
    critical = student().ppf((1 + confidence) / 2, pairs - 1)
    shift = point / spread * math.sqrt(pairs)
    return float(nct.sf(critical, pairs - 1, shift) + nct.cdf(-critical, pairs - 1, shift))


def student():
    """Return SciPy's distribution of Student.

    Raises:
        ImportError: If SciPy is not installed.
    """
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return t
