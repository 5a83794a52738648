"""What the workers of a storm say, with times of its own, for theirs may jump: above all, what each kill cost."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from tests.faults.harness import Program


@dataclass
class Standing:
    """How far a job has come, and since when it has been there."""

    step: int = 0
    at: float = 0.0


@dataclass
class Loss:
    """What a kill cost: seconds until the job ran again, and until it came further than it had been."""

    job: str
    before: Standing
    killed_at: float
    running_again: float | None = None
    further: float | None = None


class Observer:
    """Follows the logs of workers as they grow."""

    def __init__(self) -> None:
        self.evaluations = 0  # that brought a job further than it had been
        self.results: Counter[str] = Counter()  # how often a result was recorded, by job
        self.losses: list[Loss] = []
        self.intervals: list[float] = []  # seconds between evaluations of jobs that nothing happened to
        self._read: Counter[Program] = Counter()
        self._running: dict[Program, str] = {}
        self._standings: dict[str, Standing] = {}

    def look(self, worker: Program) -> None:
        """Reads what this worker has said since the last look."""
        lines = worker.lines()
        for line in lines[self._read[worker] :]:
            match line.get("event"):
                case "job started":
                    self._running[worker] = line["job"]
                    self._started(line["job"], time.monotonic())
                case "evaluated":
                    self._reached(line["job"], line["step"], time.monotonic())
                case "job ended":
                    self._running.pop(worker, None)
                    self.results[line["job"]] += line["outcome"] == "ok"
        self._read[worker] = len(lines)

    def killed(self, worker: Program) -> None:
        """Says that a worker or its child has just been killed."""
        self.look(worker)
        job = self._running.get(worker)
        if job is not None:
            self.losses.append(Loss(job, self._standings[job], time.monotonic()))

    def _started(self, job: str, now: float) -> None:
        self._standings.setdefault(job, Standing(0, now))
        for loss in self._open(job):
            loss.running_again = loss.running_again or now - loss.killed_at

    def _reached(self, job: str, step: int, now: float) -> None:
        before = self._standings.get(job, Standing(0, now))
        if step <= before.step:
            return
        self.evaluations += 1
        if not self._open(job):
            self.intervals.append(now - before.at)
        for loss in self._open(job):
            loss.further = now - loss.before.at
        self._standings[job] = Standing(step, now)

    def _open(self, job: str) -> list[Loss]:
        return [loss for loss in self.losses if loss.job == job and loss.further is None]
