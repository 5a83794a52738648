"""A worker whose ended jobs advance their rounds, with a display of what it does."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import FrameType

from sqlalchemy.orm import Session

from db.clock import clock
from db.errors import DatabaseUnreachable
from db.queue import Behind, rounds_behind
from db.session import Database
from orchestrator import engine
from orchestrator.engine import Advance
from orchestrator.errors import BrokenRound
from orchestrator.rounds import stored_round
from orchestrator.terminal.display import Display
from orchestrator.verdicts import Verdict
from orchestrator.wiring import limits_of, read_settings
from worker import failures
from worker.process import Child
from worker.queue_client import QueueClient
from worker.service import WorkerService
from worker.snapshot_files import remove_snapshots, remove_stale, trajectories


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever runs this machine wants it to stop, in order."""


@contextmanager
def working(database: Database, child: Child, display: Display, name: str | None) -> Iterator[WorkerService]:
    """A worker on one round, or on all, whose finished jobs advance their rounds; the display is closed at the end.

    Raises NotFound.
    """
    chosen = read_settings()
    limits = limits_of(chosen)
    own_patterns = failures.read_table(chosen.failure_table) if chosen.failure_table else ()
    rounds = _Rounds(database, display, chosen.home)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        round_id, all_decided = rounds.catch_up(name)
        rounds.tidy()
        queue = QueueClient(
            database,
            chosen.home,
            limits,
            rounds.advance,
            rounds.follow,
            display.troubled,
            round_id,
            rounds.catch_up_more,
        )
        queue.has_failed = not all_decided
        gc.freeze()  # what is imported stays: a look through it for garbage would hold up a job's end
        yield WorkerService(queue, child, display, limits, rounds.tidy, own_patterns)
        rounds.tidy()
    except KeyboardInterrupt:
        display.close()
        display.interrupted("interrupted; the running job goes back to the queue")
        raise
    finally:
        try:
            rounds.close()
        finally:
            display.close()


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut short the handing back
    raise Terminated


class _Rounds:
    """The rounds as jobs that end advance them, and what that leads to outside the database."""

    def __init__(self, database: Database, display: Display, home: Path) -> None:
        self._database, self._display, self._home = database, display, home
        self._only: int | None = None  # the round of the name
        self._catching_up: Behind | None = None  # the round that this transaction advances
        self._beyond: set[Behind] = (
            set()
        )  # those that cannot be worked out here; known once that is committed
        self._aside = ThreadPoolExecutor(1, "snapshots")

    def catch_up(self, name: str | None) -> tuple[int | None, bool]:
        """Advances the active rounds, or the one of this name; raises NotFound.

        A crash between a completion and its decision, or a rule that failed, may have left something undone. Returns
        the named round's id, and whether all could be decided.
        """
        with self._database.read() as session:
            active = engine.active_rounds(session)
            round_id = self._only = None if name is None else stored_round.find(session, name).id
        all_decided = True
        for id_ in active if round_id is None else {round_id}.intersection(active):
            advanced = None
            while advanced is None or not advanced.is_whole:
                with self._database.write() as session:
                    advanced = self._advance(session, engine.advance, id_, clock(session))
                all_decided &= self.follow(advanced)
        return round_id, all_decided

    def advance(self, session: Session, job_id: int, now: datetime) -> Advance:
        """Takes the decisions that follow from a job that has ended."""
        return self._advance(session, engine.advance_job, job_id, now)

    def catch_up_more(self, session: Session, now: datetime) -> Advance | None:
        """Advances a round that is behind, by as much as one transaction takes; None where none is."""
        behind = [one for one in rounds_behind(session, round_id=self._only) if one not in self._beyond]
        if not behind:
            return None
        self._catching_up = behind[0]
        return self._advance(session, engine.advance, behind[0].round_id, now)

    def _advance(
        self, session: Session, work: Callable[..., Advance], round_or_job: int, now: datetime
    ) -> Advance:
        """Advances a round as far as it can be worked out; a broken one holds up no other."""
        try:
            advanced = work(session, round_or_job, now=now)
        except BrokenRound as error:
            advanced = replace(engine.NOTHING, broken=error)
        if advanced.broken is not None:
            if self._catching_up is None or not self._catching_up.is_held_up:
                engine.hold_up(session, advanced.broken, now=now)
            self._display.troubled(f"{advanced.broken}; nothing more of it is decided")
        return advanced

    def follow(self, advanced: Advance) -> bool:
        """Shows decisions that are stored, and lets their snapshots go; returns whether all could be decided."""
        if advanced.broken is not None and self._catching_up is not None:
            self._beyond.add(self._catching_up)
        self._catching_up = None
        # the next job need not wait for the disk: it takes milliseconds to let a large file go
        self._aside.submit(remove_snapshots, self._home, advanced.closed_trajectories)
        self._display.decided(advanced.decisions)
        return all(taken.decision.verdict is not Verdict.UNDECIDED for taken in advanced.decisions)

    def tidy(self) -> None:
        """Lets go of the snapshots that no round needs any more."""
        if found := trajectories(self._home):
            with suppress(DatabaseUnreachable), self._database.read() as session:
                live = engine.live_trajectories(session, found)
                remove_stale(self._home, found - live)  # what has come since then nobody was asked about

    def close(self) -> None:
        self._aside.shutdown()
