"""A worker's dealings with the queue: each call is one short transaction."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from db import queue
from db.changes import Changes
from db.errors import LeaseLost
from db.queue import KnownResult, Lease, NextJob
from db.session import Database
from db.tables import Worker
from worker.job import (
    CONCLUSIVE,
    LOG_FILE,
    RESULT_VERSION,
    REUSABLE,
    JobResult,
    JobSpec,
    Outcome,
    run_dir,
    version,
)
from worker.limits import Limits
from worker.patient_database import PatientDatabase, T, Work
from worker.running import RunningJob

LONGEST_SHOWN_REASON = 500  # characters shown of why a worker is paused or a job cannot be read
SHORTEST_WAIT = 0.02  # seconds, when a job could be had but others were just at it
LONGEST_WAIT = 5.0  # seconds between looks for expired leases
EQUAL_AT_WORK = timedelta(seconds=2)  # between looks whether the equal of a job has ended

Advance = Callable[[Session, int, datetime], Any]
# seconds from locking a job's round to claiming the next one with its end: the lease counts from then
LONGEST_BEFORE_A_CLAIM = 1.0


def _none_is_behind(session: Session, now: datetime) -> None:
    """Whatever follows is stored at once."""


class Claim(NamedTuple):
    """A job, and the right to run it."""

    lease: Lease
    job: RunningJob


class Found(NamedTuple):
    """A job that may be claimed, and its result where that is known."""

    job: NextJob
    spec: JobSpec
    known: KnownResult | None


class _UnreadableJob(Exception):
    """A job cannot be read here: another version stored it, or a task kind's code is gone or failed on it."""

    def __init__(self, job: NextJob, error: Exception) -> None:
        said = " ".join(f"cannot be read here: {type(error).__name__}: {error}".split())
        super().__init__(said[:LONGEST_SHOWN_REASON])
        self.job = job


class Ended(NamedTuple):
    """What became of a job whose attempt is over, and what comes next if that is known already."""

    will_retry: bool
    next: Claim | None = None


