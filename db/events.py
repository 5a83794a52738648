"""What happened in a round, numbered without gaps in the order in which it was committed.

Whatever of a round can be seen changes together with an event: `Round.n_events` is the version that answers are
cached under. A transaction's events are written together, at its end. Whoever appends one has locked its round before
anything of it is changed (a parent, then its children, then jobs), so that no two transactions wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import bindparam, cast, column, func, insert, select, true, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from db.clock import clock
from db.tables import EVENTS, ROUNDS, Event, Job

CHANNEL = "fsq"  # on which PostgreSQL tells whoever listens that something has happened
_LOCKED = select(ROUNDS.c.id).where(ROUNDS.c.id == bindparam("round")).with_for_update(key_share=True)
_LOCK = select(_LOCKED.scalar_subquery(), func.clock_timestamp())  # in this order: the time when it is locked
_COUNT = (
    update(ROUNDS)
    .where(ROUNDS.c.id == bindparam("round"))
    .values(n_events=ROUNDS.c.n_events + bindparam("more"))
    .returning(ROUNDS.c.n_events)
)
_ADD = insert(EVENTS)
_COUNTED = _COUNT.returning(func.pg_notify(CHANNEL, "")).cte("counted")
_EACH = (
    func.jsonb_array_elements(bindparam("each", type_=JSONB))
    .table_valued(column("event", JSONB), with_ordinality="place", name="one")
    .render_derived()
)
_COUNT_AND_ADD = _ADD.from_select(
    ["round_id", "number", "at", "kind", "job_id", "data"],
    select(
        bindparam("round", type_=EVENTS.c.round_id.type),
        _COUNTED.c.n_events - bindparam("more") + _EACH.c.place,
        cast(_EACH.c.event["at"].astext, EVENTS.c.at.type),
        _EACH.c.event["kind"].astext,
        _EACH.c.event["job_id"].as_integer(),
        _EACH.c.event["data"],
    ).select_from(_COUNTED.join(_EACH, true())),
)
_UNWRITTEN = "fsq_events"  # in what is known of a session: those of its transaction


class EventKind(StrEnum):
    SUBMITTED = "submitted"  # by whom
    WAITING = "waiting"  # for the round that it comes after
    STARTED = "started"  # its jobs exist from now on
    BLOCKED = "blocked"  # the round before it ended in a way that it cannot build on
    JOB_STARTED = "job_started"  # a worker has it
    EVALUATED = "evaluated"  # step, loss and accuracies
    JOB_REQUEUED = "job_requeued"  # its attempt came to nothing; why
    JOB_ENDED = "job_ended"  # its outcome
    DECIDED = "decided"  # the verdict on a variant
    HELD_UP = "held_up"  # why nothing more is decided; without a reason, that it goes on
    FINISHED = "finished"  # everything is decided
    CANCELLED = "cancelled"  # by whom
    RETRIED = "retried"  # by whom, and how many jobs


@dataclass(frozen=True)
class Happened:
    """An event with the names of the job it is about, if it is about one."""

    number: int
    at: datetime
    kind: EventKind
    job_id: int | None
    data: dict[str, Any]


class _Event(NamedTuple):
    round_id: int
    at: datetime
    kind: EventKind
    job_id: int | None
    data: dict[str, Any]


def append(
    session: Session, round_id: int, kind: EventKind, *, now: datetime, job_id: int | None = None, **data: Any
) -> None:
    """Adds an event to a round, which this transaction has locked.

    When that is committed, whoever waits for something to do hears of it (see db.changes).
    """
    _unwritten(session).append(_Event(round_id, now, kind, job_id, data))


@contextmanager
def savepoint(session: Session) -> Iterator[None]:
    """Where an exception ends it, what is done within is undone, and its events with it."""
    appended = _unwritten(session)
    before = len(appended)
    try:
        with session.begin_nested():
            yield
    except BaseException:
        del appended[before:]
        raise


def write(session: Session) -> None:
    """Writes the events of a transaction that is about to be committed; the end of a savepoint is no such thing."""
    if session.in_nested_transaction():
        return
    session.flush()  # the jobs that they are about
    by_round: dict[int, list[_Event]] = {}
    for event in _unwritten(session):
        by_round.setdefault(event.round_id, []).append(event)
    for round_id, each in by_round.items():
        _write(session, round_id, [event._asdict() for event in each])
    _unwritten(session).clear()


def _unwritten(session: Session) -> list[_Event]:
    appended: list[_Event] = session.info.setdefault(_UNWRITTEN, [])
    return appended


def _write(session: Session, round_id: int, each: list[dict[str, Any]]) -> None:
    counted = {"round": round_id, "more": len(each)}
    if session.get_bind().dialect.name == "postgresql":  # in one request: each takes longer than what it does
        told = [event | {"at": event["at"].isoformat()} for event in each]
        session.execute(_COUNT_AND_ADD, counted | {"each": told})
        return
    last = session.scalars(_COUNT, counted).one()
    session.execute(
        _ADD, [event | {"number": last - len(each) + place} for place, event in enumerate(each, start=1)]
    )


def lock(session: Session, round_id: int) -> datetime:
    """Takes a round's row lock until the transaction ends, and returns the time as `clock` does."""
    if session.get_bind().dialect.name == "postgresql":
        at: datetime = session.execute(_LOCK, {"round": round_id}).one()[1]
        return at.astimezone(UTC)
    return clock(session)  # whoever writes to SQLite has all locked


def since(session: Session, round_id: int, number: int, limit: int = 500) -> Sequence[Happened]:
    """The events of a round after the one with this number, in order, at most `limit`."""
    query = (
        select(Event, Job.task, Job.stage, Job.variant, Job.seed)
        .outerjoin(Job, Job.id == Event.job_id)
        .where(Event.round_id == round_id, Event.number > number)
        .order_by(Event.number)
        .limit(limit)
    )
    return [
        Happened(
            number=event.number,
            at=event.at,
            kind=EventKind(event.kind),
            job_id=event.job_id,
            data=_names(job) | event.data,
        )
        for event, *job in session.execute(query)
    ]


def _names(job: Sequence[Any]) -> dict[str, Any]:
    """What names a job, by the records' keys; nothing where there is none."""
    return {} if job[0] is None else dict(zip(("task", "stage", "config", "seed"), job, strict=True))
