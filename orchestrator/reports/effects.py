"""What rounds say together of each task, variant and stage: the pooled delta, and how far it can be believed.

Deltas are of best token accuracy, one for every run that the records hold with a baseline of its own stage and seed.
Runs with equal fingerprints are one run, whatever their rounds are called. Variants that run by one protocol compute
the same, and count once among those tried. Nothing is left out: variants that compute nothing new, those that could
not be measured and those with a run that diverged or was stopped early have a row without a delta.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from orchestrator.findings.caveats import Caveat
from orchestrator.findings.records import Record
from orchestrator.points import rounded
from orchestrator.reports.gathering import RoundResults
from orchestrator.statistics.examples import Interval, is_clear
from orchestrator.statistics.seeds import AcrossSeeds, across_seeds, estimate_if_known
from orchestrator.statistics.variants import false_discovery
from orchestrator.views.shapes import RoundView
from worker.job import WITHOUT_A_NUMBER, Outcome

# of the pooled delta they are found anew, not_significant where there is an interval or a p-value
OF_ONE_RUN = {Caveat.SINGLE_SEED, Caveat.NOTHING_NEW, Caveat.NOT_SIGNIFICANT}


class Row(NamedTuple):
    """What is pooled: runs that differ in their seed alone."""

    task: str
    variant: str
    stage: str
    protocol: str | None


@dataclass(frozen=True)
class Effect:
    """A variant of a task at a stage, over all seeds and rounds of the report that ran it by the same protocol."""

    task: str
    variant: str
    stage: str
    protocol: str | None  # what its runs share but the seed; None: not known
    across: AcrossSeeds | None  # its distinct runs; None: none was measured, or some have no number
    interval: Interval | None  # 95 %
    p_value: float | None  # one-sided, that there is no gain
    repeats: int  # runs left out because they equal another
    seeds: tuple[int, ...]
    rounds: tuple[str, ...]
    protocols: int  # different batch sizes and validation sets among the runs
    decisions: Mapping[str, int]  # by verdict
    caveats: tuple[Caveat, ...]
    is_alone: bool = True  # no other protocol goes by the same task, variant and stage
    is_control: bool = False  # the baseline under another seed and name: its delta is noise
    # some run diverged or was stopped: the pooled delta of the others would flatter
    is_unnumbered: bool = False
    tried: int = 0  # variants measured on the task
    family: int = 0  # variants that the false-discovery rate is taken over
    # over all variants tried at this stage or before; where it confirms, of the task
    q_value: float | None = None

    @property
    def name(self) -> str:
        """The variant; with the beginning of the protocol where the name stands for several."""
        return (
            self.variant
            if self.is_alone or self.protocol is None
            else f"{self.variant} [{self.protocol[:6]}]"
        )

    @property
    def marked_name(self) -> str:
        """The name, for those who must not take a control arm for a variant."""
        return f"{self.name} (control)" if self.is_control else self.name

    @property
    def delta(self) -> float | None:
        return None if self.across is None else rounded(self.across.mean)


@dataclass(frozen=True)
class Report:
    """Rounds, and what they say together; effects by task, the best variant first, its stages in order."""

    rounds: tuple[RoundResults, ...]
    effects: tuple[Effect, ...]

    @property
    def tasks(self) -> dict[str, list[Effect]]:
        found: dict[str, list[Effect]] = {}
        for effect in self.effects:
            found.setdefault(effect.task, []).append(effect)
        return found

    @property
    def caveats(self) -> dict[Caveat, list[str]]:
        """The tasks that each caveat touches."""
        found: dict[Caveat, dict[str, None]] = {}
        for effect in self.effects:
            for caveat in effect.caveats:
                found.setdefault(caveat, {})[effect.task] = None
        return {caveat: list(found[caveat]) for caveat in sorted(found)}


def of_rounds(rounds: Sequence[RoundResults]) -> Report:
    """Pools whatever the rounds hold so far."""
    runs: dict[Row, list[Record]] = {}
    decisions: dict[Row, list[Record]] = {}
    for one in rounds:
        protocols: dict[tuple[tuple[str, str, str], int], str | None] = {}  # of this round's arms, by seed
        for record in one.jobs:
            if record["variant_of"] is not None:
                arm = (record["task"], record["config"], record["stage"])
                protocols[arm, record["seed"]] = record.get("protocol")
                runs.setdefault(Row(*arm, record.get("protocol")), []).append(record)
        for record in one.decisions:
            arm = (record["task"], record["config"], record["decided_stage"])
            protocol = protocols.get((arm, record["seed"]))
            decisions.setdefault(Row(*arm, protocol), []).append(record)
    pooled = [
        _effect(key, runs.get(key, ()), decisions.get(key, ())) for key in dict.fromkeys([*runs, *decisions])
    ]
    rows = Counter((one.task, one.variant, one.stage) for one in pooled)
    pooled = [replace(one, is_alone=rows[one.task, one.variant, one.stage] == 1) for one in pooled]
    controls = {(one.view.round, one.control) for one in rounds}
    pooled = [
        replace(one, is_control=any((name, one.variant) in controls for name in one.rounds)) for one in pooled
    ]
    return Report(tuple(rounds), tuple(_ordered(_in_company(pooled, rounds), stages_of(rounds))))


def stages_of(rounds: Sequence[RoundResults]) -> list[str]:
    """The stages of all rounds, each after those that it comes after in any of them."""
    order: list[str] = []
    for one in rounds:
        at = 0
        for stage in one.view.stages:
            if stage not in order:
                order.insert(at, stage)
            at = order.index(stage) + 1
    return order


def _effect(key: Row, runs: Sequence[Record], decisions: Sequence[Record]) -> Effect:
    task, variant, stage, protocol = key
    measured = [run for run in runs if run["d_acc"] is not None]
    known = {run["fingerprint"] for run in measured}
    is_unnumbered = any(_has_no_number(run) and run["fingerprint"] not in known for run in runs)
    distinct = [] if is_unnumbered else _distinct(measured)
    across = across_seeds([run["d_acc"] for run in distinct]) if distinct else None
    seeds = tuple(sorted({run["seed"] for run in distinct}))
    inherited = {Caveat(caveat) for record in (*runs, *decisions) for caveat in record["caveats"]}
    interval, p_value = (None, None)
    if across and Caveat.SELECTED_SEEDS not in inherited:  # else the seeds are those that did well before
        interval, p_value = _evidence(distinct, across)
    is_judged = interval is not None or p_value is not None
    anew = OF_ONE_RUN if is_judged else OF_ONE_RUN - {Caveat.NOT_SIGNIFICANT}
    found = {
        Caveat.SINGLE_SEED: len(seeds) == 1 or _are_one_run(distinct),
        Caveat.NOT_SIGNIFICANT: is_judged and (interval is None or not is_clear(interval, p_value)),
        Caveat.NOTHING_NEW: bool(distinct) and all(Caveat.NOTHING_NEW in run["caveats"] for run in distinct),
    }
    return Effect(
        task=task,
        variant=variant,
        stage=stage,
        protocol=protocol,
        across=across,
        interval=interval,
        p_value=p_value,
        repeats=len(measured) - len(known),
        seeds=seeds,
        rounds=tuple(dict.fromkeys(record["round"] for record in (*runs, *decisions))),
        protocols=len({(run["bsz"], run["n_val"], run["n_val_tokens"]) for run in distinct}),
        decisions=Counter(record["status"] for record in decisions),
        is_unnumbered=is_unnumbered,
        caveats=tuple(sorted((inherited - anew) | {each for each, holds in found.items() if holds})),
    )


def _distinct(measured: Sequence[Record]) -> list[Record]:
    """Each run once, by the record that knows most: where another metric decides, a delta has no errors."""
    found: dict[str, Record] = {}
    for run in measured:
        other = found.setdefault(run["fingerprint"], run)
        if _n_known(run) > _n_known(other):
            found[run["fingerprint"]] = run
    return list(found.values())


def _n_known(run: Record) -> int:
    return sum(run.get(name) is not None for name in ("d_acc_se", "d_acc_ci", "p_value"))


def _are_one_run(distinct: Sequence[Record]) -> bool:
    """Whether the seed changes nothing: where a step takes all examples, every seed's run is the same."""
    is_alone = all(Caveat.SINGLE_SEED in run["caveats"] for run in distinct)
    return is_alone and len({(run["d_acc"], run["d_loss"]) for run in distinct}) == 1


