"""Clocks: this machine's, the server's, and what is stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from db.session import Database
from db.tables import Event, Job, Worker
from tests.worker.diagnosis.findings import add_job, is_problem, now, on_postgresql
from worker.diagnosis import clock


def test_calendar__before_fsq_was_written() -> None:
    assert is_problem(clock.calendar(datetime(1970, 1, 1, 0, 3, tzinfo=UTC)), "1970-01-01", "NTP")
    assert clock.calendar(datetime(2026, 1, 1, tzinfo=UTC)).is_fine


@on_postgresql
def test_server__other_time(database: Database) -> None:
    assert clock.server(database, now).is_fine
    for seconds, said in ((-300, "s ahead"), (3, "s behind")):
        found = clock.server(database, lambda: now() + timedelta(seconds=seconds))  # noqa: B023  (called at once)
        assert is_problem(found, said, "NTP", "both machines")


def test_memory__from_the_future(database: Database) -> None:
    add_job(database)
    with database.write() as session:
        session.add(Event(round_id=1, number=1, at=now(), kind="submitted", data={}))
    assert clock.memory(database, now()).is_fine
    changes = {
        "an event": update(Event).values(at=now() + timedelta(hours=1)),
        "a worker's sign of life": update(Worker).values(seen_at=now() + timedelta(hours=2)),
        "the start of a job": update(Job).values(started_at=now() + timedelta(hours=3)),
        "the end of a job": update(Job).values(finished_at=now() + timedelta(hours=4)),
    }
    for hours, (said, change) in enumerate(changes.items(), start=1):
        with database.write() as session:
            session.execute(change)
        assert is_problem(clock.memory(database, now()), f"{said} lies in the future", "NTP")
        assert clock.memory(database, now() + timedelta(hours=hours)).is_fine
