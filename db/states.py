"""The states of rounds and jobs."""

from __future__ import annotations

from enum import StrEnum


class RoundState(StrEnum):
    WAITING = "waiting"  # comes after a round that has not ended
    BLOCKED = "blocked"  # the round it comes after ended in a way that it cannot build on; `reason` says how
    ACTIVE = "active"  # jobs are missing or running
    FINISHED = "finished"  # everything is decided
    CANCELLED = "cancelled"  # by the user; what is decided stays

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens by itself; a blocked round may yet start, when its parent is retried."""
        return self in {RoundState.FINISHED, RoundState.CANCELLED, RoundState.BLOCKED}


class JobState(StrEnum):
    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # leased to a worker
    DONE = "done"  # has an outcome
