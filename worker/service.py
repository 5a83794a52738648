"""The worker: claims jobs one at a time, has its child run them and records how they end.

It decides nothing. What follows from a finished job is the caller's `advance`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from db.errors import DatabaseError, LeaseLost
from worker.breaker import Breaker
from worker.errors import DeviceBusy
from worker.failures import Pattern
from worker.job import CONCLUSIVE, JobResult, Outcome
from worker.limits import Limits
from worker.process import Child
from worker.queue_client import LONGEST_WAIT, Claim, QueueClient
from worker.running import Listener
from worker.supervision import Supervisor

HEALTHY = (*CONCLUSIVE, Outcome.BUILD_FAILED)  # the child can go on after these


def _nothing() -> None:
    """Where there is nothing to tidy up."""


@dataclass
class WorkerService:
    """Runs the jobs of a queue in one child, alone on its device.

    `tidy` is called whenever it runs out of work, or a job was taken from it.
    """

    queue: QueueClient
    child: Child
    listener: Listener
    limits: Limits
    tidy: Callable[[], None] = _nothing
    patterns: tuple[Pattern, ...] = ()

    def __post_init__(self) -> None:
        home = self.queue.home
        self._supervisor = Supervisor(self.child, self.queue, self.limits, self.listener, self.patterns)
        self._breaker = Breaker(self.limits)
        self._lock_path = home / "locks" / f"{self.child.device.replace(':', '-')}.lock"
        self._show_life_at = 0.0
        self._has_worked = False
        self._next: Claim | None = None  # claimed when the last job ended

    def run_until_idle(self) -> None:
        """Works until nothing is queued or running any more; raises DeviceBusy, DatabaseUnreachable."""
        with self._registered():
            while self._run_one() or not self.queue.is_idle():
                self._pause()

    def run_forever(self) -> None:
        """Works until interrupted; raises DeviceBusy, or DatabaseUnreachable when that lasts too long."""
        with self._registered():
            while True:
                self._run_one()
                self._pause()

    @contextmanager
    def _registered(self) -> Iterator[None]:
        """Alone on the device, by a lock that dies with its holder."""
        lock = FileLock(self._lock_path, timeout=0)
        try:
            self._lock_path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:  # an OSError, too
            raise DeviceBusy(
                f"another worker is using {self.child.device} (lock {self._lock_path})"
            ) from None
        except OSError as error:
            raise DeviceBusy(
                f"the lock {self._lock_path}, which keeps other workers off {self.child.device}, cannot be taken: "
                f"{error.strerror}"
            ) from error
        try:
            self.queue.register(self.child.device, self._lock_path)
            try:
                yield
            finally:
                self.child.stop()
                self._next = None
                self.queue.leave()
        finally:
            lock.release()

    def _show_life(self) -> None:
        """Tells the database now and then that the worker is there, also when it has nothing to do."""
        if time.monotonic() >= self._show_life_at:
            self._show_life_at = time.monotonic() + self.limits.heartbeat.total_seconds()
            self.queue.show_life(None)

    def _rest(self) -> None:
        """Takes no job for a while, and says why."""
        reason = f"{self._breaker}; tries again in {self._breaker.seconds_left:.0f} s"
        self.listener.troubled(reason)
        while self._breaker.seconds_left:
            self.queue.show_life(reason)
            time.sleep(min(self._breaker.seconds_left, self.limits.heartbeat.total_seconds()))
        self.queue.show_life(None)

    def _run_one(self) -> bool:
        """Claims and runs a job; False when there is none."""
        claim, self._next = self._next or self.queue.claim(), None
        self._has_worked = claim is not None
        if claim is None:
            return False
        try:
            self.listener.started(claim.job)
            result, unsent = self._attempt(claim)
            if result.outcome not in HEALTHY:
                self.child.stop()  # its memory and its device's state are not to be trusted
            self._watch_health(result)
            may_go_on = not self._breaker.seconds_left
            will_retry, self._next = self.queue.end(claim.lease, result, unsent, go_on=may_go_on)
        except LeaseLost:
            self.child.stop()
            result = JobResult(outcome=Outcome.CANCELLED, reason="taken away from this worker")
            will_retry = False
            self.tidy()
        except BaseException:  # interrupted: the job goes back, whatever the reason
            self.child.stop()
            self.queue.hand_back()
            raise
        self.listener.ended(claim.job, result, will_retry)
        return True

    def _attempt(self, claim: Claim) -> tuple[JobResult, list[dict[str, Any]]]:
        """How an attempt ended; a defect of fsq itself is a crash of the job, and so cannot recur for ever."""
        try:
            return self._supervisor.run(claim)
        except DatabaseError:
            raise
        except Exception as error:
            self.listener.troubled(traceback.format_exc())
            return JobResult(outcome=Outcome.CRASHED, reason=f"{type(error).__name__}: {error}"), []

    def _watch_health(self, result: JobResult) -> None:
        if result.outcome is Outcome.INFRA_FAILED:
            self._breaker.failed(result.reason or "")
        elif result.outcome in HEALTHY:
            self._breaker.succeeded()

    def _pause(self) -> None:
        """Waits until there may be something to do, for a machine that is not sick."""
        if self._breaker.seconds_left:
            self._rest()
        elif not self._has_worked:
            self.tidy()
            self._show_life()
            self.queue.wait(LONGEST_WAIT)
