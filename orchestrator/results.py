"""The jobs of a round as planning and reporting need them: keys, states and numbers, without their payloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from db.tables import Evaluation, Job, JobState
from orchestrator.planner import JobKey, Lane, Measurement
from orchestrator.points import ROUNDING
from orchestrator.spec import ResolvedRound
from orchestrator.statistics.examples import Outcomes
from worker.job import Metrics, Outcome, Usage


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job and how it ended, if it has."""

    id: int
    key: JobKey
    state: JobState
    outcome: str | None
    reason: str | None
    result: dict[str, Any] | None
    fingerprint: str
    cached_from_id: int | None
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def metrics(self) -> Metrics | None:
        """The numbers of its whole run; None when it was not measured."""
        stored = (self.result or {}).get("metrics")
        return Metrics.from_json(stored) if stored else None

    @property
    def partial(self) -> Metrics | None:
        """The numbers of a run that was stopped early, up to there; None of any other."""
        stored = (self.result or {}).get("partial")
        return Metrics.from_json(stored) if stored else None

    @property
    def usage(self) -> Usage | None:
        """What it took; None when it was not measured."""
        stored = (self.result or {}).get("usage")
        return Usage.from_json(stored) if stored else None


def jobs(session: Session, *which: ColumnElement[bool]) -> Iterator[StoredJob]:
    """The jobs that meet these conditions, in the order in which they were made."""
    columns = (
        Job.id,
        Job.task,
        Job.stage,
        Job.variant,
        Job.seed,
        Job.state,
        Job.outcome,
        Job.reason,
        Job.result,
        Job.fingerprint,
        Job.cached_from_id,
        Job.started_at,
        Job.finished_at,
    )
    for id_, *key, state, outcome, reason, result, fingerprint, cached, started, finished in session.execute(
        select(*columns).where(*which).order_by(Job.id).execution_options(yield_per=500)
    ):
        yield StoredJob(
            id_, JobKey(*key), state, outcome, reason, result, fingerprint, cached, started, finished
        )


class Standing(NamedTuple):
    """Where a job of a round stands for the planner."""

    job_id: int
    measurement: Measurement | None  # None: it has yet to end


def standings(
    session: Session, round_id: int, metric: str, lane: Lane | None = None
) -> dict[JobKey, Standing]:
    """Every job of a round, or of one lane of it, with what it measured by the rule's metric."""
    query = (
        select(Job.id, Job.task, Job.stage, Job.variant, Job.seed, Job.state, Job.reason, Job.result)
        .where(Job.round_id == round_id, *of_lane(lane))
        .order_by(Job.id)
        .execution_options(yield_per=500)
    )
    return {
        JobKey(*key): Standing(id_, _measurement(result, reason, metric) if state is JobState.DONE else None)
        for id_, *key, state, reason, result in session.execute(query)
    }


def of_lane(lane: Lane | None) -> tuple[ColumnElement[bool], ...]:
    """The jobs of a lane; all for None."""
    if lane is None:
        return ()
    return (Job.task == lane.task, *(() if lane.seed is None else (Job.seed == lane.seed,)))


class Examined(NamedTuple):
    """What a job got right of each validation example, by the rule's metric."""

    outcomes: Outcomes
    fingerprint: str


def examined(
    session: Session,
    resolved: ResolvedRound,
    found: Mapping[JobKey, Standing],
    *which: ColumnElement[bool],
) -> dict[JobKey, Examined]:
    """The jobs that meet these conditions, at the evaluation that gave their score.

    Left out are those whose outcomes per example are not stored, or do not add up to the score.
    """
    metric = resolved.spec.prune.metric
    source = func.coalesce(Job.cached_from_id, Job.id)
    other = aliased(Evaluation)
    order = {
        "best_val_tok_acc": (other.val_tok_acc.desc(), other.step),
        "final_val_tok_acc": (other.step.desc(),),
        "best_val_seq_acc": (other.val_seq_acc.desc(), other.step),
    }[metric]
    step = select(other.step).where(other.job_id == source).order_by(*order).limit(1).scalar_subquery()
    query = (
        select(Job.task, Job.stage, Job.variant, Job.seed, Job.fingerprint, Evaluation.correct)
        .join(Evaluation, Evaluation.job_id == source)
        .where(Job.state == JobState.DONE, Evaluation.step == step, *which)
    )
    told = {}
    for row in session.execute(query.execution_options(yield_per=500)):
        key = JobKey(row.task, row.stage, row.variant, row.seed)
        measurement = found[key].measurement if key in found else None
        outcomes = _outcomes(row.correct, resolved.answer_tokens(key.task, key.stage), metric)
        if measurement is not None and _adds_up(outcomes, measurement.score):
            assert outcomes is not None  # noqa: S101  (it adds up)
            told[key] = Examined(outcomes, row.fingerprint)
    return told


def with_outcomes(
    found: Mapping[JobKey, Standing], told: Mapping[JobKey, Examined]
) -> dict[JobKey, Standing]:
    """The standings, with what was right of each example where that is told."""
    return {
        key: stands._replace(measurement=replace(stands.measurement, outcomes=told[key].outcomes))
        if key in told and stands.measurement is not None
        else stands
        for key, stands in found.items()
    }


def _outcomes(correct: list[int], of: tuple[int, ...] | None, metric: str) -> Outcomes | None:
    if of is None or len(of) != len(correct):
        return None
    if metric == "best_val_seq_acc":
        whole = (int(right == size) for right, size in zip(correct, of, strict=True))
        return Outcomes(tuple(whole), (1,) * len(of))
    return Outcomes(tuple(correct), of)


def _adds_up(outcomes: Outcomes | None, score: float | None) -> bool:
    if outcomes is None or score is None:
        return False
    return abs(sum(outcomes.right) / sum(outcomes.of) - score) < ROUNDING


def _measurement(result: dict[str, Any] | None, reason: str | None, metric: str) -> Measurement:
    stored = result or {}
    outcome = Outcome(stored["outcome"])  # of a cached job: its source's
    metrics = stored.get("metrics")
    if not metrics:
        return Measurement(outcome, reason=reason)
    return Measurement(outcome, score=metrics[metric], loss=metrics["best_val_loss"])
