"""Processes that end in the middle of a job: child, worker, server, one or several, asked or not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx2 as httpx
import pytest

from db.events import EventKind
from tests.faults.harness import Night, Program, Undisturbed
from tests.faults.rounds import MIDDLE, write_round


@pytest.mark.parametrize("environment", [{}, {"FSQ_ACTIVATION_GIB": "0"}], ids=["plain", "recomputing"])
def test_child__killed(night: Night, calm: Undisturbed, tmp_path: Path, environment: dict[str, str]) -> None:
    """Its successor goes on from the snapshot, whether it keeps its activations or recomputes them."""
    name = night.submit(write_round(tmp_path))
    worker = night.work(**environment)
    night.wait_for(lambda: worker.count("evaluated") >= MIDDLE)

    child = worker.child()
    assert child
    os.kill(child, signal.SIGKILL)

    worker.finish()
    night.assert_equals(calm, name)
    assert night.count(EventKind.JOB_REQUEUED) == 1
    assert "continues from the snapshot" in night.log("quick/baseline")


def test_worker__killed_and_terminated(night: Night, calm: Undisturbed, tmp_path: Path) -> None:
    """SIGKILL, then SIGTERM of its successor."""
    name = night.submit(write_round(tmp_path))
    first = night.work()
    night.wait_for(lambda: first.count("evaluated") >= MIDDLE)
    first.kill()

    second = night.work()
    night.wait_for(lambda: second.count("evaluated") >= MIDDLE)
    second.send(signal.SIGTERM)
    second.finish()

    night.work().finish()
    night.assert_equals(calm, name)
    assert night.count(EventKind.JOB_REQUEUED) == 2


def test_server__killed_with_the_worker_and_alone(night: Night, calm: Undisturbed, tmp_path: Path) -> None:
    name = night.submit(write_round(tmp_path))
    server, worker = night.serve(), night.work()
    night.wait_for(lambda: worker.count("evaluated") >= MIDDLE)
    worker.kill()
    server.kill()

    server, worker = night.serve(), night.work()
    night.wait_for(lambda: worker.count("evaluated") >= MIDDLE)
    assert httpx.get(f"{url_of(night, server)}/api/v1/rounds/{name}").json()["state"] == "active"
    server.kill()

    worker.finish()
    night.assert_equals(calm, name)


def url_of(night: Night, server: Program) -> str:
    night.wait_for(server.lines)
    return str(server.lines()[0]["url"])
