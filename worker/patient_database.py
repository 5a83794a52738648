"""A database that may be away for a while: each transaction is tried again until it answers, or given up at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from sqlalchemy.orm import Session
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from db import events
from db.clock import clock
from db.errors import DatabaseUnreachable
from db.session import Database
from worker.interrupts import uninterrupted

BETWEEN_TRIES = wait_exponential_jitter(multiplier=0.1, max=5)  # seconds

T = TypeVar("T")
Work = Callable[[Session, datetime], T]  # in one transaction, at the time that all workers agree on


def _nothing() -> None:
    pass


class PatientDatabase:
    """Transactions by one worker. `trouble` is told when the database goes away and comes back.

    With a `round_id`, that round is locked before the work begins. Nothing interrupts a transaction that writes.
    """

    def __init__(self, database: Database, patience_seconds: float, trouble: Callable[[str], None]) -> None:
        self._database = database
        self._patience_seconds = patience_seconds
        self._trouble = trouble
        self._is_away = False

    def write(self, work: Work[T], *, round_id: int | None = None, then: Callable[[], None] = _nothing) -> T:
        """Does the work, then `then`, once that is committed; raises DatabaseUnreachable when patience ends."""

        return self.patiently(lambda: self._write(work, round_id, then))

    def read(self, ask: Work[T]) -> T:
        """Asks; raises DatabaseUnreachable when patience ends."""
        return self.patiently(lambda: self._read(ask))

    def try_write(self, work: Work[object], *, round_id: int | None = None) -> bool:
        """Does the work unless the database is away; returns whether it was there."""

        return self._once(lambda: self._write(work, round_id, _nothing))

    def try_read(self, ask: Work[object]) -> bool:
        """Asks unless the database is away; returns whether it was there."""
        return self._once(lambda: self._read(ask))

    def patiently(self, call: Callable[[], T]) -> T:
        """Calls until it does not raise DatabaseUnreachable, or patience ends."""

        def say(state: RetryCallState) -> None:
            assert state.outcome is not None  # noqa: S101  (it failed)
            self._went_away(state.outcome.exception())

        retrying = Retrying(
            stop=stop_after_delay(self._patience_seconds),
            wait=BETWEEN_TRIES,
            retry=retry_if_exception_type(DatabaseUnreachable),
            before_sleep=say,
            reraise=True,
        )
        done = retrying(call)
        self._came_back()
        return done

    def _once(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except DatabaseUnreachable as error:
            self._went_away(error)
            return False
        self._came_back()
        return True

    def _write(self, work: Work[T], round_id: int | None, then: Callable[[], None]) -> T:
        with uninterrupted():
            with self._database.write() as session:
                now = clock(session) if round_id is None else events.lock(session, round_id)
                done = work(session, now)
            then()
        return done

    def _read(self, ask: Work[T]) -> T:
        with self._database.read() as session:
            return ask(session, clock(session))

    def _went_away(self, error: BaseException | None) -> None:
        if not self._is_away:
            self._trouble(f"{error}; trying again")
        self._is_away = True

    def _came_back(self) -> None:
        if self._is_away:
            self._trouble("the database is back")
        self._is_away = False
