"""What the queue asks of a database with 100,000 jobs is answered from an index: it looks at a handful of rows.

Two measures. SQLite: the plan, and the steps its virtual machine takes. PostgreSQL: the plan, and the rows read,
those that a filter threw away included, until the statement has been prepared and is planned for any values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text, update
from sqlalchemy.orm import Session

from db import events, queue
from db.queue import Answers
from db.session import Database
from db.tables import Job, JobState
from tests.claims import take_next
from tests.db.test_queue import LEASE, NOW

JOBS = 100_000
ROUNDS = 100
FEW = 10  # jobs in each of the states that most are not in
# that a call may look at: a claim looks at the oldest queued job of each round and at those that run; twice at
# these, if none of them happened to be among the rows that ANALYZE drew
MOST_ROWS = ROUNDS + 3 * FEW
MOST_STEPS = 5_000  # of SQLite's virtual machine, for a call; walking all jobs takes at least four for each
UNTIL_PREPARED = 12  # the driver prepares what it has sent five times, the server plans anew another five
RUNNING = range(JOBS // 2, JOBS // 2 + FEW)
LAST = JOBS - FEW  # jobs after this one are queued if most are done, and done if most are queued
LAST_FINGERPRINT = f"f{JOBS // 2 - 1}"  # each is that of two jobs

ADD_ROUNDS = """
    WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < :rounds)
    INSERT INTO rounds (id, name, digest, source, spec, facts, state, created_at)
    SELECT i, 'r' || i, '', '', '{}', '{}', 'active', :now FROM numbers
"""
ADD_WORKER = """
    INSERT INTO workers (id, host, pid, device, device_lock, started_at, seen_at)
    VALUES (1, 'h', 1, 'cpu', 'lock', :now, :now)
"""
ADD_JOBS = """
    WITH RECURSIVE numbers(id) AS (SELECT 0 + :first UNION ALL SELECT id + 1 FROM numbers WHERE id < :last)
    INSERT INTO jobs (id, round_id, task, stage, variant, seed, fingerprint, payload, state, outcome, result,
        attempts, fencing_token, not_before, created_at)
    SELECT id, 1 + (id - 1) / :jobs_of_a_round, 't', 'quick', 'v' || id, 0, 'f' || ((id - 1) / 2), '{}',
        :state, :outcome, '{}', 1, 1, :now, :now
    FROM numbers
