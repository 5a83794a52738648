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
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import fmean
from typing import Any, NamedTuple

from orchestrator.messages import one_line
from orchestrator.points import difference, points, rounded
from orchestrator.rules import Rivals, Rule, RuleFailed, Ruling, Scope, Threshold, Trial
from orchestrator.statistics.examples import Outcomes, standard_error
from orchestrator.statistics.seeds import estimate_if_known
from orchestrator.statistics.variants import false_discovery
from orchestrator.verdicts import Verdict
from worker.job import BASELINE, Outcome, in_words


class JobKey(NamedTuple):
    """What names a job within its round."""

    task: str
    stage: str
    variant: str
    seed: int


class Lane(NamedTuple):
    """A part of a round that is planned by itself: other parts only decide when its jobs come."""

    task: str
    seed: int | None  # None: all of the task's


@dataclass(frozen=True)
class Measurement:
    """How a job ended: with a score and a loss when it was measured, else with the reason why not."""

    outcome: Outcome
    score: float | None = None  # the rule's metric, a fraction
    loss: float | None = None  # nats per answer token
    reason: str | None = None
    outcomes: Outcomes | None = None  # by the rule's metric; None where they are not known, or not asked for

    @property
    def is_measured(self) -> bool:
        return self.score is not None

    @property
    def failure(self) -> str:
        return f"{self.outcome}: {self.reason}" if self.reason else str(self.outcome)


@dataclass(frozen=True)
class Decision:
    """A verdict on a variant at a stage, with its deltas (variant minus baseline) where both were measured.

    Over several seeds, the key has the first of them and the deltas are means.
    """

    key: JobKey
    verdict: Verdict
    reason: str
    d_acc: float | None = None
    d_loss: float | None = None
    seeds: tuple[int, ...] = ()  # that it rests on; empty: the key's alone


class State(StrEnum):
    ACTIVE = "active"  # some job has yet to finish
    FINISHED = "finished"  # everything is decided


@dataclass(frozen=True)
class Confirmation:
    """The last stage, for what the stages before it promoted: fresh seeds on validation data of its own."""

    stage: str
    seeds: tuple[int, ...]
    level: float = 0.05  # share of false ones among the confirmed, at most


@dataclass(frozen=True)
class SearchSpec:
    """The part of a round that the planner needs."""

    tasks: tuple[str, ...]
    variants: tuple[str, ...]  # a control arm among them
    stages: tuple[str, ...]  # that select
    seeds: tuple[int, ...] = (0,)
    no_ops: frozenset[str] = frozenset()
    rule: Rule = field(default_factory=Threshold)
    parallel: bool = False
    baseline_seeds: tuple[int, ...] = ()  # further ones, that only the baseline is run with
    confirmation: Confirmation | None = None
    control: str | None = None  # the variant that is the baseline under another seed
    same_as: Mapping[str, str] = field(default_factory=dict)  # variants that compute what an earlier one does

    @property
    def lanes(self) -> tuple[Lane, ...]:
        seeds = self.seeds if self.is_per_seed else (None,)
        return tuple(Lane(task, seed) for task in self.tasks for seed in seeds)

    @property
    def is_per_seed(self) -> bool:
        """Whether nothing is decided, or measured, for several seeds together."""
        return self.rule.scope is Scope.SEED and not self.baseline_seeds and self.confirmation is None

    def lane_of(self, task: str, seed: int) -> Lane:
        """The lane that a job belongs to."""
        return Lane(task, seed if self.is_per_seed else None)

    def of_lane(self, lane: Lane) -> SearchSpec:
        """One lane of it."""
        return replace(self, tasks=(lane.task,), seeds=self.seeds if lane.seed is None else (lane.seed,))

    @property
    def all_stages(self) -> tuple[str, ...]:
        """With the one that confirms."""
        return self.stages if self.confirmation is None else (*self.stages, self.confirmation.stage)

    @property
    def arms(self) -> tuple[str, ...]:
        """The baseline, and every variant that is trained."""
        return (BASELINE, *(name for name in self.variants if name not in self.no_ops))

    @property
    def candidates(self) -> tuple[str, ...]:
        """The variants that are tried: neither no-ops nor the control."""
        return tuple(name for name in self.arms[1:] if name != self.control)

    @property
    def rivals(self) -> frozenset[str]:
        """Its candidates, those that compute the same once."""
        return frozenset(self.first(name) for name in self.candidates)

    @property
    def distinct(self) -> SearchSpec:
        """Without the variants that compute what an earlier one does: they have its runs and verdicts."""
        variants = tuple(name for name in self.variants if name not in self.same_as)
        return replace(self, variants=variants, same_as={})

    def first(self, variant: str) -> str:
        """The variant that this one computes the same as, or itself: what is counted of all that were tried."""
        return self.same_as.get(variant, variant)

    def largest_plan(self) -> Iterator[JobKey]:
        """Every job there is when every variant is promoted at every stage."""
        for task in self.tasks:
            for seed in self.seeds:
                for variant in self.arms:
                    yield from (JobKey(task, stage, variant, seed) for stage in self.stages)
            for seed in self.baseline_seeds:
                yield from (JobKey(task, stage, BASELINE, seed) for stage in self.stages)
            if (last := self.confirmation) is not None:
                for seed in last.seeds:
                    for variant in (BASELINE, *self.candidates):
                        yield JobKey(task, last.stage, variant, seed)

    @property
    def most_jobs(self) -> int:
        """How many these are."""
        of_task = (len(self.seeds) * len(self.arms) + len(self.baseline_seeds)) * len(self.stages)
        if self.confirmation is not None:
            of_task += len(self.confirmation.seeds) * (1 + len(self.candidates))
        return len(self.tasks) * of_task


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
        judged = _Judged(self.spec, JobKey(self.task, stage, variant, seeds[0]))
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
            measured = [_Judged(self.spec, JobKey(self.task, stage, variant, seeds[0])) for variant in alive]
            for judged in measured:
                for seed in seeds:
                    if judged.failure is None and not (yield from self._measure(judged, seed)):
                        return
            alive = []
            field: dict[str, _Judged] = {}  # what computes the same takes one place
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
        measured = [_Judged(self.spec, JobKey(self.task, last.stage, name, last.seeds[0])) for name in chosen]
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

    def _measure(self, judged: _Judged, seed: int) -> Generator[JobKey | Decision, None, bool]:
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


