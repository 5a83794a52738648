from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.settings import Settings
from orchestrator.views.lookup import SILENT_AFTER
from worker.limits import Limits


@pytest.mark.parametrize("seconds", [2, 60, 1800])
def test_heartbeat__comes_before_the_lease_ends_and_before_the_worker_counts_as_silent(seconds: int) -> None:
    lease = timedelta(seconds=Settings(lease_seconds=seconds).lease_seconds)
    assert 6 * Limits(lease=lease).heartbeat <= min(lease, SILENT_AFTER)
