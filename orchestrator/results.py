"""The jobs of a round as planning and reporting need them: keys, states and numbers, without their payloads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from db.tables import Job, JobState
from orchestrator.planner import JobKey, Measurement
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
        """Its numbers; None when it was not measured."""
        stored = (self.result or {}).get("metrics")
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
    session: Session, round_id: int, metric: str, chain: tuple[str, int] | None = None
) -> dict[JobKey, Standing]:
    """Every job of a round, or of one (task, seed) of it, with what it measured by the rule's metric."""
    query = (
        select(Job.id, Job.task, Job.stage, Job.variant, Job.seed, Job.state, Job.reason, Job.result)
        .where(Job.round_id == round_id, *_of(chain))
        .order_by(Job.id)
        .execution_options(yield_per=500)
    )
    return {
        JobKey(*key): Standing(id_, _measurement(result, reason, metric) if state is JobState.DONE else None)
        for id_, *key, state, reason, result in session.execute(query)
    }


def _of(chain: tuple[str, int] | None) -> tuple[ColumnElement[bool], ...]:
    return () if chain is None else (Job.task == chain[0], Job.seed == chain[1])


def _measurement(result: dict[str, Any] | None, reason: str | None, metric: str) -> Measurement:
    stored = result or {}
    outcome = Outcome(stored["outcome"])  # of a cached job: its source's
    metrics = stored.get("metrics")
    if not metrics:
        return Measurement(outcome, reason=reason)
    return Measurement(outcome, score=metrics[metric], loss=metrics["best_val_loss"])
