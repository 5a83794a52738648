"""The job queue: claims with leases and fencing tokens, heartbeats, completion, requeueing.

Every transition names its holder's fencing token, so a worker that comes back from the dead cannot overwrite
what its successor wrote. Execution is at least once; each job ends in exactly one recorded outcome. A job is given
up after some attempts in a row that came to nothing; one that got as far as a new evaluation starts the count anew.
Every transition is an event of the round, which whoever holds a lease must have locked before (see db.events).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Row,
    Update,
    and_,
    select,
    update,
)
from sqlalchemy.orm import Session

from db import events
from db.errors import LeaseLost
from db.events import EventKind
from db.statements import (
    ALONE_WITH,
    AN_EXPIRED,
    BEHIND,
    EVALUATED,
    EXPIRED,
    FORGET,
    HELD,
    HELD_FREE,
    KNOWN,
    MAY_RUN_ANOTHER,
    OF_FREE_ROUND,
    OF_HELD,
    OF_JOB,
    OF_THIS_FREE_ROUND,
    OLDEST,
    REACHED,
    REQUEUED,
    RUNNING,
    RUNNING_OR_KNOWN,
    SEEN,
    STORED,
    UNCOUNTED,
)
from db.tables import AT_ONCE, Job, JobState, Round, RoundState, Worker

MAX_ATTEMPTS = 3
LONGEST_BACK_OFF = timedelta(minutes=10)
LONGEST_LEASE = timedelta(hours=1)
_LOST = "lost"  # the outcome of an attempt of which nothing was heard again


@dataclass(frozen=True)
class Lease:
    """A worker's right to run one job until it expires."""

    job_id: int
    round_id: int
    worker_id: int
    token: int


class KnownResult(NamedTuple):
    """How a job ended, for others of its fingerprint."""

    job_id: int
    result: dict[str, Any]
    reason: str | None


class Answers(NamedTuple):
    """Which outcomes of a job are those of its equals, too: of all rounds, and of those in one round beside them."""

    outcomes: Collection[str]
    here: int | None = None
    outcomes_here: Collection[str] = ()

    def of(self, fingerprint: str) -> dict[str, Any]:
        """The parameters of a query for one."""
        return {
            "known": fingerprint,
            "outcomes": list(self.outcomes),
            "here": self.here,
            "outcomes_here": list(self.outcomes_here),
        }


class Equals(NamedTuple):
    """Other jobs of one fingerprint: whether one is being run; if none is, a result of theirs."""

    is_at_work: bool
    known: KnownResult | None = None


class NextJob(NamedTuple):
    """The job that may run now; nobody else can take it, or change its round, until the transaction ends."""

    id: int
    round_id: int
    task: str
    stage: str
    variant: str
    seed: int
    payload: dict[str, Any]
    fingerprint: str
    trajectory: str | None
    attempts: int
    fencing_token: int
    round: str
    is_alone: bool  # whether no other transaction is about to take a job of this fingerprint, or can be


def next_job(
    session: Session, *, now: datetime, round_id: int | None = None, locked: int | None = None
) -> NextJob | None:
    """The oldest job that may run now, of one round or of any; None when there is none.

    `now` is the same clock for all workers (`db.clock`); `locked` a round that this transaction has locked.

    A round that another transaction is changing at this moment is passed over.
    """
    asked: dict[str, Any] = {"now": now, "far": now + LONGEST_BACK_OFF, "round_id": round_id}
    is_alone = session.get_bind().dialect.name == "sqlite"  # has all locked
    first_look = OF_FREE_ROUND if round_id is None else OF_THIS_FREE_ROUND
    while (job := session.execute(first_look, asked).first()) is not None:
        if not is_alone and job.round_id != locked:
            # before the round was locked others may have taken it, or given an older one back
            job = session.execute(OLDEST, asked | {"round_id": job.round_id}).first()
        if job is not None:
            return NextJob(**job._mapping)
    return None


