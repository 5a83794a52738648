"""What should exist, given what has finished: the whole orchestration as one pure function.

A *lane* is what is worked through one job at a time, whatever happens elsewhere: a (task, seed), or the whole
task where something is decided over seeds. Its order: the baseline's first stage; then for each variant its first
stage and the decision, and as long as it is promoted the next stage's baseline (once) and the variant there, before
the next variant. A rule over seeds asks for a variant's seeds one by one; one that compares variants goes stage by
stage. Then come the confirmation of what is left, and further runs of the baseline. One lane at a time over the whole
round; with `parallel`, all of them side by side.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.judged import Judged
from orchestrator.rules import Rivals, Scope
from orchestrator.search import Confirmation, Decision, JobKey, Lane, Measurement, SearchSpec
from orchestrator.statistics.variants import false_discovery
from orchestrator.verdicts import Verdict
from worker.job import BASELINE


class State(StrEnum):
    ACTIVE = "active"  # some job has yet to finish
    FINISHED = "finished"  # everything is decided


@dataclass(frozen=True)
class Plan:
    """Every job that should exist (finished ones included) and every decision that follows, in order.

    `open_lanes` are those in which something has yet to finish.
    """

    steps: tuple[JobKey | Decision, ...]
    open_lanes: frozenset[Lane]

    @property
    def jobs(self) -> tuple[JobKey, ...]:
        return tuple(step for step in self.steps if isinstance(step, JobKey))

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(step for step in self.steps if isinstance(step, Decision))

    @property
    def state(self) -> State:
        return State.ACTIVE if self.open_lanes else State.FINISHED


def plan(spec: SearchSpec, results: Mapping[JobKey, Measurement]) -> Plan:
    """Derives jobs, decisions and state from the finished jobs; the same for any order in which they came.

    Raises RuleFailed.
    """
    steps: list[JobKey | Decision] = []
    open_lanes: list[Lane] = []
    for lane in spec.lanes:
        if open_lanes and not spec.parallel:
            open_lanes.append(lane)
            continue
        walk = _Walk(spec.of_lane(lane), lane.task, results)
        steps.extend(walk.steps())
        if walk.is_waiting:
            open_lanes.append(lane)
    return Plan(tuple(steps), frozenset(open_lanes))


Steps = Iterator[JobKey | Decision]


class _Walk:
    """One lane, walked as far as the results reach."""

    def __init__(self, spec: SearchSpec, task: str, results: Mapping[JobKey, Measurement]) -> None:
        self.spec, self.task, self.results = spec, task, results
        self.baselines: dict[tuple[str, int], None] = {}  # stages and seeds whose baseline was asked for
        self.promotions: dict[str, int] = dict.fromkeys(spec.candidates, 0)  # at the last stage that selects
        self.is_waiting = False

    def steps(self) -> Steps:
        """The lane's jobs and decisions in order, up to the first job that has not finished."""
        is_per_seed = self.spec.rule.scope is Scope.SEED
        for seeds in [(seed,) for seed in self.spec.seeds] if is_per_seed else [self.spec.seeds]:
            if not self.is_waiting:
                yield from self._search(seeds)
        if self.spec.confirmation is not None and not self.is_waiting:
            yield from self._confirm(self.spec.confirmation)
        for seed in self.spec.baseline_seeds:
            for stage in self._stages_reached():
                if not self.is_waiting:
                    yield from self._baseline(stage, seed)

    def _search(self, seeds: Sequence[int]) -> Steps:
        """What the rule judges together: one seed, or all of them."""
        first = self.spec.stages[0]
        yield from self._baseline(first, seeds[0])
        if self.spec.rule.scope is Scope.STAGE:
            yield from self._by_stage(seeds)
            return
        for variant in self.spec.variants:
            if self.is_waiting:
                return
            if variant in self.spec.no_ops:
                yield self._no_op(variant, seeds)
            else:
                yield from self._climb(variant, seeds)

    def _climb(self, variant: str, seeds: Sequence[int]) -> Steps:
        """A variant, stage by stage, for as long as it is promoted."""
        for stage in self.spec.stages:
            decision = yield from self._judge_alone(stage, variant, seeds)
            if decision is None or decision.verdict is not Verdict.PROMOTED:
                return

    def _judge_alone(
        self, stage: str, variant: str, seeds: Sequence[int]
    ) -> Generator[JobKey | Decision, None, Decision | None]:
        """A variant at a stage, seed by seed until there is a verdict; None while something has yet to finish."""
        judged = Judged(self.spec, JobKey(self.task, stage, variant, seeds[0]))
        for seed in self._cheapest_first(stage, seeds):
            if not (yield from self._measure(judged, seed)):
                return None
            if decision := judged.decide(is_last=len(judged.trials) == len(seeds)):
                return (yield from self._decided(decision))
        raise AssertionError("the last seed settles it")

    def _by_stage(self, seeds: Sequence[int]) -> Steps:
        """All variants of a stage, then the decisions on them, before the next stage."""
        if self.is_waiting:
            return
        for variant in self.spec.variants:
            if variant in self.spec.no_ops:
                yield self._no_op(variant, seeds)
        alive = list(self.spec.arms[1:])
        for stage in self.spec.stages:
            measured = [Judged(self.spec, JobKey(self.task, stage, variant, seeds[0])) for variant in alive]
            for judged in measured:
                for seed in seeds:
                    if judged.failure is None and not (yield from self._measure(judged, seed)):
                        return
            alive = []
            field: dict[str, Judged] = {}  # what computes the same takes one place
            for judged in measured:
                if judged.is_rival:
                    field.setdefault(self.spec.first(judged.key.variant), judged)
            places = {name: place for place, name in enumerate(field)}
            everyone = Rivals.of([rival.trials for rival in field.values()])
            for judged in measured:
                place = places.get(self.spec.first(judged.key.variant))
                rivals = everyone.but_the_worst() if place is None else everyone.without(place)
                decision = judged.decide(is_last=True, rivals=rivals)
                assert decision is not None  # noqa: S101  (after the last seed there is one)
                yield from self._decided(decision)
                if decision.verdict is Verdict.PROMOTED:
                    alive.append(judged.key.variant)

    def _confirm(self, last: Confirmation) -> Steps:
        """What most seeds promoted, on all fresh seeds; then the decisions on all of it together."""
        searches = len(self.spec.seeds) if self.spec.rule.scope is Scope.SEED else 1
        chosen = [variant for variant, count in self.promotions.items() if 2 * count > searches]
        measured = [Judged(self.spec, JobKey(self.task, last.stage, name, last.seeds[0])) for name in chosen]
        for judged in measured:
            for seed in last.seeds:
                if judged.failure is None and not (yield from self._measure(judged, seed)):
                    return
        p_values = {one.key.variant: one.p_value for one in measured if one.is_tried}
        for judged in measured:
            if judged.failure is None and p_values[judged.key.variant] is None:
                judged.fail(Verdict.UNDECIDED, "how far the choice of examples moves its delta is not known")
        first = self.spec.first
        discoveries = false_discovery({first(name): p for name, p in p_values.items() if p is not None})
        for judged in measured:
            yield judged.confirm(discoveries.get(first(judged.key.variant)), last.level)

    def _measure(self, judged: Judged, seed: int) -> Generator[JobKey | Decision, None, bool]:
        """Asks for a variant's run and the baseline's; True once both have ended, whatever came of them."""
        key = judged.key._replace(seed=seed)
        yield from self._baseline(key.stage, seed)
        baseline = self.results.get(key._replace(variant=BASELINE))
        if baseline is None:
            return False
        if not baseline.is_measured:
            judged.fail(Verdict.UNDECIDED, f"the {key.stage} baseline failed: {baseline.failure}")
            return True
        yield self._ask(key)
        result = self.results.get(key)
        if result is None:
            return False
        judged.add(seed, result, baseline)
        return True

    def _decided(self, decision: Decision) -> Generator[JobKey | Decision, None, Decision]:
        variant, is_last = decision.key.variant, decision.key.stage == self.spec.stages[-1]
        if is_last and decision.verdict is Verdict.PROMOTED and variant in self.promotions:
            self.promotions[variant] += 1
        yield decision
        return decision

    def _no_op(self, variant: str, seeds: Sequence[int]) -> Decision:
        key = JobKey(self.task, self.spec.stages[0], variant, seeds[0])
        return Decision(key, Verdict.NO_OP, "computes the same as the baseline on this model")

    def _cheapest_first(self, stage: str, seeds: Sequence[int]) -> list[int]:
        """Seeds whose baseline is there already cost one run, the others two."""
        return sorted(seeds, key=lambda seed: (stage, seed) not in self.baselines)

    def _stages_reached(self) -> list[str]:
        return [stage for stage in self.spec.stages if any(stage == reached for reached, _ in self.baselines)]

    def _baseline(self, stage: str, seed: int) -> Iterator[JobKey]:
        if (stage, seed) not in self.baselines:
            self.baselines[stage, seed] = None
            yield self._ask(JobKey(self.task, stage, BASELINE, seed))

    def _ask(self, key: JobKey) -> JobKey:
        self.is_waiting = self.is_waiting or key not in self.results
        return key
