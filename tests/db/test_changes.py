"""Waiting for a change wakes up when another connection commits one, and only then."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from db import events
from db.changes import Changes
from db.errors import DatabaseUnreachable
from db.events import EventKind
from db.session import Database, open_current
from tests.db.test_queue import NOW, add_round


@pytest.fixture
def changes(database: Database, database_url: str) -> Iterator[Changes]:
    """As another process has them."""
    add_round(database)
    other = open_current(database_url)
    changes = Changes(other)
    assert changes.wait(0)  # what happened before is not known
    yield changes
    changes.close()
    other.close()


def something_happens(database: Database) -> None:
    with database.write() as session:
        events.append(session, 1, EventKind.WAITING, now=NOW)


def test_wait__nothing_happens(changes: Changes) -> None:
    assert not changes.wait(0.3)


def test_wait__something_happened_before_the_call(changes: Changes, database: Database) -> None:
    something_happens(database)
    assert changes.wait(5)
    assert not changes.wait(0.05)


def test_wait__something_happens_meanwhile(changes: Changes, database: Database) -> None:
    soon = threading.Timer(0.3, something_happens, [database])
    soon.start()
    began = time.monotonic()
    assert changes.wait(30)
    assert time.monotonic() - began < 15  # woken, not timed out
    soon.join()


def test_wait__what_is_rolled_back_did_not_happen(changes: Changes, database: Database) -> None:
    with database.write() as session:
        events.append(session, 1, EventKind.WAITING, now=NOW)
        session.rollback()
    assert not changes.wait(0.3)


def test_wait__goes_on_after_the_connection_was_lost(changes: Changes, database: Database) -> None:
    if database.engine.dialect.name != "postgresql":
        pytest.skip("no server that could end a connection")
    with database.engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with pytest.raises(DatabaseUnreachable):
        changes.wait(5)
    assert changes.wait(0)  # connected again: anything may have happened
    something_happens(database)
    assert changes.wait(5)


def test_wait__hears_of_other_processes(changes: Changes, database_url: str) -> None:
    program = (
        "import sys; from db.session import Database; from tests.db.test_changes import something_happens; "
        "something_happens(Database(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", program, database_url], check=True, timeout=60)
    assert changes.wait(5)
