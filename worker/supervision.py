"""Following one job in the child from its start to its end: what it reports goes on to the queue.

A database that is away holds up neither the child nor the watch over it: evaluations wait here until it is back.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from db.queue import Lease
from worker import failures
from worker.failures import LOG_TAIL, Pattern
from worker.job import Evaluation, JobResult, Outcome
from worker.job_log import JobLog
from worker.limits import Limits
from worker.process import Child, ChildDied, Message, Said
from worker.queue_client import Claim, QueueClient
from worker.running import Listener, RunningJob
from worker.watchdog import Hung, Watchdog

TICK = 0.5  # seconds between looks at a silent child
LOOK = 1.0  # seconds between looks whether the job is still ours: a cancelled one stops within two
TELL = 0.1  # seconds between evaluations told: a quick run tells several at once
PAUSE = 2.0  # seconds before the next try when the database is away


@dataclass
class Supervisor:
    """Runs claimed jobs in one child."""

    child: Child
    queue: QueueClient
    limits: Limits
    listener: Listener
    patterns: tuple[Pattern, ...] = ()

    def run(self, claim: Claim) -> tuple[JobResult, list[dict[str, Any]]]:
        """How the attempt ended, and the evaluations that are not stored yet; raises LeaseLost."""
        job = claim.job
        unsent: list[dict[str, Any]] = []
        try:
            log = JobLog(job.log, self.limits.log_bytes)
            self.child.start_job(job.spec, job.log)
        except OSError as error:
            return JobResult(
                outcome=Outcome.INFRA_FAILED, reason=f"the job cannot be started: {error}"
            ), unsent
        try:
            result = self._follow(claim.lease, job, log, unsent)
        except Hung as hung:
            self.child.stop()
            result = JobResult(outcome=Outcome.TIMEOUT, reason=f"{hung}; its output is in {job.log}")
        except ChildDied as death:
            result = JobResult(
                outcome=failures.outcome_of(death.code, log.end(LOG_TAIL), self.patterns),
                reason=f"{death}; its output is in {job.log}",
            )
        return result, unsent

    def _follow(self, lease: Lease, job: RunningJob, log: JobLog, unsent: list[dict[str, Any]]) -> JobResult:
        watchdog = Watchdog(job.spec.budget, self.limits)
        beat_at = time.monotonic() + self.limits.heartbeat.total_seconds()
        look_at, tell_at, is_away = 0.0, 0.0, False
        while True:
            message = self.child.next_message(TICK)
            if message is not None:
                watchdog.heard()
                if message.kind is Said.ENDED:
                    return JobResult.from_json(message.content)
                self._pass_on(job, message, unsent)
                if unsent and not is_away:
                    look_at = min(look_at, tell_at)
            watchdog.look()
            now = time.monotonic()
            if now >= look_at:
                with suppress(OSError):
                    log.bound()
                beat = now >= beat_at
                is_away = not self.queue.report(lease, unsent, beat=beat)
                now = time.monotonic()
                look_at, tell_at = now + (PAUSE if is_away else LOOK), now + TELL
                if not is_away:
                    unsent.clear()
                    beat_at = now + self.limits.heartbeat.total_seconds() if beat else beat_at

    def _pass_on(self, job: RunningJob, message: Message, unsent: list[dict[str, Any]]) -> None:
        if message.kind is Said.EVALUATED:
            unsent.append(message.content)
            self.listener.evaluated(job, Evaluation.from_json(message.content))
        elif message.kind is Said.PROGRESSED:
            self.listener.progressed(job, **message.content)
