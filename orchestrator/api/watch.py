"""Tells many waiting streams that a round has moved on, with one small query at a time for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select

from db.session import Database
from db.tables import Round

INTERVAL_SECONDS = 0.25

log = structlog.get_logger("fsq.api")


class Watch:
    """Looks at the rounds that somebody waits for, as long as somebody does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[int, int] = {}  # round id: how many wait for it
        self._counts: Mapping[int, int] = {}
        self._looked = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.is_stopping = False

    @property
    def streams(self) -> int:
        """How many streams are waiting."""
        return sum(self._waiting.values())

    async def wait(self, round_id: int, number: int, seconds: float) -> bool:
        """Waits until a round has more than `number` events; False when it has not after so long."""
        self._waiting[round_id] = self._waiting.get(round_id, 0) + 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(seconds), self._looked:
                await self._looked.wait_for(
                    lambda: self.is_stopping or self._counts.get(round_id, 0) > number
                )
            return not self.is_stopping
        except TimeoutError:
            return False
        finally:
            self._waiting[round_id] -= 1
            if not self._waiting[round_id]:
                del self._waiting[round_id]

    async def _look(self) -> None:
        while self._waiting:
            try:
                self._counts = await run_in_threadpool(self._ask, list(self._waiting))
            except Exception as error:  # the database may come back; the streams stay as they are until then
                log.error("cannot look for events", reason=str(error))
            async with self._looked:
                self._looked.notify_all()
            await asyncio.sleep(INTERVAL_SECONDS)

    def _ask(self, ids: list[int]) -> dict[int, int]:
        with self._database.read() as session:
            rows = session.execute(select(Round.id, Round.n_events).where(Round.id.in_(ids)))
            return {id_: count for id_, count in rows}  # noqa: C416
