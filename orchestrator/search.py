"""The words of a search: what is asked for, what was measured, what is decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from orchestrator.rules import Rule, Scope, Threshold
from orchestrator.statistics.examples import Outcomes
from orchestrator.verdicts import Verdict
from worker.job import BASELINE, Outcome


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
