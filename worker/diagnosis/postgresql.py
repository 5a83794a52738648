"""A PostgreSQL server: its version, how far away it is, whether it takes writes and has connections left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from db.session import Database
from worker.diagnosis.finding import Finding

OLDEST_SERVER = 13
LONGEST_ROUND_TRIP = 0.1  # seconds; a transaction takes several
_N_CONNECTIONS = (
    "SELECT count(*), current_setting('max_connections')::int, "
    "current_setting('superuser_reserved_connections')::int "
    "FROM pg_stat_activity WHERE backend_type = 'client backend'"
)


def examine(database: Database) -> Iterator[Finding]:
    """Checks the server as this user sees it."""
    with database.engine.connect() as connection:
        yield version(int(connection.execute(text("SHOW server_version_num")).scalar_one()))
        yield distance([_round_trip(connection) for _ in range(5)])
        yield connections(*connection.execute(text(_N_CONNECTIONS)).one())
    yield writing(database)


def version(number: int) -> Finding:
    """Whether the server is new enough; `number` as PostgreSQL gives it, 160002 for 16.2."""
    shown = f"PostgreSQL {number // 10000}.{number % 10000}"
    if number // 10000 >= OLDEST_SERVER:
        return Finding.fine("database version", shown)
    advice = f"upgrade the server to PostgreSQL {OLDEST_SERVER} or later"
    return Finding.problem("database version", shown, advice)


def distance(round_trips: list[float]) -> Finding:
    """Whether the server answers soon enough; seconds."""
    typical = median(round_trips)
    found = f"{1000 * typical:.1f} ms there and back"
    if typical < LONGEST_ROUND_TRIP:
        return Finding.fine("database distance", found)
    return Finding.problem(
        "database distance",
        found,
        "bring worker and server closer together, or find out what slows the server or the network down",
    )


def connections(in_use: int, most: int, reserved: int) -> Finding:
    """Whether workers and servers will still be let in; `reserved` are kept for superusers."""
    found = f"{in_use} in use of {most - reserved}"
    if in_use <= 0.9 * (most - reserved):
        return Finding.fine("database connections", found)
    return Finding.problem(
        "database connections",
        found,
        "stop clients that are not needed, or raise max_connections in postgresql.conf",
    )


def writing(database: Database) -> Finding:
    """Writes, and takes it back."""
    try:
        with database.engine.connect() as connection, connection.begin() as transaction:
            connection.execute(text("CREATE TABLE fsq_doctor (written integer)"))
            connection.execute(text("INSERT INTO fsq_doctor VALUES (1)"))
            transaction.rollback()
    except DBAPIError as error:
        return Finding.problem(
            "database writing",
            " ".join(str(error.orig).split()),
            "grant the user CREATE on the schema, connect to the primary, not to a standby, or free its disk",
        )
    return Finding.fine("database writing", "a row was written and taken back")


def _round_trip(connection: Connection) -> float:
    began = time.perf_counter()
    connection.execute(text("SELECT 1"))
    return time.perf_counter() - began
