"""The database: whether it is there, whole and writable, and of this version's schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from db.errors import DatabaseError, SchemaMismatch
from db.revision import HEAD
from db.session import Database, file_of
from worker.diagnosis import postgresql, sqlite
from worker.diagnosis.finding import Finding
from worker.diagnosis.machine import nearest_existing, write_durably

REST = "then run `fsq doctor` again: rounds, clock and workers were not looked at"


def examine(url: str) -> Iterator[Finding]:
    """Checks the database at a URL; makes none where there is none."""
    path = file_of(url)
    if path is not None and not path.exists():
        yield none_yet(path)
        return
    database = None
    try:
        database = Database(url)
        revision = database.revision()
        yield Finding.fine("database", database.engine.url.render_as_string())
        kind = sqlite if database.engine.dialect.name == "sqlite" else postgresql
        yield from kind.examine(database)
        yield migrations(revision)
    except SchemaMismatch as error:
        yield Finding.problem("database", explained(error), REST)
    except (DatabaseError, SQLAlchemyError) as error:
        yield Finding.problem("database", explained(error), f"{_advice(url)}; {REST}")
    finally:
        if database is not None:
            database.close()


def none_yet(path: Path) -> Finding:
    """Whether an SQLite database can be made here."""
    try:
        write_durably(nearest_existing(path.parent))
    except OSError as error:
        found = f"{path} cannot be made: {error.strerror}"
        return Finding.problem("database", found, "set FSQ_DATABASE_URL to a place you can write to")
    return Finding.fine("database", f"none yet; the first command makes {path}")


def migrations(revision: str | None) -> Finding:
    """Whether a database at this revision is one that this version works with."""
    if revision is None:
        return Finding.fine("migrations", "the database is empty; the first command makes the schema")
    if revision == HEAD:
        return Finding.fine("migrations", f"revision {revision}, the newest")
    if revision < HEAD:  # they are numbered
        return Finding.problem(
            "migrations", f"revision {revision}, the newest is {HEAD}", f"run `fsq db upgrade`; {REST}"
        )
    return Finding.problem(
        "migrations",
        f"revision {revision} is not known to this fsq, whose newest is {HEAD}",
        f"install the newer fsq that made it (this one leaves the database alone); {REST}",
    )


def folder(url: str) -> Path | None:
    """Where an SQLite database lies; None for one that lies in no folder of this machine."""
    path = file_of(url)
    return None if path is None else path.parent


def explained(error: Exception) -> str:
    """What the database said, in one line."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(said).split())


def _advice(url: str) -> str:
    path = file_of(url)
    if path is None:
        return "check FSQ_DATABASE_URL, that the server runs and that its log shows no error"
    return (
        f"check that {path} is an SQLite file, that its folder takes files and that its disk is not full; "
        "if it is damaged, put your last backup in its place"
    )
