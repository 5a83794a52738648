"""A sick machine stops pulling, and tries again ever more rarely."""

from __future__ import annotations

from worker.breaker import LONGEST_PAUSE, Breaker
from worker.limits import Limits


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed("no space left")


def test_breaker__opens_after_so_many_in_a_row() -> None:
    breaker = Breaker(Limits(max_failures_in_a_row=3), Time())
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert (breaker.is_open, breaker.seconds_left) == (False, 0)
    fail(breaker, 1)
    assert breaker.is_open
    assert "3 failures of the infrastructure in a row, the last: no space left" in str(breaker)


def test_breaker__tries_again_after_a_pause_that_doubles() -> None:
    time = Time()
    breaker = Breaker(Limits(max_failures_in_a_row=1), time)
    pauses = []
    for _ in range(8):
        fail(breaker, 1)
        pauses.append(breaker.seconds_left)
        time.now += breaker.seconds_left
        assert (breaker.is_open, breaker.seconds_left) == (True, 0)
    assert pauses == [60, 120, 240, 480, 960, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    breaker.succeeded()
    assert not breaker.is_open


def test_breaker__never_overflows() -> None:
    breaker = Breaker(Limits(), Time())
    fail(breaker, 10_000)
    assert breaker.pause == LONGEST_PAUSE