def _has_no_number(run: Record) -> bool:
    """Whether a run ended in a verdict without a number, or had its result from one that did."""
    is_cached = run["status"] == Outcome.CACHED and run["best_val_tok_acc"] is None
    return is_cached or run["status"] in WITHOUT_A_NUMBER


def _evidence(distinct: Sequence[Record], across: AcrossSeeds) -> tuple[Interval | None, float | None]:
    """Interval and p-value of the mean, over examples and seeds where the records know both.

    Records without standard errors over examples leave Student's interval and the sign test over the runs.
    """
    if len(distinct) == 1:
        interval = distinct[0].get("d_acc_ci")
        return interval and Interval(*interval), distinct[0].get("p_value")
    found = estimate_if_known([run["d_acc"] for run in distinct], [run.get("d_acc_se") for run in distinct])
    return (across.interval, across.sign_p) if found is None else (found.interval(), found.p_value)


RoundVariant = tuple[str, str, str]  # task, round and variant
# Task, stage and protocol; the effect's number where that is not known.
Experiment = tuple[str, str, str | int]
Tested = int | RoundVariant  # the number of an effect with a p-value, or what has none


def _in_company(effects: Sequence[Effect], rounds: Sequence[RoundResults]) -> list[Effect]:
    """The effects with what depends on how many there are.

    A variant that was tried and did not come to a later stage of its rounds is in that stage's family with p = 1,
    unless the stage confirms.
    """
    views = {one.view.round: one.view for one in rounds}
    tried: dict[str, set[RoundVariant]] = {}
    families: dict[tuple[str | None, str], dict[Tested, float]] = {}
    arms = _arms(effects)
    for effect, arm in zip(effects, arms, strict=True):
        if effect.is_control or (effect.across is None and not effect.is_unnumbered):
            continue
        tried.setdefault(effect.task, set()).add(arm)
        for view in (views[name] for name in effect.rounds):
            if effect.stage != view.confirm_stage:
                for stage in view.stages[view.stages.index(effect.stage) :]:
                    if stage != view.confirm_stage:
                        families.setdefault((None, stage), {})[arm] = 1.0
    place = [_family_of(effect, views) for effect in effects]
    speaker = _speakers(effects)
    for i in dict.fromkeys(speaker):
        effect, p_value = effects[i], _p_value(effects[i])
        if not effect.is_control and p_value is not None:
            family = families.setdefault(place[i], {})
            family.pop(arms[i], None)
            family[i] = p_value
    adjusted: dict[Tested, float] = {}
    for family in families.values():
        adjusted |= {tested: q for tested, q in false_discovery(family).items() if isinstance(tested, int)}
    return [
        replace(
            effect,
            tried=len(tried.get(effect.task, ())),
            family=len(families.get(place[i], ())),
            q_value=adjusted.get(speaker[i]),
        )
        for i, effect in enumerate(effects)
    ]


