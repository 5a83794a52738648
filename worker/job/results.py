"""How a job ended."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from importlib import metadata
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, model_validator

from worker.job.measures import Metrics
from worker.job.values import Strict

version = cache(metadata.version)  # found anew, it takes longer than a statement of a job's end
LONGEST_REASON = 2000  # characters


class Outcome(StrEnum):
    """How a job ended."""

    OK = "ok"  # metrics complete
    CACHED = "cached"  # an equal fingerprint was known; no accelerator time spent
    BUILD_FAILED = "build_failed"  # the examples could not be built, or are not those of the submission
    OOM = "oom"  # does not fit even at micro-batch 1; no verdict on the variant
    DIVERGED = "diverged"  # NaN or infinite loss; a verdict
    # so far below the baseline that it ended before its budget; a verdict without a number
    STOPPED = "stopped"
    INFRA_FAILED = "infra_failed"  # network, disk, hub; retried
    CRASHED = "crashed"  # the child died; retried
    LOST = "lost"  # the lease expired; retried
    TIMEOUT = "timeout"  # the child hung, or outlived its budget by far; retried
    CANCELLED = "cancelled"  # by the user

    @property
    def is_retried(self) -> bool:
        """Whether a further attempt may end differently."""
        return self in {Outcome.INFRA_FAILED, Outcome.CRASHED, Outcome.LOST, Outcome.TIMEOUT}

    @property
    def is_failure(self) -> bool:
        """Whether nothing can be concluded from it; a divergence and an early stop are verdicts."""
        return self not in (*CONCLUSIVE, Outcome.CACHED)


REUSABLE = (Outcome.OK, Outcome.DIVERGED)  # what an equal fingerprint need not produce again
WITHOUT_A_NUMBER = (Outcome.DIVERGED, Outcome.STOPPED)  # against a variant, whose accuracy is not known
CONCLUSIVE = (Outcome.OK, *WITHOUT_A_NUMBER)  # what a decision follows from; within a round, an answer


class Usage(Strict):
    """What a run took."""

    device: str
    kernel: str
    micro_batch: int
    padding_share: float  # of all positions computed in training
    peak_memory_bytes: int | None  # of the accelerator; None on CPU, where nothing counts it per job
    continued_from: int = 0  # steps taken over from the snapshot of an earlier stage


def _as_stored(reason: Any) -> Any:
    """What an error says, as every database takes it and a line shows it."""
    if not isinstance(reason, str):
        return reason
    text = " ".join(reason.replace("\0", " ").split())[:LONGEST_REASON]
    return text.encode(errors="replace").decode()


class JobResult(Strict):
    """How a job ended and what it measured; the evaluations themselves are reported while it runs."""

    outcome: Outcome
    reason: Annotated[str | None, BeforeValidator(_as_stored)] = None
    metrics: Metrics | None = None  # of a whole run
    usage: Usage | None = None
    partial: Metrics | None = None  # of a run that was stopped, up to there
    version: str | None = None  # of fsq, where it is stored
    result_version: int | None = None

    @model_validator(mode="after")
    def _is_whole_or_partial(self) -> Self:
        if (self.partial is not None) != (self.outcome is Outcome.STOPPED) or (self.metrics and self.partial):
            raise ValueError("a stopped run, and no other, has partial metrics, and only these")
        return self
