"""An SQLite file: where it lies, whether it is whole, whether readers and writer stay out of each other's way."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

from db.session import Database
from worker.diagnosis.finding import Finding
from worker.diagnosis.machine import write_durably

MOUNTS = Path("/proc/mounts")
PATIENCE_SECONDS = 5.0  # for the write lock; transactions of fsq take milliseconds
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|ceph|lustre|gpfs|beegfs|fuse\.(sshfs|ceph|glusterfs|s3fs|rclone)"
)


class Connection(Protocol):
    """What these checks need of a connection in autocommit mode."""

    def execute(self, statement: str, /) -> sqlite3.Cursor: ...


def examine(database: Database) -> Iterator[Finding]:
    """Checks the file as fsq opens it."""
    path = Path(database.engine.url.database or "")
    if path.is_file():
        yield file_system(path, MOUNTS)
        yield folder(path.parent)
    with closing(database.engine.raw_connection()) as pooled:
        connection: sqlite3.Connection = pooled.driver_connection  # type: ignore[assignment]
        yield integrity(connection)
        yield journal(connection)
        yield writing(connection)


def file_system(path: Path, mounts: Path) -> Finding:
    """Whether the file lies on a network file system, whose locks cannot be trusted; `mounts` as in /proc/mounts."""
    what = "database file system"
    try:
        kind, place = _mounted(path.resolve(), mounts.read_text(errors="replace"))
    except OSError:
        return Finding.fine(what, "not known on this platform")
    if _NETWORK.fullmatch(kind) is None:
        return Finding.fine(what, f"{kind} on {place}")
    return Finding.problem(
        what,
        f"{kind} on {place}: SQLite loses data on network file systems",
        "use PostgreSQL (FSQ_DATABASE_URL=postgresql://...), or keep the file on a disk of this machine",
    )


def _mounted(path: Path, mounts: str) -> tuple[str, str]:
    """Type and place of the file system that a path lies on; of two at one place, the later hides the earlier."""
    best = ("unknown", "/")
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split(" ")
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place)
        if path.is_relative_to(place) and len(place) >= len(best[1]):
            best = (kind, place)
    return best


def folder(path: Path) -> Finding:
    """Whether SQLite can put its journal beside the file."""
    what = "database folder"
    try:
        write_durably(path)
    except OSError as error:
        return Finding.problem(
            what,
            f"cannot write to {path}: {error.strerror}",
            "give the folder to the user that runs fsq, and free its disk: SQLite writes beside its file",
        )
    return Finding.fine(what, f"{path} takes files")


def integrity(connection: Connection) -> Finding:
    """Whether every page of the file makes sense."""
    what = "database integrity"
    try:
        said = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.DatabaseError as error:
        said = [str(error)]
    if said == ["ok"]:
        return Finding.fine(what, "every page is whole")
    return Finding.problem(
        what,
        " ".join("; ".join(said).split()),
        "stop all fsq processes, keep a copy of the file, and put your last backup in its place; without one, "
        "`sqlite3 fsq.db .recover | sqlite3 new.db` saves what can be read",
    )


def journal(connection: Connection) -> Finding:
    """Whether readers see a snapshot while somebody writes."""
    what = "database journal"
    try:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    except sqlite3.OperationalError as error:
        mode = f"cannot be changed: {error}"
    if mode == "wal":
        return Finding.fine(what, "write-ahead log: readers and the writer do not wait for each other")
    return Finding.problem(
        what,
        f"mode {mode}: readers and the writer lock each other out",
        "keep the file on a local disk (a write-ahead log needs shared memory), and stop programs that hold it open",
    )


def writing(connection: Connection, patience: float = PATIENCE_SECONDS) -> Finding:
    """Writes, and takes it back."""
    what = "database writing"
    connection.execute(f"PRAGMA busy_timeout={int(1000 * patience)}")
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("CREATE TABLE fsq_doctor (written INTEGER)")
            connection.execute("INSERT INTO fsq_doctor VALUES (1)")
        finally:
            connection.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        return Finding.problem(what, str(error), _how_to_write(error, patience))
    return Finding.fine(what, "a row was written and taken back")


def _how_to_write(error: sqlite3.DatabaseError, patience: float) -> str:
    if "locked" in str(error):
        return f"a process has held the write lock for {patience:g} s: find it (`fuser -v` on the file) and end it"
    return "free the disk, and give the file and its folder to the user that runs fsq"