def take(session: Session, job: NextJob, *, worker_id: int, now: datetime, lease_for: timedelta) -> Lease:
    """Leases the next job, and stores it under the fingerprint and trajectory that `job` has."""
    lease = Lease(job_id=job.id, round_id=job.round_id, worker_id=worker_id, token=job.fencing_token + 1)
    taken = {
        "state": JobState.RUNNING,
        "attempts": job.attempts + 1,
        "worker_id": worker_id,
        "fencing_token": lease.token,
        "lease_expires_at": now + lease_for,
        "started_at": now,
        "fingerprint": job.fingerprint,
        "trajectory": job.trajectory,
    }
    session.execute(OF_JOB, taken | {"job": job.id})
    if job.fencing_token:
        session.execute(FORGET, {"job": job.id})  # the evaluations of an attempt that was cut short
    _tell(session, lease, EventKind.JOB_STARTED, now, attempt=job.attempts + 1)
    return lease


def heartbeat(session: Session, lease: Lease, *, now: datetime, lease_for: timedelta) -> None:
    """Extends the lease; raises LeaseLost when the job is no longer this worker's."""
    _change(session, lease, lease_expires_at=now + lease_for)
    show_life(session, lease.worker_id, now=now)


def record_evaluations(
    session: Session, lease: Lease, evaluations: Sequence[dict[str, Any]], *, now: datetime
) -> None:
    """Stores evaluations of a running job, at least one; one told again changes nothing. Raises LeaseLost."""
    stored = set(session.scalars(STORED, {"job": lease.job_id}))
    new = [one for one in evaluations if one["step"] not in stored]
    if not new:
        require_held(session, lease)
        return
    for one in new:
        told = {name: value for name, value in one.items() if name != "correct"}
        _tell(session, lease, EventKind.EVALUATED, now, **told)
    _require_one(session, REACHED, lease, {"step": max(one["step"] for one in new)})
    session.execute(EVALUATED, [{"job_id": lease.job_id} | one for one in new])


def complete(
    session: Session, lease: Lease, *, now: datetime, outcome: str, reason: str | None, result: dict[str, Any]
) -> None:
    """Ends the job with its outcome; raises LeaseLost when it is no longer this worker's."""
    _tell(session, lease, EventKind.JOB_ENDED, now, outcome=outcome, reason=reason)
    ended = {"state": JobState.DONE, "lease_expires_at": None, "finished_at": now}
    _change(session, lease, outcome=outcome, reason=reason, result=result, **ended)


def complete_from_cache(
    session: Session, lease: Lease, known: KnownResult, *, now: datetime, outcome: str
) -> None:
    """Ends the job with the result of another of equal fingerprint; raises LeaseLost."""
    complete(session, lease, now=now, outcome=outcome, reason=known.reason, result=known.result)
    session.execute(OF_JOB, {"job": lease.job_id, "cached_from_id": known.job_id})


def end_new(
    session: Session, round_id: int, job_id: int, known: KnownResult, *, now: datetime, outcome: str
) -> None:
    """Ends a job that nobody has seen yet with the result of another of equal fingerprint."""
    told = {"outcome": outcome, "reason": known.reason}
    events.append(session, round_id, EventKind.JOB_ENDED, now=now, job_id=job_id, **told)
    ended = {"state": JobState.DONE, "finished_at": now, "cached_from_id": known.job_id}
    session.execute(OF_JOB, {"job": job_id, "result": known.result, **told, **ended})


def give_up(
    session: Session,
    lease: Lease,
    *,
    now: datetime,
    outcome: str,
    reason: str,
    back_off: timedelta,
    max_attempts: int = MAX_ATTEMPTS,
    is_infrastructure: bool = False,
) -> bool:
    """Requeues a job whose attempt failed; ends it after `max_attempts` in a row that came to nothing.

    Failures of the infrastructure and others are counted apart: neither uses up the attempts of the other. The job
    may run again at once, then after `back_off`, then after 3, 7, 15 times that. Returns whether it will; raises
    LeaseLost.
    """
    counter = Job.infra_failures if is_infrastructure else Job.fruitless
    failures = 1 + (session.scalar(select(counter).where(Job.id == lease.job_id)) or 0)
    if failures >= max_attempts:
        complete(session, lease, now=now, outcome=outcome, reason=reason, result={"outcome": outcome})
        return False
    pause = min(back_off * (2 ** min(failures - 1, 20) - 1), LONGEST_BACK_OFF)
    not_before = now + pause if pause else AT_ONCE
    _tell(session, lease, EventKind.JOB_REQUEUED, now, outcome=outcome, reason=reason)
    counted = {counter.key: failures}
    _change(session, lease, not_before=not_before, reason=reason, **counted, **REQUEUED)
    return True


