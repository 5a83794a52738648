"""Waiting for something to happen in the database, so that an idle worker starts a job at once.

PostgreSQL tells (LISTEN/NOTIFY); for SQLite a counter is looked at that every commit of another connection moves.
A wake-up is a hint only: what there is to do is asked of the queue.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy.exc import DBAPIError

from db.errors import DatabaseUnreachable
from db.events import CHANNEL
from db.session import Database

SHORTEST_LOOK = 0.005  # seconds between looks at an SQLite database, at first
LONGEST_LOOK = 0.1  # and after a while in which nothing happened


class Changes:
    """What others commit, from the time at which this was made."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: Any = None  # the connection, and the driver's own within it
        self._connection: Any = None
        self._seen: int | None = None  # SQLite's counter
        self._pause = SHORTEST_LOOK

    def wait(self, seconds: float) -> bool:
        """Waits at most so long; True as soon as something has happened since the last call.

        The first call returns at once: what happened before it is not known. Raises DatabaseUnreachable.
        """
        try:
            if self._connection is None:
                self._connect()
                return True
            return self._listen(seconds) if self._is_postgresql else self._look(seconds)
        except Exception as error:
            self.close()
            if isinstance(error, DBAPIError | self._database.engine.dialect.dbapi.Error):  # type: ignore[union-attr]
                raise DatabaseUnreachable(f"the database does not answer: {error}") from error
            raise

    def close(self) -> None:
        """Gives the connection back; the next call of `wait` opens another."""
        if self._held is not None:
            self._held.close()
            self._held = self._connection = None

    @property
    def _is_postgresql(self) -> bool:
        return self._database.engine.dialect.name == "postgresql"

    def _connect(self) -> None:
        self._held = self._database.engine.raw_connection()
        self._connection = self._held.driver_connection
        self._held.detach()
        if self._is_postgresql:
            self._connection.autocommit = True
            self._connection.execute(f"LISTEN {CHANNEL}")
        else:
            self._seen = self._counter()

    def _listen(self, seconds: float) -> bool:
        return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))

    def _look(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (counter := self._counter()) == self._seen:
            pause = min(self._pause, until - time.monotonic())
            if pause <= 0:
                return False
            time.sleep(pause)
            self._pause = min(1.2 * self._pause, LONGEST_LOOK)
        self._seen, self._pause = counter, SHORTEST_LOOK
        return True

    def _counter(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
