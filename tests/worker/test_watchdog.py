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


def pass_seconds(time: Time, watchdog: Watchdog, seconds: int, *, heard: bool) -> None:
    for _ in range(seconds):
        time.now += 1
        if heard:
            watchdog.heard()
        watchdog.look()


def test_look__silence() -> None:
    time = Time()
    watchdog = Watchdog(Budget(steps=10), LIMITS, time)
    pass_seconds(time, watchdog, 10, heard=False)
    with pytest.raises(Hung, match="silent for 11 s"):
        pass_seconds(time, watchdog, 1, heard=False)


def test_look__a_word_now_and_then_is_enough_without_a_budget_in_seconds() -> None:
    time = Time()
    watchdog = Watchdog(Budget(steps=10), LIMITS, time)
    for _ in range(100):
        pass_seconds(time, watchdog, 9, heard=False)
        watchdog.heard()


def test_look__budget_and_grace_are_over_however_talkative_it_is() -> None:
    time = Time()
    watchdog = Watchdog(Budget(seconds=30), LIMITS, time)
    pass_seconds(time, watchdog, 35, heard=True)
    with pytest.raises(Hung, match="took 36 s, of 30 s"):
        pass_seconds(time, watchdog, 1, heard=True)


def test_look__both_were_asleep() -> None:
    """A machine that was suspended, a database that did not answer: the child is not to blame."""
    time = Time()
    watchdog = Watchdog(Budget(seconds=30), LIMITS, time)
    time.now += 7200
    watchdog.look()
