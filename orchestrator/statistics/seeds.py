"""The same pair of arms under several seeds: how far the draw of the run may have moved a delta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, hypot
from statistics import NormalDist, fmean, stdev

from orchestrator.statistics.examples import LEVEL, Interval

TIE = 1e-9  # deltas are ratios of counts; closer than this they are equal
LEAST_P = 1e-15
HALVINGS = 50  # of the logarithm of p


@dataclass(frozen=True)
class AcrossSeeds:
    """The deltas of several seeds in a few numbers."""

    n: int
    mean: float
    sd: float | None  # None for one seed
    pattern: str  # 2+/1=/0-
    positive: int  # seeds with a gain
    interval: Interval | None  # Student's t of the mean, at LEVEL; None where no two seeds differ
    sign_p: float  # exact sign test, ties left out; one-sided: never below 2^-n


def across_seeds(deltas: Sequence[float]) -> AcrossSeeds:
    """Summarises at least one delta.

    One seed has no spread, and equal deltas say nothing of it: no interval. With ties only, p is 1.
    """
    sd = stdev(deltas) if len(deltas) > 1 else None
    up, down = sum(d > TIE for d in deltas), sum(d < -TIE for d in deltas)
    return AcrossSeeds(
        n=len(deltas),
        mean=fmean(deltas),
        sd=sd,
        pattern=sign_pattern(deltas),
        positive=up,
        interval=t_interval(deltas) if sd else None,
        sign_p=sign_test(up, down),
    )


def sign_pattern(deltas: Sequence[float]) -> str:
    """Seeds above, at and below the baseline: 2+/1=/0-."""
    up, down = sum(d > TIE for d in deltas), sum(d < -TIE for d in deltas)
    return f"{up}+/{len(deltas) - up - down}=/{down}-"


def sign_test(up: int, down: int) -> float:
    """P(at least so many up) if up and down were equally likely; 1 where there are none."""
    n = up + down
    return float(sum(comb(n, k) for k in range(up, n + 1)) / 2**n)


def t_interval(deltas: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's t interval of the mean of at least two deltas."""
    reach = quantile((1 + level) / 2, len(deltas)) * stdev(deltas) / len(deltas) ** 0.5
    return Interval(fmean(deltas) - reach, fmean(deltas) + reach)


def least_sign_p(n: int) -> float:
    """The smallest p-value that n paired seeds can ever reach, all of them pointing up."""
    return 0.5**n


@dataclass(frozen=True)
class Estimate:
    """A delta over seeds and examples, with the standard errors that come from either."""

    mean: float
    of_examples: float
    of_runs: float  # 0 for one seed: not known
    n: int  # seeds

    def interval(self, level: float = LEVEL) -> Interval:
        """Two-sided."""
        reach = self._reach((1 + level) / 2)
        return Interval(self.mean - reach, self.mean + reach)

    @property
    def p_value(self) -> float:
        """One-sided, from the interval that ends at 0; where no error is known, 1: nothing is shown."""
        if self.of_examples == self.of_runs == 0:
            return 1.0
        low, high = LEAST_P, 0.5
        for _ in range(HALVINGS):
            p = (low * high) ** 0.5
            low, high = (p, high) if self._reach(1 - p) > abs(self.mean) else (low, p)
        return high if self.mean > 0 else 1 - high

    def _reach(self, probability: float) -> float:
        """How far a bound of this one-sided level lies from the mean."""
        of_examples = NormalDist().inv_cdf(probability) * self.of_examples
        of_runs = quantile(probability, self.n) * self.of_runs if self.of_runs else 0.0
        return hypot(of_examples, of_runs)


def estimate(deltas: Sequence[float], standard_errors: Sequence[float]) -> Estimate:
    """At least one seed's delta, each with its standard error over examples, taken together.

    Which examples are asked and which run is drawn are two independent sources of doubt: the square of an interval's
    reach is the sum of the squares of what either reaches alone, by the normal distribution for the examples, which
    are many, and by Student's for the runs, which are few (square-and-add; Zou and Donner 2008). The examples are the
    same under every seed, so their part does not shrink with more seeds: it is the mean of the seeds' standard
    errors. What a run adds to single examples is in both parts, which errs on the side of caution.
    """
    n = len(deltas)
    of_runs = stdev(deltas) / n**0.5 if n > 1 else 0.0
    return Estimate(fmean(deltas), fmean(standard_errors), of_runs, n)


def estimate_if_known(deltas: Sequence[float], standard_errors: Sequence[float | None]) -> Estimate | None:
    """As `estimate`; None where a seed's standard error is not known."""
    known = [error for error in standard_errors if error is not None]
    return estimate(deltas, known) if len(known) == len(deltas) else None


def quantile(probability: float, n: int) -> float:
    """Of Student's t with n - 1 degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, probability))
