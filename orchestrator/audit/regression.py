"""Regression to the mean: how far the gain at one stage tells the gain at the next.

Gains that were chosen because they were large are too large; the next stage shows it. Pearson's correlation asks for
a straight line, Spearman's for an order, the slope says what is left of each point gained. None of the three tells a
small true effect from none, and stages that share seed, data and evaluations are not independent: rows in which
nothing changed at all raise the correlation, so it is also given without them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from statistics import mean, median
from typing import NamedTuple

from orchestrator.audit.comparisons import (
    Comparison,
    Step,
    comparisons,
    family_of,
    first_stages,
    grouped,
    populations,
    setting_of,
)
from orchestrator.audit.finding import Check, Finding
from orchestrator.history.entries import History, LedgerRow, Run
from orchestrator.history.predecessor import ARC_MC
from orchestrator.points import points

FEWEST = 8  # pairs for a correlation
FEWEST_BASELINES = 5


class Relation(NamedTuple):
    """How two lists of numbers go together."""

    n: int
    pearson: float
    spearman: float
    slope: float  # of the second on the first

    def __str__(self) -> str:
        correlations = f"Pearson {self.pearson:+.3f}, Spearman {self.spearman:+.3f}"
        return f"{correlations}, slope {self.slope:+.3f} over {self.n} pairs"


def relation(first: Sequence[float], second: Sequence[float]) -> Relation | None:
    """How two lists go together; None where one of them does not vary, or has fewer than three numbers."""
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy import stats  # slow to import

    with warnings.catch_warnings(action="ignore"):  # of numbers that vary by next to nothing
        line = stats.linregress(first, second)
        order = stats.spearmanr(first, second).statistic
    found = Relation(len(first), float(line.rvalue), float(order), float(line.slope))
    return found if all(map(math.isfinite, found)) else None


def judge(history: History) -> Iterator[Finding]:
    """Of each population and family: the correlation of stages, and how much smaller later deltas are."""
    for name, steps in populations(history):
        yield from _of(name, steps)
        changed = [step for step in steps if step.earlier != step.later]
        if len(changed) < len(steps):
            yield from _of(f"{name}, without exact replays", changed)
        for family, group in sorted(grouped(steps, lambda step: step.family).items()):
            if len(group) < len(steps):
                yield from _of(f"{name}, {family}", group)
                others = [step for step in steps if step.family != family]
                if family == ARC_MC:
                    yield from _of(f"{name}, without {family}", others)
    yield from _of_ledger(history.ledger)
    yield from _lucky_baselines(history.runs)
    yield from _chosen(history.runs)


def _of(name: str, steps: Sequence[Step]) -> Iterator[Finding]:
    found = relation([step.earlier for step in steps], [step.later for step in steps])
    if found is None or found.n < FEWEST:
        return
    earlier, later = mean(step.earlier for step in steps), mean(step.later for step in steps)
    yield Finding(
        Check.REGRESSION,
        f"{name}: later against earlier delta, {found}; the mean goes from {points(earlier)} to {points(later)}",
        [record for step in steps for record in step.records],
        {**found._asdict(), "earlier_mean": earlier, "later_mean": later},
    )


def _of_ledger(rows: Sequence[LedgerRow]) -> Iterator[Finding]:
    """How the deltas of the ledger lie, every quick one of which is the best of several candidates."""
    quick = [row.quick_delta for row in rows]
    med = [row.med_delta for row in rows if row.med_delta is not None]
    if quick and med:
        yield Finding(
            Check.REGRESSION,
            f"ledger: the best quick deltas are {_spread(quick)}; the med deltas of those followed up {_spread(med)}",
            [row.source for row in rows],
            {"quick": len(quick), "quick_mean": mean(quick), "med": len(med), "med_mean": mean(med)},
        )


def _spread(deltas: Sequence[float]) -> str:
    up, down = sum(delta > 0 for delta in deltas), sum(delta < 0 for delta in deltas)
    return (
        f"{up} up, {len(deltas) - up - down} zero, {down} down (mean {points(mean(deltas))}, "
        f"median {points(median(deltas))})"
    )


def _lucky_baselines(runs: Sequence[Run]) -> Iterator[Finding]:
    """Where a low baseline comes with a high delta, part of the delta is the baseline's bad luck."""
    quick = _at_first_stages(runs)
    for task, group in sorted(grouped(quick, lambda each: family_of(each.variant)).items()):
        best: dict[tuple[float | None, float | None], Comparison] = {}
        for each in group:  # a baseline that was run again is one baseline
            key = (each.baseline.loss, each.baseline.accuracy)
            if key not in best or each.delta > best[key].delta:
                best[key] = each
        found = relation([b.baseline.score for b in best.values()], [b.delta for b in best.values()])
        if found is not None and found.n >= FEWEST_BASELINES:
            yield Finding(
                Check.REGRESSION,
                f"records, {task}: best delta against its own baseline's accuracy, {found}",
                [record for each in best.values() for record in each.records],
                found._asdict(),
            )


def _chosen(runs: Sequence[Run]) -> Iterator[Finding]:
    """All first-stage deltas beside the best of each task: what choosing alone adds."""
    quick = _at_first_stages(runs)
    groups = grouped(quick, lambda each: setting_of(each.variant))
    best = [max(each.delta for each in group) for group in groups.values()]
    if len(quick) > len(best) >= FEWEST_BASELINES:
        deltas = [each.delta for each in quick]
        yield Finding(
            Check.REGRESSION,
            f"records: all {len(quick)} first-stage deltas are {_spread(deltas)}; the best of each of {len(best)} "
            f"tasks, seeds and batch sizes is {points(mean(best))} on average",
            [record for each in quick for record in each.records],
            {"n": len(quick), "mean": mean(deltas), "best": len(best), "best_mean": mean(best)},
        )


def _at_first_stages(runs: Sequence[Run]) -> list[Comparison]:
    first = first_stages(runs)
    return [each for each in comparisons(runs) if each.variant.stage == first[each.variant.round]]