def _p_value(effect: Effect) -> float | None:
    return 1.0 if effect.is_unnumbered else effect.p_value  # tried, and no gain


def _arms(effects: Sequence[Effect]) -> list[RoundVariant]:
    """For each effect its variant, in one round of those that ran the same: by one protocol at some stage."""
    others: dict[RoundVariant, RoundVariant] = {}

    def last(arm: RoundVariant) -> RoundVariant:
        while arm in others:
            arm = others[arm]
        return arm

    alike: dict[Experiment, RoundVariant] = {}
    for i, effect in enumerate(effects):
        for name in effect.rounds:  # within a round a name stands for one variant
            here = last((effect.task, name, effect.variant))
            there = last(alike.setdefault(_experiment(effect, i), here))
            if here != there:
                others[here] = there
    return [last((one.task, one.rounds[0], one.variant)) for one in effects]


def _speakers(effects: Sequence[Effect]) -> list[int]:
    """For each effect the number of the one that speaks for all that compute the same.

    It has a run without a number, if any has, else a p-value, and the most runs.
    """
    found: dict[Experiment, int] = {}
    for i, effect in enumerate(effects):
        other = found.setdefault(_experiment(effect, i), i)
        if _weight(effect) > _weight(effects[other]):
            found[_experiment(effect, i)] = i
    return [found[_experiment(effect, i)] for i, effect in enumerate(effects)]


def _weight(effect: Effect) -> tuple[bool, bool, int]:
    return effect.is_unnumbered, effect.p_value is not None, effect.across.n if effect.across else 0


def _experiment(effect: Effect, i: int) -> Experiment:
    """What an effect, the i-th, has in common with those that compute the same."""
    return effect.task, effect.stage, effect.protocol or i


def _family_of(effect: Effect, views: Mapping[str, RoundView]) -> tuple[str | None, str]:
    """The stage; with the task where it confirms."""
    confirms = any(views[name].confirm_stage == effect.stage for name in effect.rounds)
    return (effect.task if confirms else None), effect.stage


def _ordered(effects: Sequence[Effect], stages: Sequence[str]) -> list[Effect]:
    """By task in the order of the rounds; variants by how they did at the last stage they reached."""
    tasks = list(dict.fromkeys(effect.task for effect in effects))
    reached: dict[tuple[str, str], tuple[int, float]] = {}
    for effect in effects:
        if effect.delta is not None:
            arm = (effect.task, effect.variant)
            reached[arm] = max(reached.get(arm, (-1, 0.0)), (stages.index(effect.stage), effect.delta))

    def place(effect: Effect) -> tuple[int, int, float, str, int]:
        depth, delta = reached.get((effect.task, effect.variant), (-1, 0.0))
        return tasks.index(effect.task), -depth, -delta, effect.variant, stages.index(effect.stage)

    return sorted(effects, key=place)
