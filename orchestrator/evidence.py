"""What a decision's delta rests on: every seed with its interval, and all of them together.

Computed once, when the decision falls, and stored with it: whatever shows the delta shows the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.points import rounded
from orchestrator.statistics.examples import Comparison, Interval, Outcomes, compare
from orchestrator.statistics.seeds import estimate_if_known
from worker.job import Strict


@dataclass(frozen=True)
class Pair:
    """A variant's run and its baseline's, with the rule's metric."""

    seed: int
    delta: float
    variant: Outcomes | None  # None: what was right of each example is not known
    baseline: Outcomes | None
    fingerprints: tuple[str, str]


class SeedEvidence(Strict):
    """One seed's delta."""

    seed: int
    d_acc: float
    d_acc_ci: tuple[float, float] | None = None  # over examples
    p_value: float | None = None
    standard_error: float | None = None


class Evidence(Strict):
    """A decision's delta; without an interval where outcomes per example are not known."""

    d_acc_ci: tuple[float, float] | None = None  # 95 %; over examples, with several seeds over these too
    p_value: float | None = None  # one-sided
    seeds: tuple[SeedEvidence, ...]

    @property
    def by_seed(self) -> dict[int, SeedEvidence]:
        return {one.seed: one for one in self.seeds}


def of_pairs(pairs: Sequence[Pair]) -> Evidence:
    """The evidence on a variant at a stage, from at least one seed."""
    seeds = tuple(_of_seed(pair) for pair in pairs)
    if len(seeds) == 1:
        return Evidence(d_acc_ci=seeds[0].d_acc_ci, p_value=seeds[0].p_value, seeds=seeds)
    found = estimate_if_known([one.d_acc for one in seeds], [one.standard_error for one in seeds])
    if found is None:
        return Evidence(seeds=seeds)
    return Evidence(d_acc_ci=_rounded(found.interval()), p_value=found.p_value, seeds=seeds)


def _of_seed(pair: Pair) -> SeedEvidence:
    found: Comparison | None = None
    if pair.variant is not None and pair.baseline is not None:
        found = compare(pair.variant, pair.baseline, pair.fingerprints)
    if found is None:
        return SeedEvidence(seed=pair.seed, d_acc=pair.delta)
    return SeedEvidence(
        seed=pair.seed,
        d_acc=pair.delta,
        d_acc_ci=_rounded(found.interval),
        p_value=found.p_value,
        standard_error=found.standard_error,
    )


def _rounded(interval: Interval) -> tuple[float, float]:
    return rounded(interval.low), rounded(interval.high)
