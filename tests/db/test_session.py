"""Connections to a server that ends them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db.errors import DatabaseUnreachable
from db.session import Database
from db.tables import Round

OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
AT_ONCE = 4  # connections
LONGEST_WAIT = 10.0  # seconds


@pytest.fixture
def served(database: Database) -> Database:
    """A database on a server."""
    if database.engine.dialect.name == "sqlite":
        pytest.skip("no server")
    return database


@pytest.fixture
def killer(served: Database) -> Iterator[Database]:
    """The same database, over connections of its own."""
    other = Database(served.engine.url.render_as_string(hide_password=False))
    yield other
    other.close()


def end_connections_of_others(database: Database) -> None:
    """Returns once they have ended."""
    with database.engine.connect() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend(pid) {OTHERS}"))
        until = time.monotonic() + LONGEST_WAIT
        while connection.execute(text(f"SELECT count(*) {OTHERS}")).scalar_one():
            assert time.monotonic() < until
            connection.rollback()  # a transaction counts them once
            time.sleep(0.01)


def ask(session: Session) -> None:
    session.execute(select(Round.id)).all()


def test_transactions__begin_anew_after_all_connections_have_ended(
    served: Database, killer: Database
) -> None:
    """Whoever comes next, for however many, is not told that the connections that were kept are gone."""
    for begin in (served.read, served.write, served.read):
        with ExitStack() as stack:
            for session in [stack.enter_context(begin()) for _ in range(AT_ONCE)]:
                ask(session)
        end_connections_of_others(killer)


def test_write__whose_connection_ends_meanwhile(served: Database, killer: Database) -> None:
    def write() -> None:
        with served.write() as session:
            ask(session)
            end_connections_of_others(killer)
            ask(session)

    with pytest.raises(DatabaseUnreachable):
        write()
    with served.write() as session:
        ask(session)
