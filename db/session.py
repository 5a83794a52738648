"""Opening a database: SQLite (WAL, immediate writes) or PostgreSQL."""

from __future__ import annotations

import selectors
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InvalidatePoolError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from db import events
from db.errors import DatabaseUnreachable, SchemaMismatch
from db.revision import HEAD

BUSY_TIMEOUT_SECONDS = 30
_NOT_WRITABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
_IS_NEW = "fsq_is_new"  # in what is known of a connection: nothing has been asked on it yet
# SQLite by itself looks ever less often the longer it waits, so the latest wins
LONGEST_LOOK_MILLISECONDS = 5


class Database:
    """Short transactions on one database; readers never block the writer, nor the writer them.

    Raises DatabaseUnreachable when the URL is malformed or nothing answers there.
    """

    def __init__(self, url: str) -> None:
        self.engine = _open(url)
        self._reader = self.engine.execution_options(fsq_readonly=True, **_snapshot(self.engine))
        self._write = sessionmaker(self.engine, expire_on_commit=False)
        event.listen(self._write, "before_commit", events.write)
        self._read = sessionmaker(self._reader, expire_on_commit=False)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed at the end, with its events, or rolled back by an exception."""
        with self.reachable(), self._write.begin() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view; nothing is written."""
        with self.reachable(), self._read() as session:
            yield session

    def revision(self) -> str | None:
        """The migration that the schema is at; None for an empty database; raises SchemaMismatch for another's."""
        with self.reachable(), self._reader.connect() as connection:
            inspector = inspect(connection)
            tables = set(inspector.get_table_names(inspector.default_schema_name))
            found = None
            if "alembic_version" in tables:
                found = connection.scalar(text("SELECT version_num FROM alembic_version"))
            if found and "rounds" in tables:
                return str(found)
            empty = set() if found else {"alembic_version"}  # as after a downgrade to nothing
            if others := tables - empty - _of_extensions(connection):
                raise SchemaMismatch(
                    f"the database holds tables that no version of fsq tells of ({', '.join(sorted(others)[:5])}); "
                    "give fsq one of its own (FSQ_DATABASE_URL), or put your last backup in its place"
                )
            return None

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Raises DatabaseUnreachable for whatever of the driver's says that it is not."""
        try:
            yield
        except PoolTimeout as error:
            raise DatabaseUnreachable("the database has no connection left for this") from error
        except DBAPIError as error:
            if isinstance(error, IntegrityError | ProgrammingError | DataError):
                raise
            said = " ".join(str(error.orig).split())
            if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _NOT_WRITABLE:
                said += f"; {self.engine.url.database} and its folder must be writable"
            raise DatabaseUnreachable(f"the database does not answer: {said}") from error


def _snapshot(engine: Engine) -> dict[str, Any]:
    """What makes a reader see one moment; on SQLite every transaction does."""
    return {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}


def _of_extensions(connection: Connection) -> set[str]:
    """Tables that extensions of PostgreSQL have made, which nobody else can drop."""
    if connection.dialect.name != "postgresql":
        return set()
    query = (
        "SELECT relname FROM pg_class JOIN pg_depend ON objid = pg_class.oid "
        "WHERE classid = 'pg_class'::regclass AND deptype = 'e'"
    )
    return set(connection.scalars(text(query)))


def open_current(url: str) -> Database:
    """Opens a database whose schema is this version's, making it so where it is new or a migration behind.

    Raises DatabaseUnreachable, or SchemaMismatch for the schema of a newer fsq.
    """
    database = Database(url)
    try:
        if database.revision() != HEAD:
            from db.migrations import upgrade  # Alembic takes a while to import, and is rarely needed

            upgrade(database)
    except BaseException:
        database.close()
        raise
    return database