@dataclass
class QueueClient:
    """The queue, of one round or of all, as one worker uses it.

    `advance` takes the decisions that follow from a job that ended, in the same transaction; what it returns is
    handed to `follow` once that is committed, which returns whether all could be decided. `catch_up` takes some of
    those that were left over of a round that is behind; None when none is. `trouble` is told when the database goes
    away and comes back.
    """

    database: Database
    home: Path
    limits: Limits
    advance: Advance
    follow: Callable[[Any], bool]
    trouble: Callable[[str], None]
    round_id: int | None = None
    catch_up: Callable[[Session, datetime], Any] = _none_is_behind
    worker_id: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._patient = PatientDatabase(self.database, self.limits.patience_seconds, self.trouble)
        self._changes = Changes(self.database)
        self._advanced: list[Any] = []
        self._look_at = 0.0  # when to look for expired leases again
        self.has_failed = False  # whether something could not be measured, and is not tried again

    def register(self, device: str, lock: Path) -> None:
        """Enters this worker; the jobs of earlier holders of its device lock, which must be dead, are taken back."""

        def enter(session: Session, now: datetime) -> int:
            host = socket.gethostname()
            worker = Worker(
                host=host,
                pid=os.getpid(),
                device=device,
                device_lock=f"{host}:{lock.resolve()}",
                started_at=now,
                seen_at=now,
            )
            session.add(worker)
            session.flush()
            lost = queue.requeue_dead(
                session,
                device_lock=worker.device_lock,
                worker_id=worker.id,
                now=now,
                max_attempts=self.limits.max_attempts,
            )
            self._advance_all(session, now, lost)
            return worker.id

        self.worker_id = self._write(enter)

    def leave(self) -> None:
        """Says that this worker has stopped and holds nothing, if the database can hear it."""
        self._changes.close()
        self.hand_back()
        self._patient.try_write(self._set(stopped_at=True))

    def show_life(self, paused: str | None) -> None:
        """Says that this worker is there, and why it takes no job if it takes none."""
        self._patient.write(self._set(paused=paused))

    def _set(self, *, stopped_at: bool = False, paused: str | None = None) -> Work[None]:
        def enter(session: Session, now: datetime) -> None:
            worker = session.get_one(Worker, self.worker_id)
            worker.seen_at, worker.paused = now, paused and " ".join(paused.split())[:LONGEST_SHOWN_REASON]
            if stopped_at:
                worker.stopped_at = now

        return enter

    def claim(self) -> Claim | None:
        """The next job that must be run; known results and unreadable jobs are dealt with on the way."""
        while True:
            claimed = self._write(self._claim)
            if not isinstance(claimed, bool):
                return claimed
            if not claimed:
                return None

    def _claim(self, session: Session, now: datetime) -> Claim | bool:
        """A claim; or whether to look again: a round caught up, or a job was taken back, put off, or known."""
        if (advanced := self.catch_up(session, now)) is not None:
            self._advanced.append(advanced)
            queue.show_life(session, self.worker_id, now=now)
            return True
        queue.hand_back_all(session, worker_id=self.worker_id, now=now)
        expired = queue.requeue_expired(session, now=now, max_attempts=self.limits.max_attempts)
        self._look_at = time.monotonic() + LONGEST_WAIT
        if expired:
            self._advance_all(session, now, expired)
            return True
        try:
            found = self._find(session, now)
        except _UnreadableJob as error:
            self._put_off(session, now, error)
            return True
        if found is None:
            return False
        claim = self._take(session, now, found)
        if found.known is None:
            return claim
        queue.complete_from_cache(session, claim.lease, found.known, now=now, outcome=Outcome.CACHED)
        self._advance_all(session, now, [claim.lease.job_id])
        return True

    def _next_to_run(self, session: Session, now: datetime, locked: int) -> Claim | None:
        """The next job to run, if there is one; `locked` is the round in which one has ended in this transaction.

        None, too, where only `claim` can go on: leases have expired or a round is behind (both looked for as often as
        by an idle worker), the result of the next job is known (what follows may touch other rounds), or it cannot
        be read.
        """
        if time.monotonic() >= self._look_at:
            if queue.has_expired(session, now=now) or queue.rounds_behind(session, round_id=self.round_id):
                return None
            self._look_at = time.monotonic() + LONGEST_WAIT
        with suppress(_UnreadableJob):
            found = self._find(session, now, locked)
            if found is not None and found.known is None:
                return self._take(session, now, found)
        return None

    def _find(self, session: Session, now: datetime, locked: int | None = None) -> Found | None:
        """The next job, under the names that this version has for its result: another may have queued it.

        One whose equal another worker runs waits for that one's result. Raises _UnreadableJob.
        """
        while job := queue.next_job(session, now=now, round_id=self.round_id, locked=locked):
            try:
                spec = JobSpec.from_json(job.payload)
            except Exception as error:  # of a task kind's own code: anything
                raise _UnreadableJob(job, error) from error
            is_alone = job.is_alone if job.fingerprint == spec.fingerprint else None
            job = job._replace(fingerprint=spec.fingerprint, trajectory=spec.trajectory)
            answers = queue.Answers(REUSABLE, here=job.round_id, outcomes_here=CONCLUSIVE)
            equals = queue.equals(session, job.fingerprint, answers, is_alone=is_alone)
            if not equals.is_at_work:
                return Found(job, spec, equals.known)
            queue.let_wait(session, job, until=now + EQUAL_AT_WORK)
        return None

    def _put_off(self, session: Session, now: datetime, unreadable: _UnreadableJob) -> None:
        """Counts an attempt at a job that cannot be read, as if a file of it were missing: it holds up no other."""
        job = unreadable.job
        self.trouble(f"job {job.id} of round {job.round} {unreadable}")
        lease = queue.take(session, job, worker_id=self.worker_id, now=now, lease_for=self.limits.lease)
        self.has_failed |= not self._fail(session, now, lease, Outcome.INFRA_FAILED, str(unreadable))
        self._advance_all(session, now, [lease.job_id])

    def _take(self, session: Session, now: datetime, found: Found) -> Claim:
        job = found.job
        lease = queue.take(session, job, worker_id=self.worker_id, now=now, lease_for=self.limits.lease)
        arm = (job.task, job.stage, job.variant, job.seed)
        log = self.home / run_dir(job.round, *arm) / LOG_FILE
        return Claim(lease, RunningJob(job.round, *arm, attempt=job.attempts + 1, spec=found.spec, log=log))

    def report(self, lease: Lease, evaluations: Sequence[dict[str, Any]], *, beat: bool) -> bool:
        """Stores evaluations and renews the lease, or only asks whether it stands; raises LeaseLost.

        Does not wait for a database that is away: returns whether it was there.
        """

        def work(session: Session, now: datetime) -> None:
            if evaluations:
                queue.record_evaluations(session, lease, evaluations, now=now)
            if beat:
                queue.heartbeat(session, lease, now=now, lease_for=self.limits.lease)

        if evaluations or beat:
            of_round = lease.round_id if evaluations else None  # a heartbeat alone is no event
            return self._patient.try_write(work, round_id=of_round)
        return self._patient.try_read(lambda session, _: queue.require_held(session, lease))

    def end(
        self, lease: Lease, result: JobResult, evaluations: Sequence[dict[str, Any]], *, go_on: bool
    ) -> Ended:
        """Stores how an attempt ended, and claims the next job with it if this worker is to `go_on`.

        Without a next job there may be one nevertheless: `claim` looks at more. Raises LeaseLost.
        """

        def work(session: Session, now: datetime) -> Ended:
            began = time.monotonic()
            will_retry = self._end(session, now, lease, result, evaluations)
            may_claim = go_on and time.monotonic() < began + LONGEST_BEFORE_A_CLAIM
            return Ended(will_retry, self._next_to_run(session, now, lease.round_id) if may_claim else None)

        try:
            ended = self._write(work, lease.round_id)
        except LeaseLost:
            if not self._patient.read(lambda session, _: queue.has_ended(session, lease, result.outcome)):
                raise
            ended = Ended(will_retry=False)  # it had been stored, but the database's answer never came
        self.has_failed |= not ended.will_retry and result.outcome.is_failure
        return ended

    def _end(
        self,
        session: Session,
        now: datetime,
        lease: Lease,
        result: JobResult,
        evaluations: Sequence[dict[str, Any]],
    ) -> bool:
        if evaluations:
            queue.record_evaluations(session, lease, evaluations, now=now)
        will_retry = False
        if result.outcome.is_retried:
            will_retry = self._fail(session, now, lease, result.outcome, result.reason or "")
        else:
            marks = {"version": version("fsq"), "result_version": RESULT_VERSION}
            content = result.model_copy(update=marks).model_dump(mode="json")
            queue.complete(
                session, lease, now=now, outcome=result.outcome, reason=result.reason, result=content
            )
        self._advance_all(session, now, [lease.job_id])
        return will_retry

    def _fail(self, session: Session, now: datetime, lease: Lease, outcome: Outcome, reason: str) -> bool:
        """Stores a failed attempt; returns whether there will be another."""
        limits, is_infrastructure = self.limits, outcome is Outcome.INFRA_FAILED
        return queue.give_up(
            session,
            lease,
            now=now,
            outcome=outcome,
            reason=reason,
            back_off=limits.back_off,
            max_attempts=limits.max_infra_attempts if is_infrastructure else limits.max_attempts,
            is_infrastructure=is_infrastructure,
        )

    def hand_back(self) -> None:
        """Requeues whatever this worker holds, if the database can hear it; the attempt does not count."""
        self._patient.try_write(self._hand_back)

    def _hand_back(self, session: Session, now: datetime) -> None:
        queue.hand_back_all(session, worker_id=self.worker_id, now=now, wait=True)

    def wait(self, seconds: float = LONGEST_WAIT) -> None:
        """Waits until something has changed, or a queued job's time has come, at most so long."""

        def until_start(session: Session, now: datetime) -> float:
            start = queue.next_start(session, round_id=self.round_id)
            return (start - now).total_seconds() if start else seconds

        until = self._patient.read(until_start)
        self._patient.patiently(lambda: self._changes.wait(min(seconds, max(until, SHORTEST_WAIT))))

    def is_idle(self) -> bool:
        """Whether nothing is queued or running, nor a round behind that somebody could work out."""

        def ask(session: Session, now: datetime) -> bool:
            of_round = {"round_id": self.round_id}
            if queue.next_start(session, **of_round) is not None or queue.is_running(session, **of_round):
                return False
            return all(one.is_held_up for one in queue.rounds_behind(session, **of_round))

        return self._patient.read(ask)

    def _advance_all(self, session: Session, now: datetime, job_ids: Sequence[int]) -> None:
        session.flush()
        self._advanced += [self.advance(session, job_id, now) for job_id in job_ids]

    def _write(self, work: Work[T], round_id: int | None = None) -> T:
        """One transaction, tried again from its start; what it decided is followed once it is committed."""

        def from_the_start(session: Session, now: datetime) -> T:
            self._advanced.clear()
            return work(session, now)

        return self._patient.write(from_the_start, round_id=round_id, then=self._follow_all)

    def _follow_all(self) -> None:
        for advanced in self._advanced:
            self.has_failed |= not self.follow(advanced)
