"""Tells a child that hangs from one that works: by its silence, and by a budget that it has long outlived."""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.job import Budget
from worker.limits import Limits

# seconds between looks; what is longer was a machine asleep, or a database that kept us waiting
LONGEST_LOOK = 5.0


class Hung(Exception):
    """The child works no more, or without end; says how that was seen."""


class Watchdog:
    """Watches one attempt. Time in which the supervisor itself was held up is not held against the child."""

    def __init__(self, budget: Budget, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._limits = limits
        self._clock = clock
        self._looked_at = clock()
        self._silent = self._taken = 0.0  # seconds

    def heard(self) -> None:
        """The child said something."""
        self._silent = 0.0

    def look(self) -> None:
        """Raises Hung. To be called every second or so."""
        now = self._clock()
        passed = min(now - self._looked_at, LONGEST_LOOK)
        self._looked_at = now
        self._silent += passed
        self._taken += passed
        if self._silent > self._limits.stall_seconds:
            raise Hung(f"the training process was silent for {self._silent:.0f} s")
        budget = self._budget.seconds
        if budget is not None and self._taken > budget + self._limits.grace_seconds:
            raise Hung(f"the job took {self._taken:.0f} s, of {budget:g} s that it has")
