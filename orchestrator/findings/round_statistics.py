"""What a round's decisions say together: over seeds, over all variants tried, and against the spread between runs.

The family of the false-discovery control at a stage that selects is every (task, variant) that was tried at the first
stage, the control arm left out, and variants that compute the same once: those that did not come so far, diverged or
were stopped count with p = 1, or a later stage would judge the best on the data they were chosen by. Where a stage
confirms, it is the one that decided: the task's candidates, with p = 1 those that diverged there.
That of the comparison with the control is all variants of a task that reached the last stage that selects. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from orchestrator.evidence import Evidence, SeedEvidence
from orchestrator.findings import caveats
from orchestrator.points import rounded
from orchestrator.search import JobKey, Measurement, SearchSpec
from orchestrator.statistics.seeds import AcrossSeeds, across_seeds, estimate_if_known
from orchestrator.statistics.variants import Spread, dunnett, false_discovery, holm
from worker.job import BASELINE, WITHOUT_A_NUMBER


class Arm(NamedTuple):
    """A variant of a task at a stage, all seeds together."""

    task: str
    stage: str
    variant: str


class Adjusted(NamedTuple):
    """A p-value adjusted for all variants that reached the last stage."""

    p_value: float
    by: Literal["dunnett", "holm"]


@dataclass(frozen=True)
class RoundStatistics:
    """What there is to say of each arm that was decided."""

    seeds: Mapping[Arm, AcrossSeeds] = field(default_factory=dict)
    counts: Mapping[Arm, caveats.Seeds] = field(default_factory=dict)
    selected: frozenset[Arm] = frozenset()  # those with fewer seeds than at the first stage, the best of them
    q_values: Mapping[Arm, float] = field(default_factory=dict)
    tried: Mapping[tuple[str, str], int] = field(default_factory=dict)  # by task and stage: the family's size
    # by stage that confirms: what a q-value was held to
    levels: Mapping[str, float] = field(default_factory=dict)
    adjusted: Mapping[Arm, Adjusted] = field(default_factory=dict)
    spreads: Mapping[tuple[str, str], Spread] = field(default_factory=dict)  # by task and stage

    def of(self, key: JobKey) -> dict[str, Any]:
        """The part of a decision's record that rests on more than the decision."""
        arm = Arm(key.task, key.stage, key.variant)
        seeds, adjusted = self.seeds.get(arm), self.adjusted.get(arm)
        spread = self.spreads.get((key.task, key.stage))
        is_selected = arm in self.selected
        interval = None if is_selected or seeds is None else seeds.interval
        return {
            "n_seeds": seeds and seeds.n,
            "d_acc_mean": seeds and rounded(seeds.mean),
            "d_acc_sd": seeds and seeds.sd,
            "d_acc_t_ci": interval and [rounded(end) for end in interval],
            "seed_pattern": seeds and seeds.pattern,
            "positive_seeds": seeds and seeds.positive,
            "sign_test_p": None if is_selected or seeds is None else seeds.sign_p,
            "q_value": self.q_values.get(arm),
            "n_tried": self.tried.get((key.task, key.stage)),
            "q_level": self.levels.get(key.stage),
            "adjusted_p": adjusted and adjusted.p_value,
            "adjusted_by": adjusted and adjusted.by,
            "run_sd": spread and spread.sd,
            "run_sd_degrees": spread and spread.degrees,
        }


def seeds_of(arm: Arm, search: SearchSpec, measured: Counter[Arm], unnumbered: Counter[Arm]) -> caveats.Seeds:
    """How many seeds of an arm have numbers, and how many were tried at the first stage: with a verdict, too."""
    first = arm._replace(stage=search.stages[0])
    return caveats.Seeds(measured[arm], measured[first] + unnumbered[first])


