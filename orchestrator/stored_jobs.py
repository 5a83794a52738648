"""The jobs of a round as planning and reporting need them: keys, states and numbers, without their payloads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Table, bindparam, func, select
from sqlalchemy.orm import Session

from db.statements import AnySelect
from db.tables import EVALUATIONS, JOBS, Job, JobState
from orchestrator.points import ROUNDING
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rounds.stored_round import unreadable
from orchestrator.search import JobKey, Lane, Measurement
from orchestrator.statistics.examples import Outcomes
from worker.job import (
    CONCLUSIVE,
    Metric,
    Metrics,
    Outcome,
    Strict,
    Usage,
    accuracy_of,
    is_of_last_evaluation,
    is_of_whole_answers,
)

Part = TypeVar("Part", bound=Strict)

MOST_AT_ONCE = 500  # jobs asked for by their ids
_STANDINGS = select(
    *(JOBS.c[name] for name in ("id", *JobKey._fields, "state", "reason", "result"))
).order_by(JOBS.c.id)


@dataclass(frozen=True)
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

    @cached_property
    def metrics(self) -> Metrics | None:
        """The numbers of its whole run; None when it was not measured. Raises BrokenRound, as the others do."""
        return self._read(Metrics, "metrics")

    @property
    def version(self) -> str | None:
        """The version of fsq that found this; None where it did not say so."""
        return (self.result or {}).get("version")

    @property
    def result_version(self) -> int | None:
        """The version of results that these are of; None where that is not known."""
        return (self.result or {}).get("result_version")

    @cached_property
    def partial(self) -> Metrics | None:
        """The numbers of a run that was stopped early, up to there; None of any other."""
        return self._read(Metrics, "partial")

    @cached_property
    def usage(self) -> Usage | None:
        """What it took; None when it was not measured."""
        return self._read(Usage, "usage")

    def _read(self, kind: type[Part], name: str) -> Part | None:
        if not (stored := (self.result or {}).get(name)):
            return None
        try:
            return kind.from_json(stored)
        except ValidationError as error:
            raise unreadable(f"{name} of job {self.id} ({'/'.join(map(str, self.key))})", error) from error


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


def unmeasured(round_id: int) -> tuple[ColumnElement[bool], ...]:
    """What the jobs of a round meet that ended without a verdict."""
    return (
        Job.round_id == round_id,
        Job.state == JobState.DONE,
        Job.outcome.not_in([*CONCLUSIVE, Outcome.CACHED]),
    )


class Standing(NamedTuple):
    """Where a job of a round stands for the planner."""

    job_id: int
    measurement: Measurement | None  # None: it has yet to end


def standings(
    session: Session, round_id: int, metric: str, lane: Lane | None = None
) -> dict[JobKey, Standing]:
    """Every job of a round, or of one lane of it, with what it measured by the rule's metric."""
    query, which = in_lane(_STANDINGS, JOBS, round_id, lane)
    # piece by piece, which one seed of a task is too short for: to PostgreSQL that is five requests instead of one
    options = {"yield_per": 500} if lane is None or lane.seed is None else {}
    return {
        JobKey(*key): Standing(id_, measurement(result, reason, metric) if state is JobState.DONE else None)
        for id_, *key, state, reason, result in session.execute(query, which, execution_options=options)
    }


def in_lane(
    query: AnySelect, of: Table, round_id: int, lane: Lane | None
) -> tuple[AnySelect, dict[str, Any]]:
    """A query for what belongs to a round, or to one lane of it, with its parameters."""
    names = {"round_id": round_id} if lane is None else {"round_id": round_id, **lane._asdict()}
    given = {name: value for name, value in names.items() if value is not None}
    return _where(query, of, tuple(given)), given


@cache
def _where(query: AnySelect, of: Table, names: tuple[str, ...]) -> AnySelect:
    return query.where(*(of.c[name] == bindparam(name) for name in names))


class Examined(NamedTuple):
    """What a job got right of each validation example, by the rule's metric."""

    outcomes: Outcomes
    fingerprint: str


def examined(
    session: Session, resolved: ResolvedRound, found: Mapping[JobKey, Standing], keys: Collection[JobKey]
) -> dict[JobKey, Examined]:
    """Those of these jobs that were measured, at the evaluation that gave their score.

    Left out are those whose outcomes per example are not stored, or do not add up to the score.
    """
    metric = resolved.spec.prune.metric
    told = {}
    ids = [found[key].job_id for key in keys]
    for start in range(0, len(ids), MOST_AT_ONCE):
        part = ids[start : start + MOST_AT_ONCE]
        for row in session.execute(_examined(metric), {"ids": part}):
            key = JobKey(row.task, row.stage, row.variant, row.seed)
            measurement = found[key].measurement
            outcomes = _outcomes(row.correct, resolved.answer_tokens(key.task, key.stage), metric)
            if measurement is not None and _adds_up(outcomes, measurement.score):
                assert outcomes is not None  # noqa: S101  (it adds up)
                told[key] = Examined(outcomes, row.fingerprint)
    return told


@cache
def _examined(metric: Metric) -> AnySelect:
    source = func.coalesce(JOBS.c.cached_from_id, JOBS.c.id)
    other = EVALUATIONS.alias().c
    best = (other[accuracy_of(metric)].desc(), other.step)
    order = (other.step.desc(),) if is_of_last_evaluation(metric) else best
    step = select(other.step).where(other.job_id == source).order_by(*order).limit(1).scalar_subquery()
    return (
        select(
            JOBS.c.task, JOBS.c.stage, JOBS.c.variant, JOBS.c.seed, JOBS.c.fingerprint, EVALUATIONS.c.correct
        )
        .join(EVALUATIONS, EVALUATIONS.c.job_id == source)
        .where(JOBS.c.state == JobState.DONE, EVALUATIONS.c.step == step)
        .where(JOBS.c.id.in_(bindparam("ids", expanding=True)))
    )


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


def _outcomes(correct: list[int], of: tuple[int, ...] | None, metric: Metric) -> Outcomes | None:
    if of is None or len(of) != len(correct):
        return None
    if is_of_whole_answers(metric):
        whole = (int(right == size) for right, size in zip(correct, of, strict=True))
        return Outcomes(tuple(whole), (1,) * len(of))
    return Outcomes(tuple(correct), of)


def _adds_up(outcomes: Outcomes | None, score: float | None) -> bool:
    if outcomes is None or score is None:
        return False
    return abs(sum(outcomes.right) / sum(outcomes.of) - score) < ROUNDING


def measurement(result: dict[str, Any] | None, reason: str | None, metric: str) -> Measurement:
    """What the planner needs of a job that has ended."""
    stored = result or {}
    outcome = Outcome(stored["outcome"])  # of a cached job: its source's
    metrics = stored.get("metrics")
    if not metrics:
        return Measurement(outcome, reason=reason)
    return Measurement(outcome, score=metrics[metric], loss=metrics["best_val_loss"])
