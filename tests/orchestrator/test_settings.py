"""Settings from the environment, and the worker's limits from them."""

from __future__ import annotations

import pytest

from orchestrator.settings import Settings
from orchestrator.wiring import limits_of
from worker.limits import Limits


def test_limits_of__defaults_are_those_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers keep the settings from importing them."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FSQ_{name.upper()}", raising=False)
    assert limits_of(Settings()) == Limits()


def test_settings__an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As files of variables for containers have them."""
    for name in Settings.model_fields:
        monkeypatch.setenv(f"FSQ_{name.upper()}", "")
    found = Settings()
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FSQ_{name.upper()}")
    assert found == Settings()


def test_limits_of__every_setting_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"LEASE_SECONDS": 7, "MAX_ATTEMPTS": 11, "MAX_INFRA_ATTEMPTS": 12, "MAX_FAILURES_IN_A_ROW": 13}
    numbers |= {"COOL_DOWN_SECONDS": 14, "STALL_SECONDS": 15, "GRACE_SECONDS": 16, "SNAPSHOT_GIB": 17}
    numbers |= {"DATABASE_PATIENCE_SECONDS": 18, "LOG_MIB": 19, "ACTIVATION_GIB": 21}
    for name, value in numbers.items():
        monkeypatch.setenv(f"FSQ_{name}", str(value))
    limits = limits_of(Settings())
    assert (limits.lease.total_seconds(), limits.cool_down.total_seconds()) == (7, 14)
    assert (limits.max_attempts, limits.max_infra_attempts, limits.max_failures_in_a_row) == (11, 12, 13)
    assert (limits.stall_seconds, limits.grace_seconds, limits.patience_seconds) == (15, 16, 18)
    assert (limits.snapshot_bytes, limits.log_bytes) == (17 * 2**30, 19 * 2**20)
    assert limits.activation_bytes == 21 * 2**30
