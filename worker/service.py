"""The worker: claims jobs, has its child run them, keeps their leases alive and records how they end.

It decides nothing. What follows from a finished job is the caller's `advance`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from sqlalchemy.orm import Session

from db import queue
from db.errors import LeaseLost
from db.queue import Lease
from db.session import Database
from db.tables import Job, Worker
from worker.devices import torch_name
from worker.errors import DeviceBusy
from worker.job import LOG_FILE, MEASURED, Evaluation, JobResult, JobSpec, Outcome, run_dir
from worker.process import Child, ChildDied

LEASE = timedelta(seconds=60)
HEARTBEAT = LEASE / 6
LONGEST_POLL = 0.5  # seconds between looks at an empty queue
BACK_OFF = timedelta(seconds=5)  # after the first failed attempt; doubles with each


@dataclass(frozen=True)
class RunningJob:
    """A claimed job, as listeners see it."""

    round: str
    task: str
    stage: str
    variant: str
    seed: int
    attempt: int
    spec: JobSpec
    log: Path

    def __str__(self) -> str:
        return f"{self.task} {self.stage} {self.variant} seed {self.seed}"


class Listener(Protocol):
    """Is told what the worker does, for display."""

    def started(self, job: RunningJob) -> None: ...
    def progressed(self, job: RunningJob, step: int, seconds: float, loss: float) -> None: ...
    def evaluated(self, job: RunningJob, evaluation: Evaluation) -> None: ...
    def ended(self, job: RunningJob, result: JobResult, will_retry: bool) -> None: ...


@dataclass
class WorkerService:
    """Runs jobs on one device, of one round or of any, one at a time.

    `advance` takes the decisions that follow from a job that ended, in the same transaction; what it returns is
    handed to `announce` once that is committed.
    """

    database: Database
    home: Path
    device: str
    advance: Callable[[Session, int], Any]
    announce: Callable[[Any], None]
    listener: Listener
    round_id: int | None = None

    def __post_init__(self) -> None:
        self._announcements: list[Any] = []
        self._show_life_at = time.monotonic() + HEARTBEAT.total_seconds()
        self._child = Child(torch_name(self.device), self.home)
        self._lock_path = self.home / "locks" / f"{self.device.replace(':', '-')}.lock"

    def run_until_idle(self) -> None:
        """Works until nothing is queued or running any more; raises DeviceBusy."""
        with self._registered() as worker_id:
            while self._run_one(worker_id) or self._wait_for_work():
                self._show_life(worker_id)

    def run_forever(self) -> None:
        """Works until interrupted; raises DeviceBusy."""
        pause = 0.02
        with self._registered() as worker_id:
            while True:
                worked = self._run_one(worker_id)
                pause = 0.02 if worked else min(pause * 1.5, LONGEST_POLL)
                if not worked:
                    self._show_life(worker_id)
                    time.sleep(pause)

    @contextmanager
    def _registered(self) -> Iterator[int]:
        """Alone on the device; jobs of earlier holders of its lock, which must be dead, are taken back."""
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock_path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise DeviceBusy(f"another worker is using {self.device} (lock {self._lock_path})") from None
        try:
            worker_id = self._register()
            try:
                yield worker_id
            finally:
                self._child.stop()
                with self.database.write() as session:
                    session.get_one(Worker, worker_id).stopped_at = _now()
        finally:
            lock.release()

    def _register(self) -> int:
        host = socket.gethostname()
        worker = Worker(
            host=host,
            pid=os.getpid(),
            device=self.device,
            device_lock=f"{host}:{self._lock_path.resolve()}",
            started_at=_now(),
            seen_at=_now(),
        )
        with self.database.write() as session:
            session.add(worker)
            session.flush()
            for job_id in queue.requeue_dead(
                session, device_lock=worker.device_lock, worker_id=worker.id, now=_now()
            ):
                self._advance(session, job_id)  # one that was lost for the last time has ended
            worker_id = worker.id
        self._announce()
        return worker_id

    def _show_life(self, worker_id: int) -> None:
        """Tells the database now and then that the worker is there, also when it has nothing to do."""
        if time.monotonic() >= self._show_life_at:
            self._show_life_at = time.monotonic() + HEARTBEAT.total_seconds()
            with self.database.write() as session:
                session.get_one(Worker, worker_id).seen_at = _now()

    def _wait_for_work(self) -> bool:
        """Pauses while something is queued for later or running elsewhere; False when nothing is."""
        with self.database.read() as session:
            start = queue.next_start(session, round_id=self.round_id)
            running = queue.is_running(session, round_id=self.round_id)
        if start is None and not running:
            return False
        until_start = (start - _now()).total_seconds() if start else LONGEST_POLL
        time.sleep(max(0.0, min(until_start, LONGEST_POLL)))
        return True

    def _run_one(self, worker_id: int) -> bool:
        """Claims and runs a job; False when there is none."""
        with self.database.write() as session:
            for job_id in queue.requeue_expired(session, now=_now()):
                self._advance(session, job_id)
            lease = queue.claim(
                session, worker_id=worker_id, now=_now(), lease_for=LEASE, round_id=self.round_id
            )
            if lease is None:
                return False
            job = self._running(session.get_one(Job, lease.job_id))
            cached = queue.known_result(session, job.spec.fingerprint, MEASURED)
            if cached is not None:
                queue.complete_from_cache(session, lease, cached, now=_now(), outcome=Outcome.CACHED)
                self._advance(session, lease.job_id)
        if cached is None:
            self._run_claimed(lease, job)
        self._announce()
        return True

    def _advance(self, session: Session, job_id: int) -> None:
        session.flush()
        self._announcements.append(self.advance(session, job_id))

    def _announce(self) -> None:
        """Tells what was decided, now that it is committed."""
        for announcement in self._announcements:
            self.announce(announcement)
        self._announcements.clear()

    def _running(self, job: Job) -> RunningJob:
        round_name = job.round.name
        folder = self.home / run_dir(round_name, job.task, job.stage, job.variant, job.seed)
        return RunningJob(
            round=round_name,
            task=job.task,
            stage=job.stage,
            variant=job.variant,
            seed=job.seed,
            attempt=job.attempts,
            spec=JobSpec.from_json(job.payload),
            log=folder / LOG_FILE,
        )

    def _run_claimed(self, lease: Lease, job: RunningJob) -> None:
        self.listener.started(job)
        try:
            result = self._supervise(lease, job)
            will_retry = self._record(lease, job, result)
        except LeaseLost:
            self._child.stop()
            result, will_retry = (
                JobResult(outcome=Outcome.CANCELLED, reason="taken away from this worker"),
                False,
            )
        except BaseException:  # interrupted: the job goes back, whatever the reason
            self._child.stop()
            with suppress(LeaseLost), self.database.write() as session:
                queue.hand_back(session, lease, now=_now())
            raise
        self.listener.ended(job, result, will_retry)

    def _supervise(self, lease: Lease, job: RunningJob) -> JobResult:
        """Passes on what the child reports until the job ends; raises LeaseLost."""
        try:
            self._child.start_job(job.spec, job.log)
            beat_at = time.monotonic() + HEARTBEAT.total_seconds()
            while True:
                message = self._child.next_message(max(0.0, beat_at - time.monotonic()))
                if message is None or time.monotonic() >= beat_at:
                    with self.database.write() as session:
                        queue.heartbeat(session, lease, now=_now(), lease_for=LEASE)
                    beat_at = time.monotonic() + HEARTBEAT.total_seconds()
                if message is None:
                    continue
                if message.kind == "ended":
                    return JobResult.from_json(message.content)
                self._pass_on(lease, job, message.kind, message.content)
        except ChildDied as death:
            return JobResult(outcome=Outcome.CRASHED, reason=f"{death}; its output is in {job.log}")

    def _pass_on(self, lease: Lease, job: RunningJob, kind: str, content: dict[str, Any]) -> None:
        if kind == "evaluated":
            with self.database.write() as session:
                queue.record_evaluation(session, lease, content, now=_now())
            self.listener.evaluated(job, Evaluation.from_json(content))
        else:
            self.listener.progressed(job, **content)

    def _record(self, lease: Lease, job: RunningJob, result: JobResult) -> bool:
        """Stores how the job ended; returns whether it will be tried again."""
        with self.database.write() as session:
            if result.outcome.is_retried:
                back_off = BACK_OFF * 2 ** (job.attempt - 1)
                reason = result.reason or ""
                will_retry = queue.give_up(
                    session, lease, now=_now(), outcome=result.outcome, reason=reason, back_off=back_off
                )
                self._advance(session, lease.job_id)
                return will_retry
            queue.complete(
                session,
                lease,
                now=_now(),
                outcome=result.outcome,
                reason=result.reason,
                result=result.model_dump(mode="json"),
            )
            self._advance(session, lease.job_id)
            return False


def _now() -> datetime:
    return datetime.now(UTC)