"""


@dataclass
class Cost:
    """What a call asks of the table of jobs."""

    scans: list[str] = field(default_factory=list)  # of the whole table, or of a whole index
    sorts: list[str] = field(
        default_factory=list
    )  # SQLite: any but of rounds; PostgreSQL: of more than a handful
    rows: int = 0  # PostgreSQL: looked at
    steps: int = 0  # SQLite: of the virtual machine


@pytest.fixture(params=["done", "queued"])
def mostly(request: pytest.FixtureRequest) -> str:
    """The state that nearly all jobs are in."""
    return str(request.param)


@pytest.fixture
def full(database: Database, mostly: str) -> Database:
    """A database with 100,000 jobs, the ones in rarer states where a walk from the beginning would find them last."""
    common = {"now": NOW.isoformat(sep=" "), "jobs_of_a_round": JOBS // ROUNDS}
    done, queued = {"state": "done", "outcome": "ok"}, {"state": "queued", "outcome": None}
    first, last = (done, queued) if mostly == "done" else (queued, done)
    running = {"state": JobState.RUNNING, "outcome": None, "worker_id": 1, "lease_expires_at": NOW + LEASE}
    with database.write() as session:
        session.execute(text(ADD_ROUNDS), common | {"rounds": ROUNDS})
        session.execute(text(ADD_WORKER), common)
        session.execute(text(ADD_JOBS), common | first | {"first": 1, "last": LAST})
        session.execute(text(ADD_JOBS), common | last | {"first": LAST + 1, "last": JOBS})
        session.execute(update(Job).where(Job.id.in_(RUNNING)).values(**running))
    if database.engine.dialect.name == "postgresql":
        with database.write() as session:
            session.execute(text("ANALYZE"))
    return database


Call = Callable[[Session], object]
LATER = NOW + timedelta(hours=1)
CALLS: dict[str, Call] = {
    "claim": lambda session: take_next(session, worker_id=1, now=NOW, lease_for=LEASE),
    "claim, of the last round": lambda session: take_next(
        session, worker_id=1, now=NOW, lease_for=LEASE, round_id=ROUNDS
    ),
    "requeue_expired, none": lambda session: queue.requeue_expired(session, now=NOW),
    "requeue_expired, all": lambda session: queue.requeue_expired(session, now=LATER),
    "has_expired, none": lambda session: queue.has_expired(session, now=NOW),
    "has_expired, one": lambda session: queue.has_expired(session, now=LATER),
    "requeue_dead": lambda session: queue.requeue_dead(session, device_lock="lock", worker_id=2, now=NOW),
    "hand_back_all": lambda session: queue.hand_back_all(session, worker_id=1, now=NOW),
    "next_start": queue.next_start,
    "is_running": queue.is_running,
    "is_running, of the last round": lambda session: queue.is_running(session, round_id=ROUNDS),
    "rounds_behind": queue.rounds_behind,
    "known_result, of the last two jobs": lambda session: queue.known_result(
        session, LAST_FINGERPRINT, Answers(["ok"])
    ),
    "known_result, unknown": lambda session: queue.known_result(session, "unknown", Answers(["ok"])),
    "equals, of the last two jobs": lambda session: queue.equals(session, LAST_FINGERPRINT, Answers(["ok"])),
    "equals, of jobs that run": lambda session: queue.equals(session, f"f{JOBS // 4}", Answers(["ok"])),
    "equals, unknown": lambda session: queue.equals(session, "unknown", Answers(["ok"])),
}


def test_queue__finds_what_it_wants_among_100_000_jobs_at_once(full: Database, mostly: str) -> None:
    _assert_it_is_there(full, mostly)  # what is measured is not the price of an empty answer
    measure = _on_sqlite if full.engine.dialect.name == "sqlite" else _on_postgresql
    costs = {name: measure(full, call) for name, call in CALLS.items()}
    assert {name: cost.scans for name, cost in costs.items() if cost.scans} == {}
    assert {name: cost.rows for name, cost in costs.items() if cost.rows > MOST_ROWS} == {}
    assert {name: cost.steps for name, cost in costs.items() if cost.steps > MOST_STEPS} == {}
    assert {name: cost.sorts for name, cost in costs.items() if cost.sorts} == {}


def test_claim__passes_over_a_locked_round_as_a_whole(full: Database, mostly: str) -> None:
    """Nothing of it is looked at or locked, however much is queued there."""
    if full.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time")
    with _undone(full) as other, full.engine.connect() as connection, Session(connection) as session:
        first = 1 if mostly == "queued" else ROUNDS
        events.lock(other, first)
        before = _rows_read(connection)
        lease = take_next(session, worker_id=1, now=NOW, lease_for=LEASE)
        assert (lease and lease.round_id) == (2 if mostly == "queued" else None)
        assert _rows_read(connection) - before < MOST_ROWS
        free = text("SELECT id FROM jobs WHERE round_id = :round FOR UPDATE SKIP LOCKED")
        assert len(other.execute(free, {"round": first}).all()) == JOBS // ROUNDS
        session.rollback()


def test_claim__by_statistics_from_before_all_jobs_were_done(database: Database) -> None:
    """As after a long night, until PostgreSQL counts again."""
    if database.engine.dialect.name == "sqlite":
        pytest.skip("it counts nothing")
    rounds, jobs = 16, 24_000
    by_turns = ADD_JOBS.replace("(id - 1) / :jobs_of_a_round", "id % :rounds")
    common = {"now": NOW.isoformat(sep=" "), "rounds": rounds}
    with database.write() as session:
        session.execute(text("ALTER TABLE jobs SET (autovacuum_enabled = false)"))
        session.execute(text(ADD_ROUNDS), common)
        session.execute(text(ADD_WORKER), common)
        queued = {"state": "queued", "outcome": None, "first": 1, "last": jobs}
        session.execute(text(by_turns), common | queued)
        session.execute(text("ANALYZE"))
    with database.write() as session:
        session.execute(text("UPDATE jobs SET state = 'done' WHERE id < :last"), {"last": jobs})
    with database.engine.connect() as connection, Session(connection) as session:
        with _statements(connection) as sent:
            lease = take_next(session, worker_id=1, now=NOW, lease_for=LEASE)
        assert lease is not None
        assert lease.job_id == jobs
        session.rollback()
        for statement, parameters in sent:
            if statement.startswith("SELECT"):
                explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
                plan = connection.exec_driver_sql(explain, parameters).scalar_one()[0]["Plan"]
                assert [
                    node for node in _nodes(plan) if node.get("Rows Removed by Filter", 0) > MOST_ROWS
                ] == []


def _assert_it_is_there(database: Database, mostly: str) -> None:
    with _undone(database) as session:
        lease = take_next(session, worker_id=1, now=NOW, lease_for=LEASE)
        assert lease is not None
        assert lease.job_id == (1 if mostly == "queued" else LAST + 1)
    with _undone(database) as session:
        expired = queue.requeue_expired(session, now=LATER)
        assert sorted(expired) == list(RUNNING)
    with _undone(database) as session:
        assert (queue.has_expired(session, now=NOW), queue.has_expired(session, now=LATER)) == (False, True)
        assert queue.next_start(session) == NOW
        known = queue.known_result(session, LAST_FINGERPRINT, Answers(["ok"]))
        assert (known is not None) == (mostly == "queued")


@contextmanager
def _undone(database: Database) -> Iterator[Session]:
    """A transaction of which nothing stays."""
    with database.write() as session:
        yield session
        session.rollback()


@contextmanager
def _statements(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """What is sent to the database meanwhile, with its parameters, or the first of many."""
    sent: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, _x: object, many: bool) -> None:
        sent.append((statement, parameters[0] if many else parameters))

    event.listen(connection, "before_cursor_execute", note)
    yield sent
    event.remove(connection, "before_cursor_execute", note)


def _on_sqlite(database: Database, call: Call) -> Cost:
    cost = Cost()

    def count() -> int:
        cost.steps += 1
        return 0

    with _undone(database) as session:
        connection = session.connection()
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(count, 1)
        with _statements(connection) as sent:
            call(session)
        driver.set_progress_handler(None, 0)
        for statement, parameters in sent:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            details = [str(row[-1]) for row in plan]
            cost.scans += [detail for detail in details if detail.startswith("SCAN jobs")]
            if not statement.startswith("SELECT rounds"):
                cost.sorts += [detail for detail in details if "TEMP B-TREE" in detail]
    return cost


def _on_postgresql(database: Database, call: Call) -> Cost:
    cost = Cost()
    with database.engine.connect() as connection, Session(connection) as session:
        for _ in range(UNTIL_PREPARED):
            before = _rows_read(connection)
            with _statements(connection) as sent:
                call(session)
            cost.rows = max(cost.rows, _rows_read(connection) - before)
            session.rollback()
        for statement, parameters in sent:
            if statement.startswith("SELECT"):
                explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
                for node in _nodes(explained.scalar_one()[0]["Plan"]):
                    if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "jobs":
                        cost.scans.append(statement)
                    if node["Node Type"] == "Sort" and node["Plan Rows"] > MOST_ROWS:
                        cost.sorts.append(statement)
    return cost


def _rows_read(connection: Connection) -> int:
    """Rows of jobs that this transaction has looked at so far, and some number before it."""
    read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'jobs'"
    return int(connection.execute(text(read)).scalar_one())


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from _nodes(part)
