"""Tells a child that hangs from one that works: by its silence, and by a budget that it has long outlived."""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.job import Budget
from worker.limits import Limits


class Hung(Exception):
    """The child works no more, or without end; says how that was seen."""


class Watchdog:
    """Watches one attempt. A supervisor that was itself held up listens before it looks: nothing is held against
    the child that it said meanwhile.
    """

    def __init__(self, budget: Budget, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._limits = limits
        self._clock = clock
        self._began = self._heard_at = clock()

    def heard(self) -> None:
        """The child said something."""
        self._heard_at = self._clock()

    def look(self) -> None:
        """Raises Hung."""
        now = self._clock()
        if now - self._heard_at > self._limits.stall_seconds:
            raise Hung(f"the training process was silent for {now - self._heard_at:.0f} s")
        budget = self._budget.seconds
        if budget is not None and now - self._began > budget + self._limits.grace_seconds:
            raise Hung(f"the job took {now - self._began:.0f} s, of {budget:g} s that it has")
