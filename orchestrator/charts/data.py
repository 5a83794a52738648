"""What the charts show, as plain values; nothing here draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from db.tables import JobState
from orchestrator.rules import Metric
from orchestrator.verdicts import Verdict
from orchestrator.views.shapes import EvaluationView, JobView, RoundView
from worker.job import CONCLUSIVE, Outcome

WIDE = 720  # pixels of a whole chart, names and margins included
NARROW = 344  # on a phone of 360 pixels


@dataclass(frozen=True)
class Delta:
    """What was found for a variant at a stage with one seed."""

    variant: str
    stage: str
    seed: int
    verdict: Verdict
    # variant minus baseline of the same stage and seed, a fraction; None: not measured
    d_acc: float | None = None
    interval: tuple[float, float] | None = None  # of d_acc, fractions
    reason: str = ""


@dataclass(frozen=True)
class TaskDeltas:
    """Everything decided on one task; variants (without the baseline) and stages in the round's order."""

    task: str
    variants: tuple[str, ...]
    stages: tuple[str, ...]
    deltas: tuple[Delta, ...]
    min_delta: float  # the rule's threshold, a fraction
    metric: Metric = "best_val_tok_acc"


@dataclass(frozen=True)
class Curve:
    """One run's token accuracies on the validation set, in the order of their steps."""

    arm: str
    task: str
    stage: str
    seed: int
    steps: tuple[int, ...]
    values: tuple[float, ...]  # fractions; NaN where a run diverged
    is_running: bool = False

    @classmethod
    def of(cls, job: JobView, evaluations: Sequence[EvaluationView]) -> Self:
        """Those of a job."""
        return cls(
            arm=job.config,
            task=job.task,
            stage=job.stage,
            seed=job.seed,
            steps=tuple(one.step for one in evaluations),
            values=tuple(one.val_tok_acc for one in evaluations),
            is_running=job.state is JobState.RUNNING,
        )


@dataclass(frozen=True)
class TaskCurves:
    """The curves of one task at one stage."""

    task: str
    stage: str
    curves: tuple[Curve, ...]
    is_banded: bool = False  # the mean over seeds within their range, in place of a line for each seed


@dataclass(frozen=True)
class Funnel:
    """How far a round has come: what became of its jobs, and of its arms (task, variant, seed)."""

    round: str
    planned: int  # jobs, if every variant were promoted at every stage
    cached: int  # jobs answered from an equal one
    run: int  # jobs that were measured, or stopped early
    unmeasured: int  # jobs that failed or were cancelled
    pruned: int  # arms that ended at the first stage
    rejected: int  # arms that ended at a later one
    promoted: int  # arms that passed the last one
    confirmed: int

    @classmethod
    def of(
        cls, found: RoundView, outcomes: Mapping[str, int], verdicts: Mapping[str, Mapping[str, int]]
    ) -> Self:
        """From the number of ended jobs by outcome, and of decisions by stage and verdict; the round has started."""
        assert found.funnel.planned is not None  # noqa: S101  (once it has started, its variants are known)

        def ended(verdict: Verdict) -> int:
            return sum(counts.get(verdict, 0) for counts in verdicts.values())

        run = sum(outcomes.get(outcome, 0) for outcome in CONCLUSIVE)
        cached = outcomes.get(Outcome.CACHED, 0)
        return cls(
            round=found.round,
            planned=found.funnel.planned,
            cached=cached,
            run=run,
            unmeasured=sum(outcomes.values()) - run - cached,
            pruned=ended(Verdict.PRUNED),
            rejected=ended(Verdict.REJECTED),
            promoted=verdicts.get(found.last_selecting, {}).get(Verdict.PROMOTED, 0),
            confirmed=ended(Verdict.CONFIRMED),
        )


@dataclass(frozen=True)
class Pooled:
    """A variant's delta at a stage, over seeds and rounds."""

    variant: str
    stage: str
    delta: float  # a fraction
    interval: tuple[float, float] | None
    pattern: str  # runs above, at and below the baseline: 2+/1=/0-
    p_value: float | None = None  # one-sided, that there is no gain


@dataclass(frozen=True)
class Forest:
    """The pooled deltas of a task, in the order in which they are shown."""

    task: str
    deltas: tuple[Pooled, ...]


@dataclass(frozen=True)
class Pair:
    """A run's delta at a stage, and that of the same arm and seed at the next one."""

    round: str
    task: str
    variant: str
    seed: int
    first: float  # fractions
    then: float

    @property
    def is_reversed(self) -> bool:
        """Whether a gain was none at the next stage."""
        return self.first > 0 >= self.then


@dataclass(frozen=True)
class StagePairs:
    """Everything that was measured at a stage and at the one after it."""

    first: str
    then: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Spent:
    """Time that jobs held the accelerator, at a stage, on runs that came to this."""

    stage: str
    on: str  # baseline, a verdict, or unmeasured
    seconds: float


@dataclass(frozen=True)
class Spending:
    """Where the time of a search went."""

    name: str
    stages: tuple[str, ...]
    spent: tuple[Spent, ...]
