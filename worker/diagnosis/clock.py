"""Whether this machine's clock can be believed: leases, records and the order of events depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from db import clock as database_clock
from db.session import Database
from db.tables import Event, Job, Worker
from worker.diagnosis.finding import Finding

EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)  # fsq is not older
LARGEST_DIFFERENCE = timedelta(seconds=2)
LARGEST_LEAD = timedelta(minutes=1)  # of what the database remembers
ADVICE = "set the clock by NTP (`timedatectl set-ntp true`)"

Now = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


def examine(database: Database, now: Now = _now) -> Iterator[Finding]:
    """Compares the clock with the calendar, with the server's clock and with what the database remembers."""
    yield calendar(now())
    if database.engine.dialect.name == "postgresql":
        yield server(database, now)
    yield memory(database, now())


def calendar(now: datetime) -> Finding:
    """Whether the date is possible at all: machines without a battery start in 1970."""
    found = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now >= EARLIEST:
        return Finding.fine("clock", found)
    return Finding.problem("clock", found, f"that is before fsq was written: {ADVICE}")


def server(database: Database, now: Now) -> Finding:
    """The difference to the clock of the PostgreSQL server, known to half a round trip."""
    with database.read() as session:
        before = now()
        theirs = database_clock.clock(session)
        difference = theirs - (before + (now() - before) / 2)
    seconds = difference.total_seconds()
    found = f"the database server is {abs(seconds):.2f} s {'ahead' if seconds > 0 else 'behind'}"
    if abs(difference) < LARGEST_DIFFERENCE:
        return Finding.fine("clock of the server", found)
    return Finding.problem("clock of the server", found, f"{ADVICE}, on both machines")


def memory(database: Database, now: datetime) -> Finding:
    """Whether something is said to have happened in the future: then the clock was, or is, wrong."""
    columns = {
        "an event": Event.at,
        "a worker's sign of life": Worker.seen_at,
        "the start of a job": Job.started_at,
        "the end of a job": Job.finished_at,
    }
    what = "clock of the records"
    with database.read() as session:
        latest = {
            name: session.execute(select(func.max(column))).scalar() for name, column in columns.items()
        }
    ahead = {name: at for name, at in latest.items() if at is not None and at > now + LARGEST_LEAD}
    if not ahead:
        return Finding.fine(what, "nothing in the database lies in the future")
    name, at = max(ahead.items(), key=lambda item: item[1])
    return Finding.problem(
        what,
        f"{name} lies in the future: {at:%Y-%m-%d %H:%M:%S} UTC, and now is {now:%Y-%m-%d %H:%M:%S} UTC",
        f"{ADVICE} if it is behind; if it was ahead before, only the times in records are wrong, not the results",
    )
