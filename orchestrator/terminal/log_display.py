"""What `fsq work` writes where nobody watches: log lines, each with its round and job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog

from worker.job import Evaluation, JobResult

if TYPE_CHECKING:
    from orchestrator.engine import Taken
    from worker.running import RunningJob

log = structlog.get_logger("fsq.worker")


class LogDisplay:
    """A display that logs; the names of its fields are those of the records."""

    def started(self, job: RunningJob) -> None:
        log.info("job started", **_names(job), attempt=job.attempt, log=str(job.log))

    def progressed(self, job: RunningJob, step: int, seconds: float, loss: float) -> None:
        """Too often for a log."""

    def evaluated(self, job: RunningJob, evaluation: Evaluation) -> None:
        told = evaluation.model_dump(include={"step", "val_loss", "val_tok_acc", "val_seq_acc", "train_loss"})
        log.info("evaluated", **_names(job), **told)

    def ended(self, job: RunningJob, result: JobResult, will_retry: bool) -> None:
        metrics = result.metrics.model_dump() if result.metrics else {}
        tell = log.info if result.metrics else log.warning
        tell(
            "job ended",
            **_names(job),
            outcome=result.outcome.value,
            reason=result.reason,
            will_retry=will_retry,
            **metrics,
        )

    def decided(self, taken: Sequence[Taken]) -> None:
        for each in taken:
            task, stage, variant, seed = each.decision.key
            log.info(
                "decided",
                round=each.round,
                job=f"{task} {stage} {variant} seed {seed}",
                decision=each.decision.verdict.value,
                d_acc=each.decision.d_acc,
                d_acc_ci=each.evidence.d_acc_ci if each.evidence else None,
                reason=each.decision.reason,
            )

    def troubled(self, message: str) -> None:
        log.warning(message)

    def interrupted(self, message: str) -> None:
        log.info(message)

    def close(self) -> None:
        """Nothing to put away."""


def _names(job: RunningJob) -> dict[str, Any]:
    return {"round": job.round, "job": str(job)}
