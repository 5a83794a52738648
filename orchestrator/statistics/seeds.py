"""The same pair of arms under several seeds: how far the draw of the run may have moved a delta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from orchestrator.statistics.examples import LEVEL, Interval

TIE = 1e-9  # deltas are ratios of counts; closer than this they are equal


@dataclass(frozen=True)
class AcrossSeeds:
    """The deltas of several seeds in a few numbers."""

    n: int
    mean: float
    sd: float | None  # None for one seed
    pattern: str  # 2+/1=/0-
    positive: int  # seeds with a gain
    interval: Interval | None  # Student's t of the mean, at LEVEL; None for one seed
    sign_p: float  # exact sign test, ties left out; one-sided: never below 2^-n


def across_seeds(deltas: Sequence[float]) -> AcrossSeeds:
    """Summarises at least one delta.

    One seed has no spread; equal deltas have an interval of width 0; with ties only, p is 1.
    """
    up, down = sum(d > TIE for d in deltas), sum(d < -TIE for d in deltas)
    return AcrossSeeds(
        n=len(deltas),
        mean=fmean(deltas),
        sd=stdev(deltas) if len(deltas) > 1 else None,
        pattern=sign_pattern(deltas),
        positive=up,
        interval=t_interval(deltas) if len(deltas) > 1 else None,
        sign_p=sign_test(up, down),
    )


def sign_pattern(deltas: Sequence[float]) -> str:
    """Seeds above, at and below the baseline: 2+/1=/0-."""
    up, down = sum(d > TIE for d in deltas), sum(d < -TIE for d in deltas)
    return f"{up}+/{len(deltas) - up - down}=/{down}-"


def sign_test(up: int, down: int) -> float:
    """P(at least so many up) if up and down were equally likely; 1 where there are none."""
    if not up + down:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(up, up + down, alternative="greater").pvalue)


def t_interval(deltas: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's t interval of the mean of at least two deltas."""
    reach = quantile((1 + level) / 2, len(deltas)) * stdev(deltas) / len(deltas) ** 0.5
    return Interval(fmean(deltas) - reach, fmean(deltas) + reach)


def least_sign_p(n: int) -> float:
    """The smallest p-value that n paired seeds can ever reach, all of them pointing up."""
    return 0.5**n


@dataclass(frozen=True)
class Estimate:
    """A delta over seeds and examples with its standard error."""

    mean: float
    standard_error: float
    n: int  # seeds

    def interval(self, level: float = LEVEL) -> Interval:
        """Two-sided."""
        reach = quantile((1 + level) / 2, self.n) * self.standard_error
        return Interval(self.mean - reach, self.mean + reach)

    @property
    def p_value(self) -> float:
        """One-sided; where nothing varies, 0 for a gain and 1 otherwise."""
        if self.standard_error == 0:
            return 0.0 if self.mean > TIE else 1.0
        t = self.mean / self.standard_error
        if self.n == 1:
            return NormalDist().cdf(-t)
        from scipy.special import stdtr

        return float(stdtr(self.n - 1, -t))


def estimate(deltas: Sequence[float], standard_errors: Sequence[float]) -> Estimate:
    """At least one seed's delta, each with its standard error over examples, taken together.

    Which examples are asked and which run is drawn are two sources of doubt; their variances add. The examples are
    the same under every seed, so their part does not shrink with more seeds: it is the mean of the seeds' standard
    errors. What a run adds to single examples is in both parts, which errs on the side of caution. Intervals are
    Student's with as many degrees of freedom as seeds less one; with one seed it is the normal distribution and the
    examples alone.
    """
    n = len(deltas)
    runs = stdev(deltas) ** 2 / n if n > 1 else 0.0
    return Estimate(fmean(deltas), (fmean(standard_errors) ** 2 + runs) ** 0.5, n)


def quantile(probability: float, n: int) -> float:
    """Of Student's t with n - 1 degrees of freedom; of the normal distribution for n = 1."""
    if n == 1:
        return NormalDist().inv_cdf(probability)
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, probability))
