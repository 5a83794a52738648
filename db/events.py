"""What happened in a round, numbered without gaps in the order in which it was committed.

Whatever of a round can be seen changes together with an event: `Round.n_events` is the version that answers are
cached under. Appending takes the round's row lock until the transaction ends. Whatever also changes jobs must take
that lock first (a parent, then its children, then jobs), so that no two transactions wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import bindparam, column, func, insert, select, true, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from db.tables import EVENTS, ROUNDS, Event, Job

CHANNEL = "fsq"  # on which PostgreSQL tells whoever listens that something has happened
_LOCK = select(ROUNDS.c.id).where(ROUNDS.c.id == bindparam("round")).with_for_update(key_share=True)
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
    .table_valued(column("data", JSONB), with_ordinality="place", name="one")
    .render_derived()
)
_COUNT_AND_ADD = _ADD.from_select(
    ["number", "data", "round_id", "at", "kind", "job_id"],
    select(
        _COUNTED.c.n_events - bindparam("more") + _EACH.c.place,
        _EACH.c.data,
        *(bindparam(name, type_=EVENTS.c[name].type) for name in ("round_id", "at", "kind", "job_id")),
    ).select_from(_COUNTED.join(_EACH, true())),
)


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


def append(
    session: Session, round_id: int, kind: EventKind, *, now: datetime, job_id: int | None = None, **data: Any
) -> None:
    """Adds an event to a round, which is locked from here to the end of the transaction.

    When that is committed, whoever waits for something to do hears of it (see db.changes).
    """
    append_all(session, round_id, kind, [data], now=now, job_id=job_id)


def append_all(
    session: Session,
    round_id: int,
    kind: EventKind,
    each: Sequence[dict[str, Any]],
    *,
    now: datetime,
    job_id: int | None = None,
) -> None:
    """Adds events of one kind, at least one, as `append` does."""
    common = {"round_id": round_id, "at": now, "kind": kind, "job_id": job_id}
    more = {"round": round_id, "more": len(each)}
    if session.get_bind().dialect.name == "postgresql":  # in one request: each takes longer than what it does
        session.execute(_COUNT_AND_ADD, common | more | {"each": each})
        return
    last = session.scalars(_COUNT, more).one()
    numbers = range(last - len(each) + 1, last + 1)
    session.execute(
        _ADD, [common | {"number": number, "data": data} for number, data in zip(numbers, each, strict=True)]
    )


def lock(session: Session, round_id: int) -> None:
    """Takes a round's row lock as `append` does, for who must look before there is something to tell."""
    session.execute(_LOCK, {"round": round_id})


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
