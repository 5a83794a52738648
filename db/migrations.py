"""Bringing a database to the schema of this version, and refusing to work on any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text

from alembic import command
from db.errors import SchemaMismatch
from db.session import Database

_LOCK = 5_371  # two processes that start at once must not both make the tables


def upgrade(database: Database, revision: str = "head") -> str:
    """Applies the missing migrations and returns the revision reached; a current database is left as it is.

    Raises SchemaMismatch when the database was written by a newer version of fsq, or holds something else.
    """
    database.revision()
    with _unwatched(database) as connection:
        if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        config = _config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            raise SchemaMismatch(
                f"the database has a schema that this version of fsq does not know ({error}); install the newer fsq"
            ) from error
        return MigrationContext.configure(connection).get_current_revision() or "empty"


@contextmanager
def _unwatched(database: Database) -> Iterator[Connection]:
    """A transaction in which SQLite lets a table go that others refer to: it is changed by copying and dropping it.

    With its foreign keys watched over, all rows that refer to one of it would go with it.
    """
    with database.reachable(), database.engine.connect() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        driver: Any = connection.connection.driver_connection
        if is_sqlite:
            driver.execute("PRAGMA foreign_keys=OFF")  # before the transaction, within which it does nothing
        try:
            with connection.begin():
                before = _dangling(connection) if is_sqlite else 0
                yield connection
                if is_sqlite and _dangling(connection) > before:
                    raise SchemaMismatch("the migrations would leave rows that refer to rows that are gone")
        finally:
            if is_sqlite:
                driver.execute("PRAGMA foreign_keys=ON")


def _dangling(connection: Connection) -> int:
    """How many references of an SQLite database lead nowhere."""
    return len(connection.exec_driver_sql("PRAGMA foreign_key_check").all())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    return config


def _scripts() -> Path:
    """The migrations: beside the packages in a checkout, inside this one when installed."""
    package = Path(__file__).resolve().parent
    installed = package / "alembic"
    return installed if installed.is_dir() else package.parent / "alembic"
