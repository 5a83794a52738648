"""What a training process is started with."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import pytest

from worker.limits import Limits
from worker.process import Child, environment
from worker.process_memory import KEEPING, SPARING


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_child__keeps_memory_and_has_what_the_worker_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    others = _children()
    child = Child("cpu", tmp_path, Limits())
    try:
        child.warm_up()
        [pid] = set(_children()) - set(others)
        while not (environ := Path(f"/proc/{pid}/environ").read_text()):  # until its program has been loaded
            time.sleep(0.01)
        found = environ.split("\0")
    finally:
        child.stop()
    assert {f"{name}={value}" for name, value in KEEPING.items()} <= set(found)
    assert "OMP_WAIT_POLICY=ACTIVE" in found
    assert not [entry for entry in found if entry.startswith("GOMP_SPINCOUNT=")]  # which would go before


@pytest.mark.parametrize("given", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_environment__how_threads_wait_is_one_decision(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} <= environment().keys()
    monkeypatch.setenv(given, "1")
    assert {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment().keys() == {given}


def _children() -> list[int]:
    """The processes that this one has started."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


def test_environment__keeps_no_memory_where_it_is_limited() -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (2**45, unlimited[1]))
    try:
        assert not KEEPING.items() & environment().items()
        assert SPARING.items() <= environment().items()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, unlimited)
    assert KEEPING.items() <= environment().items()
