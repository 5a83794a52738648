"""What is asked of findings, and the jobs and workers that they are about."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from db.session import Database
from db.tables import Job, Round, RoundState, Worker
from worker.diagnosis import Finding

HOST = socket.gethostname()

on_sqlite = pytest.mark.parametrize(
    "database_url", ["sqlite"], indirect=True
)  # where the other tells no more

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def now() -> datetime:
    return datetime.now(UTC)


def is_problem(finding: Finding, *said: str) -> bool:
    """Whether the finding is a problem that says all this, and what to do."""
    whole = f"{finding.found} {finding.advice}"
    missing = [words for words in said if words not in whole]
    assert not missing, f"{missing} not in {finding}"
    return not finding.is_fine and bool(finding.advice)


def problems(found: list[Finding]) -> list[str]:
    return [finding.what for finding in found if not finding.is_fine]


def named(found: list[Finding], what: str) -> Finding:
    return next(finding for finding in found if finding.what == what)


def add_job(
    database: Database,
    *,
    name: str = "r",
    state: RoundState = RoundState.ACTIVE,
    facts: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    worker: dict[str, Any] | None = None,
    **changes: Any,
) -> Job:
    """A round of one job, and a worker."""
    with database.write() as session:
        values = {"host": HOST, "pid": os.getpid(), "device": "cpu", "device_lock": "", "started_at": now()}
        at_work = Worker(**(values | {"seen_at": now()} | (worker or {})))
        session.add(at_work)
        session.flush()
        job = {"task": "s4", "stage": "quick", "variant": "l1", "seed": 0, "fingerprint": "", "payload": {}}
        times = {"not_before": now(), "created_at": now()}
        row = Round(
            name=name,
            digest="",
            source="",
            state=state,
            spec=spec or {"tasks": {}},
            facts=facts or {"model": {"path": None, "digest": ""}},
            created_at=now(),
            jobs=[Job(**(job | times | {"worker_id": at_work.id} | changes))],
        )
        session.add(row)
        session.flush()
        return row.jobs[0]


def at_work(path: Path, **changes: Any) -> dict[str, Any]:
    """A worker of this machine that holds this lock file."""
    return {"device_lock": f"{HOST}:{path.resolve()}"} | changes
