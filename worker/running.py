"""The job that a worker has claimed, and who is told about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker.job import Evaluation, JobResult, JobSpec


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
    def troubled(self, message: str) -> None: ...
