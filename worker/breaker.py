"""A sick machine must not eat the search: after some failures of the infrastructure in a row, a pause.

After the pause one job is tried; if that fails too, the next pause is twice as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.limits import Limits

LONGEST_PAUSE = 1800.0  # seconds


class Breaker:
    """Counts failures in a row."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._failures = 0
        self._opened_at = 0.0
        self.reason = ""  # of the last failure

    def failed(self, reason: str) -> None:
        """An attempt failed for want of the infrastructure."""
        self._failures += 1
        self._opened_at = self._clock()
        self.reason = reason

    def succeeded(self) -> None:
        """An attempt came to a result, good or bad."""
        self._failures = 0

    @property
    def is_open(self) -> bool:
        """Whether the last attempts failed in a row."""
        return self._failures >= self._limits.max_failures_in_a_row

    @property
    def pause(self) -> float:
        """Seconds from a failure to the next attempt."""
        further = max(0, self._failures - self._limits.max_failures_in_a_row)
        return float(min(self._limits.cool_down.total_seconds() * 2.0 ** min(further, 20), LONGEST_PAUSE))

    @property
    def seconds_left(self) -> float:
        """Until a job may be tried; 0 when one may."""
        return max(0.0, self._opened_at + self.pause - self._clock()) if self.is_open else 0.0

    def __str__(self) -> str:
        return f"{self._failures} failures of the infrastructure in a row, the last: {self.reason}"