VERDICTS_WITHOUT_A_NUMBER = {Outcome.DIVERGED, Outcome.STOPPED}


class _Judged:
    """A variant at a stage: its trials so far, and what follows from them."""

    def __init__(self, spec: SearchSpec, key: JobKey) -> None:
        self.spec, self.key = spec, key
        self.trials: list[Trial] = []
        self.losses: list[float | None] = []
        self.failure: tuple[Verdict, str] | None = None  # a run that ended without a number

    def add(self, seed: int, variant: Measurement, baseline: Measurement) -> None:
        """One more seed, against a measured baseline."""
        if variant.outcome in VERDICTS_WITHOUT_A_NUMBER:
            self.fail(self._failed, variant.failure)
        elif variant.score is None or baseline.score is None:
            self.fail(Verdict.UNDECIDED, variant.failure)
        else:
            error = _standard_error(variant.outcomes, baseline.outcomes)
            self.trials.append(Trial(seed, difference(variant.score, baseline.score), error))
            if variant.loss is None or baseline.loss is None:
                self.losses.append(None)
            else:
                self.losses.append(difference(variant.loss, baseline.loss))

    def fail(self, verdict: Verdict, reason: str) -> None:
        self.failure = verdict, reason

    @property
    def is_rival(self) -> bool:
        """Whether others are compared with it; the control takes no variant's place."""
        return self.failure is None and self.key.variant != self.spec.control

    @property
    def _failed(self) -> Verdict:
        return Verdict.PRUNED if self.key.stage == self.spec.stages[0] else Verdict.REJECTED

    def decide(self, *, is_last: bool, rivals: Sequence[Sequence[Trial]] = ()) -> Decision | None:
        """The decision on it; None when the rule asks for another seed, and there is one."""
        if self.failure is not None:
            return Decision(self.key, *self.failure)
        ruling = self._ruling(rivals)
        if ruling is None and not is_last:
            return None
        if ruling is None:
            return self._decision(self._failed, f"not settled after {len(self.trials)} seeds")
        return self._decision(Verdict.PROMOTED if ruling.promotes else self._failed, ruling.reason)

    def _ruling(self, rivals: Sequence[Sequence[Trial]]) -> Ruling | None:
        rule = self.spec.rule
        try:
            return _as_ruling(rule.judge(self.trials, rivals))
        except (Exception, SystemExit) as error:  # of a plug-in: anything
            cause = in_words(error)
            place = f"{self.key.task}, {self.key.variant} at {self.key.stage}"
            raise RuleFailed(f"the prune rule {rule.rule!r} failed on {place}: {cause}") from error

    @property
    def is_tried(self) -> bool:
        """Whether it counts among those tried: it was measured, or ended in a verdict without a number."""
        return self.failure is None or self.failure[0] is self._failed

    @property
    def p_value(self) -> float | None:
        """Of its gain, over seeds and examples; None where the examples' part is not known; 1 without a number."""
        if self.failure is not None:
            return 1.0
        deltas, errors = [each.delta for each in self.trials], [each.standard_error for each in self.trials]
        found = estimate_if_known(deltas, errors)
        return None if found is None else found.p_value

    def confirm(self, discovery: float | None, level: float) -> Decision:
        """The decision on it at the last stage; `discovery`: its q-value among all that came so far."""
        if self.failure is not None:
            return Decision(self.key, *self.failure)
        assert discovery is not None  # noqa: S101  (whatever was measured has one)
        is_borne_out = discovery <= level
        compared = "within" if is_borne_out else "above"
        reason = (
            f"{points(fmean(trial.delta for trial in self.trials))} over {len(self.trials)} fresh seeds, "
            f"false-discovery level {discovery:.3f} {compared} {level:g}"
        )
        return self._decision(Verdict.CONFIRMED if is_borne_out else Verdict.REJECTED, reason)

    def _decision(self, verdict: Verdict, reason: str) -> Decision:
        losses = [loss for loss in self.losses if loss is not None]
        seeds = tuple(trial.seed for trial in self.trials)
        return Decision(
            self.key,
            verdict,
            reason,
            rounded(fmean(trial.delta for trial in self.trials)),
            rounded(fmean(losses)) if len(losses) == len(self.trials) else None,
            seeds if seeds != (self.key.seed,) else (),
        )


def _as_ruling(given: Any) -> Ruling | None:
    """What a rule gave, its reason as one line of text; raises TypeError where it is neither a ruling nor None."""
    if given is None:
        return None
    if (
        not isinstance(given, Ruling)
        or given.promotes not in (True, False)
        or not isinstance(given.reason, str)
    ):
        raise TypeError(f"judge gave {given!r}, and not a Ruling with a truth value and a text")
    return Ruling(bool(given.promotes), one_line(given.reason))


def _standard_error(variant: Outcomes | None, baseline: Outcomes | None) -> float | None:
    if variant is None or baseline is None or len(variant.of) < 2:
        return None
    return standard_error([a - b for a, b in zip(variant.right, baseline.right, strict=True)], variant.of)