def hand_back(session: Session, lease: Lease, *, now: datetime) -> None:
    """Requeues a job that was interrupted through no fault of its own; the attempt does not count."""
    _tell(session, lease, EventKind.JOB_REQUEUED, now, outcome=None, reason="its worker was stopped")
    _require_one(session, UNCOUNTED, lease, {"not_before": AT_ONCE, **REQUEUED})


def hand_back_all(session: Session, *, worker_id: int, now: datetime, wait: bool = False) -> None:
    """Requeues whatever a worker holds, known to it or not: a commit's answer may not have come.

    A job whose round another transaction is changing is passed over, unless `wait` is set.
    """
    for job in session.scalars(HELD if wait else HELD_FREE, {"worker": worker_id}).all():
        lease = Lease(job.id, job.round_id, worker_id, job.fencing_token)
        if wait:
            events.lock(session, job.round_id)
            session.refresh(job)
            if (job.state, job.fencing_token) != (JobState.RUNNING, lease.token):
                continue
        hand_back(session, lease, now=now)


def requeue_expired(session: Session, *, now: datetime, max_attempts: int = MAX_ATTEMPTS) -> list[int]:
    """Takes back the jobs whose lease ran out, ends those without attempts left; returns their ids.

    A lease that would end later than any given now was given before the clock was set back.
    """
    expired = session.scalars(EXPIRED, _expiry(now))
    return _take_back(session, expired.all(), now, "the lease expired", max_attempts)


def has_expired(session: Session, *, now: datetime) -> bool:
    """Whether a lease has run out; changes and locks nothing."""
    return session.execute(AN_EXPIRED, _expiry(now)).first() is not None


def _expiry(now: datetime) -> dict[str, datetime]:
    """The parameters by which leases that ran out are found."""
    return {"now": now, "far": now + LONGEST_LEASE}


def requeue_dead(
    session: Session, *, device_lock: str, worker_id: int, now: datetime, max_attempts: int = MAX_ATTEMPTS
) -> list[int]:
    """Takes back the jobs of earlier holders of a device lock that `worker_id` now holds; returns their ids."""
    dead = select(Worker.id).where(Worker.device_lock == device_lock, Worker.id != worker_id)
    session.execute(
        update(Worker)
        .where(Worker.id.in_(dead), Worker.stopped_at.is_(None))
        .values(stopped_at=Worker.seen_at)
    )
    held = session.scalars(RUNNING.where(Job.worker_id.in_(dead)))
    return _take_back(session, held.all(), now, "its worker died", max_attempts)


def _take_back(
    session: Session, jobs: Sequence[Job], now: datetime, reason: str, max_attempts: int
) -> list[int]:
    """Requeues jobs that were lost, or ends those without attempts left; returns their ids."""
    for job in jobs:
        job.fruitless += 1
        again = job.fruitless < max_attempts
        kind = EventKind.JOB_REQUEUED if again else EventKind.JOB_ENDED
        events.append(session, job.round_id, kind, now=now, job_id=job.id, outcome=_LOST, reason=reason)
        job.lease_expires_at = None
        job.worker_id = None
        job.reason = reason
        if again:
            job.state, job.not_before = JobState.QUEUED, AT_ONCE
        else:
            job.state, job.outcome, job.finished_at = JobState.DONE, _LOST, now
            job.result = {"outcome": _LOST}
    session.flush()
    return [job.id for job in jobs]


def end_unfinished(session: Session, round_id: int, *, now: datetime, outcome: str, reason: str) -> None:
    """Ends what of a round is queued or running: it is the round that ended, so no job has an event of it."""
    for job in session.scalars(select(Job).where(Job.round_id == round_id, Job.state != JobState.DONE)):
        job.state, job.outcome, job.reason, job.result = JobState.DONE, outcome, reason, {"outcome": outcome}
        job.lease_expires_at, job.finished_at = None, now


def run_again(jobs: Sequence[Job]) -> None:
    """Queues jobs that have ended, as if nobody had tried them."""
    for job in jobs:
        job.state, job.outcome, job.reason, job.result = JobState.QUEUED, None, None, None
        job.attempts, job.fruitless, job.infra_failures, job.reached, job.finished_at = 0, 0, 0, 0, None
        job.not_before = AT_ONCE


