"""A clock that jumps."""

from __future__ import annotations

from pathlib import Path

from tests.faults.conftest import NewNight
from tests.faults.harness import Undisturbed
from tests.faults.preloads import Clock
from tests.faults.rounds import EVALUATIONS, MIDDLE, write_round


def test_clock__jumps_while_jobs_run_and_wait(new_night: NewNight, calm: Undisturbed, tmp_path: Path) -> None:
    """Submitted three hours ahead of the worker's time; later six hours on, back, and on again in three jobs."""
    clock = Clock(tmp_path)
    night = new_night(**clock.environment)
    clock.set(hours=-3)
    name = night.submit(write_round(tmp_path))
    worker = night.start("work", "--log-format", "json")

    for evaluations, hours in ((MIDDLE, 3), (EVALUATIONS + MIDDLE, -3), (3 * EVALUATIONS + 1, 3)):
        night.wait_for(lambda: worker.count("evaluated") >= evaluations)  # noqa: B023  (called at once)
        clock.set(hours=hours)

    night.wait_for(night.is_finished)
    assert worker.stop() == 0
    night.assert_equals(calm, name)
