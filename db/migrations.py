"""Bringing a database to the schema of this version, and refusing to work on any other."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import text

from alembic import command
from db.errors import SchemaMismatch
from db.session import Database

_LOCK = 5_371  # two processes that start at once must not both make the tables


def upgrade(database: Database, revision: str = "head") -> str:
    """Applies the missing migrations and returns the revision reached; a current database is left as it is.

    Raises SchemaMismatch when the database was written by a newer version of fsq.
    """
    with database.engine.begin() as connection:
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


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    return config


def _scripts() -> Path:
    """The migrations: beside the packages in a checkout, inside this one when installed."""
    package = Path(__file__).resolve().parent
    installed = package / "alembic"
    return installed if installed.is_dir() else package.parent / "alembic"
