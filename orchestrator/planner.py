"""What should exist, given what has finished: the whole orchestration as one pure function.

Order within one (task, seed): the baseline's first stage; then for each variant its first stage and the
decision, and as long as it is promoted the next stage's baseline (once) and the variant there, before the
next variant. One job at a time over the whole round; with `parallel`, one at a time in each (task, seed).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from orchestrator.rules import ROUNDING, Threshold
from worker.job import BASELINE, Outcome


class JobKey(NamedTuple):
    """What names a job within its round."""

    task: str
    stage: str
    variant: str
    seed: int


class Verdict(StrEnum):
    """What was concluded for a variant at a stage."""

    PROMOTED = "promoted"  # at least min_delta above the baseline of the same stage
    PRUNED = "pruned"  # not so at the first stage: goes no further
    REJECTED = "rejected"  # promoted before, not borne out at a later stage
    CONFIRMED = "confirmed"  # borne out on fresh seeds and unseen validation data
    NO_OP = "no_op"  # computes the same as the baseline: not run
    UNDECIDED = "undecided"  # could not be measured; no verdict on the variant


@dataclass(frozen=True)
class Measurement:
    """How a job ended: with a score and a loss when it was measured, else with the reason why not."""

    outcome: Outcome
    score: float | None = None  # the rule's metric, a fraction
    loss: float | None = None  # nats per answer token
    reason: str | None = None

    @property
    def is_measured(self) -> bool:
        return self.score is not None

    @property
    def failure(self) -> str:
        return f"{self.outcome}: {self.reason}" if self.reason else str(self.outcome)


@dataclass(frozen=True)
class Decision:
    """A verdict on a variant at a stage, with its deltas (variant minus baseline) where both were measured."""

    key: JobKey
    verdict: Verdict
    reason: str
    d_acc: float | None = None
    d_loss: float | None = None


class State(StrEnum):
    ACTIVE = "active"  # some job has yet to finish
    FINISHED = "finished"  # everything is decided


@dataclass(frozen=True)
class SearchSpec:
    """The part of a round that the planner needs."""

    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    stages: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    no_ops: frozenset[str] = frozenset()
    rule: Threshold = field(default_factory=Threshold)
    parallel: bool = False

    def of_chain(self, chain: tuple[str, int]) -> SearchSpec:
        """One (task, seed) of it, which no other influences but by its place in the order."""
        task, seed = chain
        return replace(self, tasks=(task,), seeds=(seed,))

    @property
    def most_jobs(self) -> int:
        """Jobs there are when every variant is promoted at every stage."""
        arms = 1 + len(self.variants) - len(self.no_ops)
        return len(self.tasks) * len(self.seeds) * arms * len(self.stages)


@dataclass(frozen=True)
class Plan:
    """Every job that should exist (finished ones included) and every decision that follows, in order.

    `open_chains` are the (task, seed) pairs in which something has yet to finish.
    """

    steps: tuple[JobKey | Decision, ...]
    open_chains: frozenset[tuple[str, int]]

    @property
    def jobs(self) -> tuple[JobKey, ...]:
        return tuple(step for step in self.steps if isinstance(step, JobKey))

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(step for step in self.steps if isinstance(step, Decision))

    @property
    def state(self) -> State:
        return State.ACTIVE if self.open_chains else State.FINISHED


def plan(spec: SearchSpec, results: Mapping[JobKey, Measurement]) -> Plan:
    """Derives jobs, decisions and state from the finished jobs; the same for any order in which they came."""
    steps: list[JobKey | Decision] = []
    open_chains: list[tuple[str, int]] = []
    for task, seed in ((task, seed) for task in spec.tasks for seed in spec.seeds):
        if open_chains and not spec.parallel:
            open_chains.append((task, seed))
            continue
        chain = _Chain(spec, task, seed, results)
        steps.extend(chain.walk())
        if chain.is_waiting:
            open_chains.append((task, seed))
    return Plan(tuple(steps), frozenset(open_chains))


class _Chain:
    """One (task, seed), walked as far as the results reach."""

    def __init__(self, spec: SearchSpec, task: str, seed: int, results: Mapping[JobKey, Measurement]) -> None:
        self.spec, self.task, self.seed, self.results = spec, task, seed, results
        self.baselines: set[str] = set()  # stages whose baseline was asked for
        self.is_waiting = False

    def walk(self) -> Iterator[JobKey | Decision]:
        """The chain's jobs and decisions in order, up to the first job that has not finished."""
        yield from self._baseline(self.spec.stages[0])
        for variant in self.spec.variants:
            if self.is_waiting:
                return
            yield from self._variant(variant)

    def _baseline(self, stage: str) -> Iterator[JobKey]:
        if stage not in self.baselines:
            self.baselines.add(stage)
            yield self._ask(stage, BASELINE)

    def _variant(self, variant: str) -> Iterator[JobKey | Decision]:
        if variant in self.spec.no_ops:
            key = self._key(self.spec.stages[0], variant)
            yield Decision(key, Verdict.NO_OP, "computes the same as the baseline on this model")
            return
        for stage in self.spec.stages:
            yield from self._baseline(stage)
            baseline = self.results.get(self._key(stage, BASELINE))
            if baseline is None:
                return
            key = self._key(stage, variant)
            if not baseline.is_measured:
                yield Decision(key, Verdict.UNDECIDED, f"the {stage} baseline failed: {baseline.failure}")
                return
            yield self._ask(stage, variant)
            result = self.results.get(key)
            if result is None:
                return
            decision = judge(self.spec, key, result, baseline)
            yield decision
            if decision.verdict is not Verdict.PROMOTED:
                return

    def _ask(self, stage: str, variant: str) -> JobKey:
        key = self._key(stage, variant)
        self.is_waiting = self.is_waiting or key not in self.results
        return key

    def _key(self, stage: str, variant: str) -> JobKey:
        return JobKey(self.task, stage, variant, self.seed)


def judge(spec: SearchSpec, key: JobKey, variant: Measurement, baseline: Measurement) -> Decision:
    """The decision on a variant that has finished a stage, against a measured baseline of that stage."""
    failed = Verdict.PRUNED if key.stage == spec.stages[0] else Verdict.REJECTED
    if variant.outcome is Outcome.DIVERGED:
        return Decision(key, failed, variant.failure)
    if variant.score is None or baseline.score is None:
        return Decision(key, Verdict.UNDECIDED, variant.failure)
    d_acc = difference(variant.score, baseline.score)
    d_loss = (
        None if variant.loss is None or baseline.loss is None else difference(variant.loss, baseline.loss)
    )
    promoted = spec.rule.promotes(d_acc)
    threshold = spec.rule.min_delta
    reason = f"{points(d_acc, threshold)} {'reaches' if promoted else 'is below'} {points(threshold)}"
    return Decision(key, Verdict.PROMOTED if promoted else failed, reason, d_acc, d_loss)


def difference(value: float, reference: float) -> float:
    """value - reference without the binary noise in the last digits."""
    return round(value - reference, 12)


def points(fraction: float, beside: float | None = None) -> str:
    """A difference of accuracies for people: 0.001 is +0.10 pp.

    With more digits where two would make it look the same as a different one beside it.
    """
    alike = beside is not None and abs(fraction - beside) > ROUNDING and abs(fraction - beside) < 1e-4
    return f"{100 * fraction + 0.0:+.{5 if alike else 2}f} pp"