def has_ended(session: Session, lease: Lease, outcome: str) -> bool:
    """Whether the job ended so under this very lease: the commit was made, though its answer never came."""
    ended = and_(Job.state == JobState.DONE, Job.outcome == outcome, Job.fencing_token == lease.token)
    return session.scalar(select(Job.id).where(Job.id == lease.job_id, ended)) is not None


def require_held(session: Session, lease: Lease) -> None:
    """Raises LeaseLost when the job is no longer this worker's."""
    if session.scalar(select(Job.id).where(*_held(lease))) is None:
        raise _lost(lease)


def known_result(session: Session, fingerprint: str, answers: Answers) -> KnownResult | None:
    """How the first job ended that had one of these outcomes under a fingerprint."""
    found = session.execute(KNOWN, answers.of(fingerprint)).first()
    return _known(found)


def _known(found: Row[Any, Any, Any, Any] | None) -> KnownResult | None:
    return None if found is None else KnownResult(found.id, found.result or {}, found.reason)


def equals(session: Session, fingerprint: str, answers: Answers, *, is_alone: bool | None = None) -> Equals:
    """Whether somebody runs, or is about to take, a job of this fingerprint; else how the first ended, if one has.

    If nobody does, nobody else finds so until the transaction ends. `is_alone` is `NextJob.is_alone` of the
    fingerprint, where that is known.
    """
    if is_alone is None:
        is_alone = session.scalar(ALONE_WITH, {"fingerprint": fingerprint})
    if not is_alone:
        return Equals(is_at_work=True)
    found = session.execute(RUNNING_OR_KNOWN, answers.of(fingerprint)).all()
    if any(one.state is JobState.RUNNING for one in found):
        return Equals(is_at_work=True)
    return Equals(is_at_work=False, known=_known(found[0] if found else None))


def let_wait(session: Session, job: NextJob, *, until: datetime) -> None:
    """Lets the next job wait; it has not been tried."""
    session.execute(OF_JOB, {"job": job.id, "not_before": until})


def next_start(session: Session, *, round_id: int | None = None) -> datetime | None:
    """When the next queued job may start at the earliest; None when none is, or all wait for running ones."""
    query = (
        select(Job.not_before)
        .join(Round)
        .where(Job.state == JobState.QUEUED, Round.state == RoundState.ACTIVE, MAY_RUN_ANOTHER)
    )
    if round_id is not None:
        query = query.where(Job.round_id == round_id)
    return session.scalars(query.order_by(Job.not_before).limit(1)).first()


def is_running(session: Session, *, round_id: int | None = None) -> bool:
    """Whether some worker holds a job, of one round or of any."""
    query = select(Job.id).where(Job.state == JobState.RUNNING)
    if round_id is not None:
        query = query.where(Job.round_id == round_id)
    return session.execute(query.limit(1)).first() is not None


class Behind(NamedTuple):
    """A round of which something has yet to follow that was too much for one transaction."""

    round_id: int
    version: int  # its number of events
    is_held_up: bool  # somebody could not work it out


def rounds_behind(session: Session, *, round_id: int | None = None) -> list[Behind]:
    """Those of all rounds, or only this one, that are behind, the oldest first."""
    query = BEHIND if round_id is None else BEHIND.where(Round.id == round_id)
    return [Behind(*row) for row in session.execute(query)]


def show_life(session: Session, worker_id: int, *, now: datetime) -> None:
    """Says that a worker is there."""
    session.execute(SEEN, {"worker": worker_id, "seen_at": now})


def _held(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return Job.id == lease.job_id, Job.state == JobState.RUNNING, Job.fencing_token == lease.token


def _tell(session: Session, lease: Lease, kind: EventKind, now: datetime, **data: Any) -> None:
    events.append(session, lease.round_id, kind, now=now, job_id=lease.job_id, **data)


def _change(session: Session, lease: Lease, **values: Any) -> None:
    """Changes a job that the worker still holds; raises LeaseLost."""
    _require_one(session, OF_HELD, lease, values)


def _require_one(session: Session, statement: Update, lease: Lease, values: dict[str, Any]) -> None:
    result = session.execute(statement, {"job": lease.job_id, "token": lease.token} | values)
    assert isinstance(result, CursorResult)  # noqa: S101  (an UPDATE always gives one)
    if result.rowcount != 1:
        raise _lost(lease)


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"job {lease.job_id} is no longer leased to worker {lease.worker_id}")
