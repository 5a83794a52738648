"""All variants of a round at once: with many tried, some look good by chance."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist, variance
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
DUNNETT_SEED = 0  # its integral is computed from random points
DUNNETT_MOST = 12  # variants; the time of its integral grows fast with them: 30 take seconds, 60 a minute


def false_discovery(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Benjamini-Hochberg q-values: calling all up to a q discoveries, that share of them is false at most.

    Plain arithmetic: loading a library for it takes longer than an export.
    """
    n, least, found = len(p_values), 1.0, {}
    for rank, name in zip(
        range(n, 0, -1), sorted(p_values, key=p_values.__getitem__, reverse=True), strict=True
    ):
        least = min(least, p_values[name] * n / rank)
        found[name] = least
    return {name: found[name] for name in p_values}


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Holm's adjusted p-values: the chance of even one false discovery."""
    n, most, found = len(p_values), 0.0, {}
    for done, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        most = max(most, min(1.0, p_values[name] * (n - done)))
        found[name] = most
    return {name: found[name] for name in p_values}


def dunnett(variants: Mapping[Name, Sequence[float]], control: Sequence[float]) -> dict[Name, float]:
    """Dunnett's comparison of the runs of many variants with those of one control: adjusted p-values, one-sided.

    Empty where there is no variant or more than DUNNETT_MOST, where the control has fewer than two runs, or where no
    run differs from another of its arm: the spread between runs is then unknown.
    """
    if not 0 < len(variants) <= DUNNETT_MOST or len(control) < 2:
        return {}
    if pooled_spread([control, *variants.values()]) is None:
        return {}
    from scipy import stats

    # in an order of their own: the integral, over random points, depends on it in the fourth digit
    names = sorted(variants, key=lambda name: (sorted(variants[name]), repr(name)))
    groups = [list(variants[name]) for name in names]
    with warnings.catch_warnings():
        # of an arm whose runs are all equal; the spread is pooled over all arms, and known
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        found = stats.dunnett(*groups, control=list(control), alternative="greater", rng=DUNNETT_SEED)
    by_name = dict(zip(names, map(float, found.pvalue), strict=True))
    return {name: by_name[name] for name in variants}


@dataclass(frozen=True)
class Spread:
    """The standard deviation between runs that differ in their seed only."""

    sd: float
    runs: int
    degrees: int  # of freedom


def pooled_spread(groups: Iterable[Sequence[float]]) -> Spread | None:
    """The spread within groups, pooled over them; None where no group has two runs that differ."""
    told = [group for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in told)
    squares = sum((len(group) - 1) * variance(group) for group in told)
    return Spread(sqrt(squares / degrees), sum(map(len, told)), degrees) if squares > 0 else None


def smallest_effect(sd: float, seeds: int, *, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest delta that so many paired runs tell from chance, one-sided, where runs have this spread.

    By the normal approximation, and as if every example there is had been asked: no protocol with these seeds finds
    less.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - level) + normal.inv_cdf(power)) * sd * sqrt(2 / seeds)


def control_runs(n_variants: int) -> int:
    """How many runs the control of many variants should have: the square-root rule (Bechhofer 1968)."""
    return max(1, ceil(sqrt(n_variants)))
