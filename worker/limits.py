"""How patient a worker is, and how much room it takes.

What a user may want to change is a setting (`FSQ_...`, see orchestrator.settings).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from db.queue import MAX_ATTEMPTS

LONGEST_HEARTBEAT = timedelta(seconds=10)  # a worker that was not seen for minutes is not there


@dataclass(frozen=True)
class Limits:
    """The defaults suit a night of searching on one GPU."""

    lease: timedelta = timedelta(seconds=60)
    max_attempts: int = MAX_ATTEMPTS  # in a row that came to nothing, before a job is given up
    back_off: timedelta = timedelta(seconds=5)  # before the third attempt; the second is made at once
    max_infra_attempts: int = 8  # the same for failures of the infrastructure: half an hour of them
    max_failures_in_a_row: int = 3  # of the infrastructure, before the worker stops pulling
    cool_down: timedelta = timedelta(minutes=1)  # before it tries a job again; doubles up to half an hour
    stall_seconds: float = 600  # a child that is silent for so long hangs
    grace_seconds: float = 900  # beyond a budget in seconds: loading and the last evaluation
    patience_seconds: float = 3600  # how long to go on while the database is away
    activation_bytes: int = 4 * 2**30  # kept for a backward pass; what would be more is recomputed there
    snapshot_bytes: int = 20 * 2**30  # all snapshots of a home folder together
    log_bytes: int = 64 * 2**20  # of one job

    @property
    def heartbeat(self) -> timedelta:
        """How often a worker shows life and renews its lease: six times before that ends, or more often."""
        return min(self.lease / 6, LONGEST_HEARTBEAT)
