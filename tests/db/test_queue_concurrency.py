"""Eight processes at one queue: every job is claimed exactly once, whoever is faster."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from sqlalchemy import event, insert, select, text

from db import events, queue
from db.events import EventKind
from db.session import Database, open_current
from db.tables import Event, Job, JobState, Round
from tests.claims import take_next
from tests.db.test_queue import LEASE, NOW, add_worker

CLIENTS = 8
ROUNDS = 16
JOBS = 2_000
EACH_ENDED = 10  # every tenth job is ended, the others stay leased: it costs as much as a claim
PATIENCE = 300  # seconds for all; several times what they take


def without_sync(database: Database) -> None:
    """From now on commits do not wait for the disk; who gets which job does not depend on it."""
    is_sqlite = database.engine.dialect.name == "sqlite"
    statement = "PRAGMA synchronous=OFF" if is_sqlite else "SET synchronous_commit = off"

    def configure(connection: Any, _record: object) -> None:
        connection.execute(statement)
        connection.commit()

    event.listen(database.engine, "connect", configure)
    database.engine.dispose()


def work(url: str, worker_id: int) -> None:
    """One of the processes: claims jobs until none is left, and says which it got and which it ended.

    Where it ends one it claims the next in the same transaction, as workers do.
    """
    database = open_current(url)
    without_sync(database)
    claimed: list[int] = []
    ended: list[int] = []
    ok: dict[str, Any] = {"outcome": "ok", "reason": None, "result": {"outcome": "ok"}}
    lease = None
    while True:
        with database.write() as session:
            locked = None
            if lease is not None and len(claimed) % EACH_ENDED == 0:
                events.lock(session, lease.round_id)
                queue.complete(session, lease, now=NOW, **ok)
                ended.append(lease.job_id)
                locked = lease.round_id
            lease = take_next(session, worker_id=worker_id, now=NOW, lease_for=LEASE, locked=locked)
        if lease is not None:
            claimed.append(lease.job_id)
        elif not _is_something_queued(database):
            break  # else others are at every round that has some
    database.close()
    print(json.dumps([claimed, ended]))


def _is_something_queued(database: Database) -> bool:
    with database.read() as session:
        return queue.next_start(session) is not None


def add_rounds(database: Database) -> None:
    """Rounds that run side by side: the oldest jobs are of all of them in turn."""
    common: dict[str, Any] = {"source": "", "spec": {"parallel": True}, "facts": {}, "created_at": NOW}
    rounds = [{"id": i, "name": f"r{i}", "digest": f"r{i}"} for i in range(1, ROUNDS + 1)]
    of_job: dict[str, Any] = {"task": "t", "stage": "quick", "seed": 0, "payload": {}, "not_before": NOW}
    jobs = [
        {"id": i, "round_id": 1 + i % ROUNDS, "variant": f"v{i}", "fingerprint": f"f{i}", "created_at": NOW}
        for i in range(1, JOBS + 1)
    ]
    with database.write() as session:
        session.execute(insert(Round), [common | one for one in rounds])
        session.execute(insert(Job), [of_job | one for one in jobs])
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("ANALYZE"))  # as the server does a while after so many rows have come


def test_claim__each_job_once_by_eight_processes(database: Database, database_url: str) -> None:
    add_rounds(database)
    workers = [add_worker(database, f"lock {number}") for number in range(CLIENTS)]
    said = _all_work(database_url, workers)
    every_job = list(range(1, JOBS + 1))
    assert sorted(job for claimed, _ in said.values() for job in claimed) == every_job
    assert all(claimed for claimed, _ in said.values()), "not all of them took part"

    holder = {job: worker for worker, (claimed, _) in said.items() for job in claimed}
    ended = {job for _, ended in said.values() for job in ended}
    with database.read() as session:
        stored = session.execute(select(Job.id, Job.worker_id, Job.state, Job.attempts, Job.fencing_token))
        told = session.execute(select(Event.round_id, Event.number, Event.kind, Event.job_id)).all()
        counts = {row.id: row.n_events for row in session.execute(select(Round.id, Round.n_events))}
    assert {row.id: tuple(row)[1:] for row in stored} == {
        job: (holder[job], JobState.DONE if job in ended else JobState.RUNNING, 1, 1) for job in every_job
    }
    assert sorted(row.job_id for row in told if row.kind == EventKind.JOB_STARTED) == every_job
    assert sorted(row.job_id for row in told if row.kind == EventKind.JOB_ENDED) == sorted(ended)
    numbers = sorted((row.round_id, row.number) for row in told)
    assert numbers == [
        (id_, number) for id_, count in sorted(counts.items()) for number in range(1, count + 1)
    ]


def _all_work(url: str, workers: list[int]) -> dict[int, tuple[list[int], list[int]]]:
    """What each of them said, by worker, when all have come to their end without an error."""
    program = (
        "import sys; from tests.db.test_queue_concurrency import work; work(sys.argv[1], int(sys.argv[2]))"
    )
    processes = {
        worker: subprocess.Popen(
            [sys.executable, "-c", program, url, str(worker)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for worker in workers
    }
    try:
        ends = {worker: process.communicate(timeout=PATIENCE) for worker, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    assert {errors.decode() for _, errors in ends.values()} == {""}
    return {worker: json.loads(output) for worker, (output, _) in ends.items()}