def of_round(
    search: SearchSpec,
    decided: Iterable[tuple[JobKey, Evidence]],
    measured: Mapping[JobKey, Measurement],
    spreads: Mapping[tuple[str, str], Spread],
) -> RoundStatistics:
    """From what every decision with a delta rests on, the scores of the round's jobs, and the spread between runs."""
    by_arm: dict[Arm, list[SeedEvidence]] = {}
    for key, evidence in decided:
        by_arm.setdefault(Arm(key.task, key.stage, key.variant), []).extend(evidence.seeds)
    unnumbered = Counter(
        Arm(key.task, key.stage, key.variant)
        for key, found in measured.items()
        if found.outcome in WITHOUT_A_NUMBER and key.variant != BASELINE
    )
    n_measured = Counter({arm: len(seeds) for arm, seeds in by_arm.items()})
    # the other seeds of an arm would flatter it
    by_arm = {arm: seeds for arm, seeds in by_arm.items() if arm not in unnumbered}
    counts = {arm: seeds_of(arm, search, n_measured, unnumbered) for arm in by_arm}
    selected = frozenset(arm for arm, n in counts.items() if caveats.are_selected(search, arm.stage, n))
    p_values = dict.fromkeys(unnumbered, 1.0) | {  # tried, and no gain
        arm: p for arm, seeds in by_arm.items() if arm not in selected and (p := _p_value(seeds)) is not None
    }
    tried = {arm: p for arm, p in p_values.items() if arm.variant != search.control}
    q_values: dict[Arm, float] = {}
    sizes: dict[tuple[str, str], int] = {}
    at_first = [
        arm
        for arm in (*by_arm, *unnumbered)
        if arm.stage == search.stages[0] and arm.variant != search.control
    ]
    for tasks, stage in _families(search):
        here = {arm: p for arm, p in tried.items() if arm.stage == stage and arm.task in tasks}
        # of arms that compute the same, the one with the most seeds: while a round runs, one may be ahead
        furthest = sorted(here, key=lambda arm: len(by_arm.get(arm, ())))
        family = {_first(search, arm): here[arm] for arm in furthest}
        if stage in search.stages:
            family = {_first(search, arm)._replace(stage=stage): 1.0 for arm in at_first} | family
        found = false_discovery(family)
        q_values |= {arm: found[_first(search, arm)] for arm in here}
        sizes |= {(task, stage): len(family) for task in tasks}
    return RoundStatistics(
        seeds={arm: across_seeds([one.d_acc for one in seeds]) for arm, seeds in by_arm.items()},
        selected=selected,
        counts=counts,
        q_values=q_values,
        tried=sizes,
        levels={} if search.confirmation is None else {search.confirmation.stage: search.confirmation.level},
        adjusted=_at_last(search, by_arm, unnumbered, tried, measured),
        spreads=spreads,
    )


def _at_last(
    search: SearchSpec,
    by_arm: Mapping[Arm, Sequence[SeedEvidence]],
    unnumbered: Collection[Arm],
    tried: Mapping[Arm, float],
    measured: Mapping[JobKey, Measurement],
) -> dict[Arm, Adjusted]:
    """The p-values of the last stage that selects, adjusted for all variants of the task that reached it."""
    found: dict[Arm, Adjusted] = {}
    last = search.stages[-1]
    for task in search.tasks:
        own = {arm.variant: p for arm, p in tried.items() if (arm.task, arm.stage) == (task, last)}
        # the best seeds of a variant have no p of their own, but it was tried there
        reached = {
            arm.variant: own.get(arm.variant, 1.0)
            for arm in (*by_arm, *unnumbered)
            if (arm.task, arm.stage) == (task, last) and arm.variant != search.control
        }
        are_whole = not any((task, last, variant) in unnumbered for variant in reached)
        furthest = sorted(reached, key=lambda name: len(by_arm.get(Arm(task, last, name), ())))
        # for all that compute the same, as in a family
        speaker = {search.first(name): name for name in furthest}
        different = {name: reached[name] for name in speaker.values()}
        by_name = _adjusted(search, task, different, measured if are_whole else {})
        found |= {Arm(task, last, name): by_name[speaker[search.first(name)]] for name in own}
    return found


def _first(search: SearchSpec, arm: Arm) -> Arm:
    """The arm that this one computes the same as, or itself."""
    return arm._replace(variant=search.first(arm.variant))


def _families(search: SearchSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    """The tasks and the stage of what is counted together."""
    for stage in search.stages:
        yield search.tasks, stage
    if search.confirmation is not None:
        for task in search.tasks:
            yield (task,), search.confirmation.stage


def _p_value(seeds: Sequence[SeedEvidence]) -> float | None:
    """Of an arm's gain: over examples for one seed, over these and seeds for several; None where not known."""
    if len(seeds) == 1:
        return seeds[0].p_value
    found = estimate_if_known([one.d_acc for one in seeds], [one.standard_error for one in seeds])
    return None if found is None else found.p_value


def _adjusted(
    search: SearchSpec, task: str, p_values: Mapping[str, float], measured: Mapping[JobKey, Measurement]
) -> dict[str, Adjusted]:
    """By Holm from the paired p-values, or by Dunnett where that gives more.

    Dunnett's test, of a few variants where the control has the runs for it, knows the chance between runs on these
    examples, a paired p-value of one seed that of the examples: a gain is beyond both. measured: empty where some arm
    has no number, for the scores of its runs are not known.
    """

    def scores(variant: str) -> list[float]:
        keys = (
            JobKey(task, search.stages[-1], variant, seed) for seed in (*search.seeds, *search.baseline_seeds)
        )
        found = (measured[key].score for key in keys if key in measured)
        return [score for score in found if score is not None]

    by_runs = dunnett({variant: scores(variant) for variant in p_values}, scores(BASELINE))
    return {
        variant: max(Adjusted(p, "holm"), Adjusted(by_runs.get(variant, 0.0), "dunnett"))
        for variant, p in holm(p_values).items()
    }
