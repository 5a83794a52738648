"""What the database says of rounds, jobs and workers, as views: reads only, a page at a time.

Whatever needs to know what a round asked for, and so what reads that, is in `progress`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from db import events
from db.events import EventKind
from db.statements import AnyRow, AnySelect
from db.tables import Decision, Evaluation, Job, JobState, Round, RoundState, Worker
from orchestrator.errors import NotFound
from orchestrator.rounds.stored_round import find
from orchestrator.verdicts import Verdict
from orchestrator.views.shapes import (
    EvaluationView,
    EventView,
    JobView,
    RoundLine,
    StatusView,
    WorkerState,
    WorkerView,
)

SILENT_AFTER = timedelta(seconds=60)
Parent = aliased(Round)


class Slice(NamedTuple):
    """Which part of a list is wanted: at most `limit` items after the one with the id `after`."""

    after: int | None = None
    limit: int = 50


class Found(NamedTuple):
    """A part of a list, with the id of its last item where more follow."""

    items: Sequence[Any]
    last: int | None


def rounds(session: Session, part: Slice, state: RoundState | None = None) -> Found:
    """Rounds with their progress, the newest first."""
    query = select(Round.id, *_LINE).outerjoin(Parent, Parent.id == Round.after_id).order_by(Round.id.desc())
    if part.after is not None:
        query = query.where(Round.id < part.after)
    if state is not None:
        query = query.where(Round.state == state)
    rows, last = cut(session, query, part)
    counts = Counts.of(session, [row.id for row in rows])
    return Found([RoundLine(**_line(row, counts)) for row in rows], last)


def newer(session: Session, part: Slice, state: RoundState | None = None) -> int | None:
    """`after` of the part of the list of rounds that comes before this one; None for the first part."""
    query = select(Round.id).where(Round.id >= part.after).order_by(Round.id).offset(part.limit).limit(1)
    if state is not None:
        query = query.where(Round.state == state)
    return session.scalar(query)


def submitted_by(session: Session, name: str) -> str | None:
    """Who submitted a round, where that was recorded; raises NotFound."""
    first = events.since(session, find(session, name).id, 0, limit=1)
    return first[0].data.get("by") if first and first[0].kind is EventKind.SUBMITTED else None


def jobs(session: Session, name: str, part: Slice, state: JobState | None = None) -> Found:
    """The jobs of a round in the order in which they were made; raises NotFound."""
    round_id = find(session, name).id
    query = job_columns().where(Job.round_id == round_id, Job.id > (part.after or 0)).order_by(Job.id)
    if state is not None:
        query = query.where(Job.state == state)
    rows, last = cut(session, query, part)
    return Found([JobView(**row._mapping) for row in rows], last)


def job(session: Session, job_id: int) -> JobView:
    """One job; raises NotFound."""
    row = session.execute(job_columns().where(Job.id == job_id)).first()
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return JobView(**row._mapping)


def measured(session: Session, of: JobView) -> JobView:
    """The job that was run for a result: this one, or the one it was taken from."""
    return of if of.cached_from is None else job(session, of.cached_from)


def evaluations(session: Session, job_id: int) -> list[EvaluationView]:
    """The learning curve of a job, or of the one whose result it has; raises NotFound."""
    source = job(session, job_id).cached_from or job_id
    columns = [getattr(Evaluation, name) for name in EvaluationView.model_fields]
    query = select(*columns).where(Evaluation.job_id == source).order_by(Evaluation.step)
    return [EvaluationView(**row._mapping) for row in session.execute(query)]


def events_since(session: Session, round_id: int, number: int, limit: int = 500) -> list[EventView]:
    """What happened in a round after the event of this number."""
    return [
        EventView(number=event.number, at=event.at, kind=event.kind, job=event.job_id, data=event.data)
        for event in events.since(session, round_id, number, limit)
    ]


def workers(
    session: Session, now: datetime, *, limit: int = 100, ids: Collection[int] | None = None
) -> list[WorkerView]:
    """The workers, or those of these ids; those first that were seen last."""
    query = select(Worker).order_by(Worker.seen_at.desc(), Worker.id.desc()).limit(limit)
    rows = session.scalars(query if ids is None else query.where(Worker.id.in_(ids))).all()
    running = job_columns().where(Job.state == JobState.RUNNING, Job.worker_id.in_([row.id for row in rows]))
    busy = {row.worker: JobView(**row._mapping) for row in session.execute(running)}
    return [
        WorkerView(
            id=row.id,
            host=row.host,
            pid=row.pid,
            device=row.device,
            state=_worker_state(row.stopped_at, row.seen_at, row.paused, now),
            started_at=row.started_at,
            seen_at=row.seen_at,
            stopped_at=row.stopped_at,
            reason=row.paused,
            job=busy.get(row.id),
        )
        for row in rows
    ]


def status(session: Session, now: datetime) -> StatusView:
    """The whole service in a few numbers."""
    of_jobs = _count(session, Job.state)
    of_workers = dict.fromkeys(WorkerState, 0)
    for stopped_at, seen_at, paused in session.execute(
        select(Worker.stopped_at, Worker.seen_at, Worker.paused)
    ):
        of_workers[_worker_state(stopped_at, seen_at, paused, now)] += 1
    return StatusView(
        version=version("fsq"),
        rounds=rounds_by_state(session),
        jobs={state: of_jobs.get(state, 0) for state in JobState},
        workers=of_workers,
    )


def rounds_by_state(session: Session) -> dict[RoundState, int]:
    """How many rounds there are in each state."""
    found = _count(session, Round.state)
    return {state: found.get(state, 0) for state in RoundState}


def stamp(session: Session) -> str:
    """Changes whenever anything happens in any round: what a list of rounds can be cached under."""
    query = select(func.count(), func.coalesce(func.sum(Round.n_events), 0)).select_from(Round)
    return ".".join(map(str, session.execute(query).one()))


def _worker_state(
    stopped_at: datetime | None, seen_at: datetime, paused: str | None, now: datetime
) -> WorkerState:
    if stopped_at is not None:
        return WorkerState.STOPPED
    if now - seen_at > SILENT_AFTER:
        return WorkerState.SILENT
    return WorkerState.ALIVE if paused is None else WorkerState.PAUSED


_LINE = (
    Round.name.label("round"),
    Round.state,
    Round.reason,
    Parent.name.label("after"),
    Round.created_at,
    Round.finished_at,
)


def job_columns() -> AnySelect:
    """Jobs with the columns of JobView."""
    last_step = (
        select(func.max(Evaluation.step))
        .where(Evaluation.job_id == func.coalesce(Job.cached_from_id, Job.id))
        .scalar_subquery()
    )
    return select(
        Job.id,
        Round.name.label("round"),
        Job.task,
        Job.stage,
        Job.variant.label("config"),
        Job.seed,
        Job.state,
        Job.outcome,
        Job.reason,
        Job.attempts,
        Job.result["metrics"]["best_val_tok_acc"].as_float().label("best_val_tok_acc"),
        last_step.label("step"),
        Job.fingerprint,
        Job.cached_from_id.label("cached_from"),
        Job.worker_id.label("worker"),
        Job.created_at,
        Job.started_at,
        Job.finished_at,
    ).join(Round)


def cut(session: Session, query: AnySelect, part: Slice) -> tuple[Sequence[AnyRow], int | None]:
    """At most `limit` rows, and the id of the last one if there are more."""
    rows = session.execute(query.limit(part.limit + 1)).all()
    if len(rows) <= part.limit:
        return rows, None
    kept = rows[: part.limit]
    return kept, kept[-1].id


def without_id(row: AnyRow) -> dict[str, Any]:
    """The columns of a row, as a view has them."""
    return {name: value for name, value in row._mapping.items() if name != "id"}


def _line(row: AnyRow, counts: Counts) -> dict[str, Any]:
    return without_id(row) | {"jobs": counts.jobs(row.id), "decisions": counts.decisions(row.id)}


def _count(session: Session, column: Any) -> dict[Any, int]:
    return {value: count for value, count in session.execute(select(column, func.count()).group_by(column))}  # noqa: C416


class Counts(NamedTuple):
    """Jobs by state and decisions by verdict, of some rounds."""

    by_state: Mapping[tuple[int, JobState], int]
    by_verdict: Mapping[tuple[int, str], int]

    @classmethod
    def of(cls, session: Session, round_ids: Sequence[int]) -> Counts:
        def count(of_round: Any, what: Any) -> dict[tuple[int, Any], int]:
            query = (
                select(of_round, what, func.count()).where(of_round.in_(round_ids)).group_by(of_round, what)
            )
            return {(round_id, value): number for round_id, value, number in session.execute(query)}

        return cls(count(Job.round_id, Job.state), count(Decision.round_id, Decision.decision))

    def jobs(self, round_id: int) -> dict[JobState, int]:
        """How many jobs of a round are in each state."""
        return {state: self.by_state.get((round_id, state), 0) for state in JobState}

    def decisions(self, round_id: int) -> dict[str, int]:
        """How many decisions of a round there are of each kind that there are any of."""
        return {
            verdict.value: self.by_verdict[round_id, verdict]
            for verdict in Verdict
            if (round_id, verdict) in self.by_verdict
        }