def file_of(url: str) -> Path | None:
    """The file of an SQLite database; None for a database that is no file of this machine."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return None
    name = parsed.database if parsed.get_backend_name() == "sqlite" else None
    return None if not name or name == ":memory:" or name.startswith("file:") else Path(name).absolute()


def may_exist(url: str) -> bool:
    """False where an SQLite file would have to be made first."""
    path = file_of(url)
    return path is None or path.exists()


_POSTGRESQL_OPTIONS = {
    "client_encoding": "utf8",  # else SQLAlchemy stumbles over an SQL_ASCII database before it can be refused
    "connect_timeout": BUSY_TIMEOUT_SECONDS,
    "keepalives_idle": BUSY_TIMEOUT_SECONDS,
    "tcp_user_timeout": 1000 * BUSY_TIMEOUT_SECONDS,  # a server that vanished without a word
}


def _open(url: str) -> Engine:
    shown = "the database URL"  # never with its password
    try:
        parsed = make_url(url)
        shown = f"{shown} {parsed.render_as_string()}"
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
            raise ArgumentError("expected sqlite:///FILE or postgresql://...")
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite:
            if parsed.database in (None, "", ":memory:"):
                raise ArgumentError("it names no file, and all processes must see the same database")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            parsed,
            pool_size=10,
            max_overflow=40,  # as many as a server has threads
            connect_args={"timeout": BUSY_TIMEOUT_SECONDS} if sqlite else _POSTGRESQL_OPTIONS,
        )
    except (ArgumentError, ModuleNotFoundError) as error:
        raise DatabaseUnreachable(f"{shown} cannot be used: {error}") from None
    except OSError as error:
        raise DatabaseUnreachable(f"the folder of {shown} cannot be made: {error}") from error
    if sqlite:
        _prepare_sqlite(engine)
    else:
        _prepare_postgresql(engine)
    return engine


def _prepare_postgresql(engine: Engine) -> None:
    """Nobody waits forever: neither for a lock, nor for a process that stopped in the middle of a transaction."""

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        record.info[_IS_NEW] = True
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            connection.close()
            raise DatabaseUnreachable(
                f"the database's encoding is {encoding}, which cannot hold all text; make one in UTF8: "
                "createdb --encoding UTF8 --template template0 NAME"
            )
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{BUSY_TIMEOUT_SECONDS}s'")
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{2 * BUSY_TIMEOUT_SECONDS}s'")
        connection.commit()

    @event.listens_for(engine, "checkout")
    def replace_the_dead(connection: Any, record: Any, _given: Any) -> None:
        if not record.info.pop(_IS_NEW, False) and _has_hung_up(connection):
            raise InvalidatePoolError


def _has_hung_up(connection: Any) -> bool:
    """Whether the server has ended a connection that was kept: it says nothing else unasked.

    To ask it would take a request before every transaction. A server that went without a word looks as if it were
    there, until the first request.
    """
    # one without a file descriptor of its own
    with getattr(selectors, "PollSelector", selectors.SelectSelector)() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(timeout=0))


def _prepare_sqlite(engine: Engine) -> None:
    """Readers see a snapshot (WAL); writers take the write lock at once, so that they queue instead of failing."""

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver emits no BEGIN of its own; `begin` below does
        _keep_a_log(connection)
        connection.execute("PRAGMA synchronous=FULL")  # a completed job survives a power cut
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("fsq_readonly"):
            connection.exec_driver_sql("BEGIN")
        else:
            _begin_to_write(connection)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """Whether another connection has what is asked for."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _keep_a_log(connection: Any) -> None:
    """Turns WAL on; where others open a new file at the same moment SQLite refuses at once, whatever its timeout."""
    until = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > until:
                raise
            time.sleep(LONGEST_LOOK_MILLISECONDS / 1000)
        else:
            return


def _begin_to_write(connection: Connection) -> None:
    """Takes the write lock once no other process has it, with the same chance for all that wait."""
    driver: Any = connection.connection.driver_connection
    until = time.monotonic() + BUSY_TIMEOUT_SECONDS
    driver.execute(f"PRAGMA busy_timeout = {LONGEST_LOOK_MILLISECONDS}")
    try:
        while time.monotonic() < until:
            try:
                driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    break
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # once more, for the error to be SQLAlchemy's
    finally:
        driver.execute(f"PRAGMA busy_timeout = {1000 * BUSY_TIMEOUT_SECONDS}")
