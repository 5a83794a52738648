"""The list of rounds straight from an SQLite file: importing SQLAlchemy takes longer than `fsq status` should."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from db.revision import HEAD
from db.states import JobState


class Glimpse(NamedTuple):
    """A round with how many of its jobs are in each state, and how many decisions of each kind were taken."""

    round: str
    state: str
    reason: str | None
    jobs: dict[JobState, int]
    decisions: dict[str, int]


def rounds(path: Path) -> list[Glimpse] | None:
    """Every round, the oldest first, none where no file is yet; None for one that cannot be read like this.

    That may be for want of rights, or because it is of another schema.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return []
    except OSError:
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return _rounds(connection)
    except sqlite3.Error:
        return None


def _rounds(connection: sqlite3.Connection) -> list[Glimpse] | None:
    connection.execute("BEGIN")  # all of one moment
    if connection.execute("SELECT version_num FROM alembic_version").fetchall() != [(HEAD,)]:
        return None
    found = {
        id_: Glimpse(name, state, reason, dict.fromkeys(JobState, 0), {})
        for id_, name, state, reason in connection.execute(
            "SELECT id, name, state, reason FROM rounds ORDER BY id"
        )
    }
    for id_, state, count in connection.execute(
        "SELECT round_id, state, count(*) FROM jobs GROUP BY round_id, state"
    ):
        found[id_].jobs[JobState(state)] = count
    for id_, verdict, count in connection.execute(
        "SELECT round_id, decision, count(*) FROM decisions GROUP BY round_id, decision"
    ):
        found[id_].decisions[verdict] = count
    return list(found.values())
