"""The database, on SQLite and PostgreSQL."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import inspect, text

from db.errors import SchemaMismatch
from db.migrations import upgrade
from db.session import HEAD, Database, open_current
from tests.worker.diagnosis.findings import is_problem, named, on_postgresql, on_sqlite, problems
from worker import diagnosis
from worker.diagnosis import Finding, database, postgresql, sqlite


def test_database__server_that_is_not_there() -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://me:secret@127.0.0.1:{taken.getsockname()[1]}/fsq"
        (found,) = database.examine(url)
    assert is_problem(
        found, "does not answer", "FSQ_DATABASE_URL", "rounds, clock and workers were not looked at"
    )
    assert "secret" not in f"{found}"


def test_database__file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "fsq.db"
    path.write_bytes(b"this is not SQLite" * 1000)
    found = list(database.examine(f"sqlite:///{path}"))
    assert is_problem(found[-1], "not a database", str(path), "backup")


def test_migrations__empty_database(database_url: str) -> None:
    opened = Database(database_url)
    opened.revision()  # makes the file
    opened.close()
    found = list(database.examine(database_url))
    assert problems(found) == []
    assert "the first command makes the schema" in named(found, "migrations").found


@pytest.mark.parametrize("tables", [["customers"], ["jobs", "rounds"], ["alembic_version"]])
def test_database__of_something_else(database_url: str, tables: list[str]) -> None:
    """Nothing is put beside what is there."""
    opened = Database(database_url)
    with opened.engine.begin() as connection:
        for name in tables:
            connection.execute(text(f"CREATE TABLE {name} (version_num TEXT)"))
            connection.execute(text(f"INSERT INTO {name} VALUES ('1975ea83b712')"))  # noqa: S608
    with pytest.raises(
        SchemaMismatch, match=f"no version of fsq tells of .{', '.join(tables)}.; give fsq one"
    ):
        open_current(database_url)
    with pytest.raises(SchemaMismatch):
        upgrade(opened)
    assert inspect(opened.engine).get_table_names() == tables
    opened.close()
    assert problems(list(database.examine(database_url))) == ["database"]


@on_sqlite
@pytest.mark.parametrize(
    ("revision", "advice"), [("0001", "fsq db upgrade"), ("9999", "install the newer fsq")]
)
def test_migrations__other_revision(
    database: Database, database_url: str, tmp_path: Path, revision: str, advice: str
) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    found = list(diagnosis.findings(tmp_path, database_url))
    assert problems(found) == ["migrations"]
    assert is_problem(named(found, "migrations"), revision, HEAD, advice)
    assert "leases" not in {finding.what for finding in found}


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """A current SQLite database that nobody has open."""
    path = tmp_path / "fsq.db"
    open_current(f"sqlite:///{path}").close()
    return path


@contextmanager
def connected(name: str, **options: Any) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(name, isolation_level=None, **options)) as connection:
        yield connection


def test_integrity__damaged_page(sqlite_file: Path) -> None:
    with connected(str(sqlite_file)) as connection:
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'ix_jobs_progress'"
        ).fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert sqlite.integrity(connection).is_fine
    with sqlite_file.open("r+b") as file:
        file.seek((root - 1) * page)
        file.write(b"\xff" * page)
    found = list(database.examine(f"sqlite:///{sqlite_file}"))
    assert is_problem(named(found, "database integrity"), "backup", ".recover")
    assert named(found, "migrations").is_fine


def test_journal__where_memory_cannot_be_shared(sqlite_file: Path) -> None:
    """As on a network file system: this way of locking has no shared memory, so a write-ahead log is impossible."""
    with connected(str(sqlite_file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    with connected(f"file:{sqlite_file}?vfs=unix-dotfile", uri=True) as connection:
        assert is_problem(sqlite.journal(connection), "mode delete", "local disk")
    with connected(str(sqlite_file)) as connection:
        assert sqlite.journal(connection).is_fine


def test_journal__held_open_in_another_mode(sqlite_file: Path) -> None:
    with connected(str(sqlite_file)) as reader, connected(str(sqlite_file), timeout=0) as connection:
        reader.execute("PRAGMA journal_mode=DELETE")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM jobs").fetchall()
        assert is_problem(sqlite.journal(connection), "locked", "stop programs that hold it open")


def test_writing__locked_by_another_process(sqlite_file: Path) -> None:
    with connected(str(sqlite_file)) as other, connected(str(sqlite_file)) as connection:
        other.execute("BEGIN IMMEDIATE")
        assert is_problem(sqlite.writing(connection, patience=0.05), "locked", "fuser")
        other.execute("ROLLBACK")
        assert sqlite.writing(connection).is_fine
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'fsq_doctor'").fetchall() == []


def test_writing__file_that_may_only_be_read(sqlite_file: Path) -> None:
    with connected(f"file:{sqlite_file}?mode=ro", uri=True) as connection:
        assert is_problem(sqlite.writing(connection), "readonly", "give the file")


def test_writing__full(sqlite_file: Path) -> None:
    with connected(str(sqlite_file)) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")
        assert is_problem(sqlite.writing(connection), "full", "free the disk")


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/me/local\\040disk xfs rw 0 0
//nas/share /mnt/nas cifs rw 0 0
me@host: /mnt/ssh fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/fsq.db", "nfs4 on /home"),
        ("/mnt/nas/fsq.db", "cifs on /mnt/nas"),
        ("/mnt/ssh/fsq.db", "fuse.sshfs on /mnt/ssh"),
    ],
)
def test_file_system__of_the_network(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert is_problem(sqlite.file_system(Path(path), tmp_path / "mounts"), kind, "use PostgreSQL")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/homely/fsq.db", "ext4 on /"),
        ("/home/me/local disk/fsq.db", "xfs on /home/me/local disk"),
    ],
)
def test_file_system__of_this_machine(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert sqlite.file_system(Path(path), tmp_path / "mounts") == Finding.fine("database file system", kind)
    assert sqlite.file_system(Path(path), tmp_path / "none").is_fine


def test_folder__takes_no_files(tmp_path: Path) -> None:
    assert is_problem(
        sqlite.folder(tmp_path / "gone"), str(tmp_path / "gone"), "SQLite writes beside its file"
    )


def test_version__too_old() -> None:
    assert is_problem(postgresql.version(120018), "PostgreSQL 12.18", "13")
    assert postgresql.version(130000).is_fine


def test_distance__too_long() -> None:
    assert is_problem(postgresql.distance([0.4, 0.001, 0.3]), "300.0 ms", "closer together")
    assert postgresql.distance([0.4, 0.001, 0.002]).is_fine


def test_connections__nearly_used_up() -> None:
    assert is_problem(postgresql.connections(90, 100, 3), "90 in use of 97", "max_connections")
    assert postgresql.connections(80, 100, 3).is_fine


@on_postgresql
def test_writing__server_that_takes_no_writes(database: Database, database_url: str) -> None:
    separator = "&" if "?" in database_url else "?"
    readonly = f"{database_url}{separator}options={quote('-c default_transaction_read_only=on')}"
    with closing(Database(readonly)) as standby:
        assert is_problem(postgresql.writing(standby), "read-only transaction", "not to a standby")
    assert postgresql.writing(database).is_fine
    with database.read() as session:
        assert session.execute(text("SELECT to_regclass('fsq_doctor')")).scalar() is None
