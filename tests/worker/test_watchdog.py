"""When a child counts as hung."""

from __future__ import annotations

import pytest

from worker.job import Budget
from worker.limits import Limits
from worker.watchdog import Hung, Watchdog

LIMITS = Limits(stall_seconds=10, grace_seconds=5)


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_look__silence() -> None:
    time = Time()
    watchdog = Watchdog(Budget(steps=10), LIMITS, time)
    time.now += 10
    watchdog.look()
    time.now += 0.5
    with pytest.raises(Hung, match="silent for 10 s"):
        watchdog.look()


def test_look__a_word_now_and_then_is_enough_without_a_budget_in_seconds() -> None:
    time = Time()
    watchdog = Watchdog(Budget(steps=10), LIMITS, time)
    for _ in range(1000):
        time.now += 9
        watchdog.heard()
        watchdog.look()


def test_look__budget_and_grace_are_over_however_talkative_it_is() -> None:
    time = Time()
    watchdog = Watchdog(Budget(seconds=30), LIMITS, time)
    for _ in range(35):
        time.now += 1
        watchdog.heard()
        watchdog.look()
    time.now += 1
    watchdog.heard()
    with pytest.raises(Hung, match="took 36 s, of 30 s"):
        watchdog.look()
