"""Workers, their locks and leases."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from db.session import Database
from db.tables import Job, JobState, RoundState, Worker
from tests.worker.diagnosis.findings import (
    HOST,
    add_job,
    at_work,
    is_problem,
    named,
    now,
    on_sqlite,
    problems,
)
from worker.diagnosis import Finding, workers


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "locks" / "cpu.lock"
    path.parent.mkdir()
    return path


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def of_worker(database: Database, lock: Path) -> Finding:
    (found,) = [f for f in workers.examine(database, lock.parent.parent) if f.what.startswith("worker ")]
    return found


@on_sqlite
def test_workers__at_work(database: Database, lock: Path) -> None:
    add_job(database, worker=at_work(lock))
    with FileLock(lock):
        found = list(workers.examine(database, lock.parent.parent))
    assert found == [
        Finding.fine("lock cpu.lock", "held by a worker"),
        Finding.fine(f"worker 1 on {HOST} (cpu)", f"process {os.getpid()} is at work"),
        Finding.fine("leases", "no job is stuck"),
    ]


@on_sqlite
def test_workers__died(database: Database, lock: Path, gone: int) -> None:
    """Its process is gone, or its number is another's now; the lock is free, or there is none any more."""
    add_job(database, worker=at_work(lock, pid=gone))
    said = ("died", "fsq work --device cpu", "takes its jobs back")
    assert is_problem(of_worker(database, lock), *said)
    lock.touch()
    assert is_problem(of_worker(database, lock), *said)
    with database.write() as session:
        session.query(Worker).update({"pid": os.getpid()})
    assert is_problem(of_worker(database, lock), *said)
    with database.write() as session:
        session.query(Worker).update({"stopped_at": now()})
    assert problems(list(workers.examine(database, lock.parent.parent))) == []


@on_sqlite
def test_workers__died_but_its_lock_is_held(database: Database, lock: Path, gone: int) -> None:
    add_job(database, worker=at_work(lock, pid=gone))
    with FileLock(lock):
        found = of_worker(database, lock)
    assert is_problem(found, f"process {gone} is gone", "still holds its lock", "end that process")


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="this platform does not tell who has a file open"
)
def test_locks__held_by_a_worker_of_another_database(lock: Path) -> None:
    with FileLock(lock):
        (found,) = workers.locks(lock.parent, HOST, [])
        assert is_problem(found, f"process {os.getpid()}", "no worker of this database", "another database")
    (found,) = workers.locks(lock.parent, HOST, [])
    assert found == Finding.fine("lock cpu.lock", "free")


def test_locks__that_cannot_be_opened(lock: Path) -> None:
    lock.mkdir()
    (found,) = workers.locks(lock.parent, HOST, [])
    assert is_problem(found, os.strerror(errno.EISDIR), "remove it")


@on_sqlite
def test_workers__of_another_machine_that_is_silent(database: Database, lock: Path) -> None:
    far = {"host": "far", "device_lock": f"far:{lock}"}
    add_job(database, worker=far)
    assert of_worker(database, lock).is_fine
    with database.write() as session:
        session.query(Worker).update({"seen_at": now() - timedelta(minutes=10)})
    assert is_problem(of_worker(database, lock), "not seen since", "look at far", "lease")


@on_sqlite
def test_workers__stopped_pulling(database: Database, lock: Path) -> None:
    add_job(database, worker=at_work(lock, paused="5 failures in a row, the last: disk full"))
    with FileLock(lock):
        assert is_problem(
            of_worker(database, lock), "stopped pulling", "disk full", "by itself after a pause"
        )


@pytest.mark.parametrize(("until", "said"), [(-1, "ended"), (48, "ends only")])
def test_leases__job_that_nobody_works_on(database: Database, tmp_path: Path, until: int, said: str) -> None:
    lease = now() + timedelta(hours=until)
    job = add_job(database, state=RoundState.ACTIVE, lease_expires_at=lease)
    with database.write() as session:
        session.query(Job).update({"state": JobState.RUNNING})
    found = named(list(workers.examine(database, tmp_path)), "leases")
    which = (
        f"job {job.id} (r: s4 quick l1 seed 0) runs with a lease that {said} {lease:%Y-%m-%d %H:%M:%S} UTC"
    )
    assert is_problem(found, which, "fsq work")


@on_sqlite
def test_leases__job_at_work(database: Database, tmp_path: Path) -> None:
    add_job(database, lease_expires_at=now() + timedelta(seconds=60))
    with database.write() as session:
        session.query(Job).update({"state": JobState.RUNNING})
    assert named(list(workers.examine(database, tmp_path)), "leases").is_fine
