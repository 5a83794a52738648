"""An interrupt waits for the end of a transaction, and is not forgotten."""

from __future__ import annotations

import signal
import sqlite3
from datetime import datetime
from pathlib import Path
from types import FrameType

import pytest
from sqlalchemy.orm import Session

from db.session import open_current
from db.tables import Round
from worker.interrupts import uninterrupted
from worker.patient_database import PatientDatabase


class Stopped(KeyboardInterrupt):
    """What SIGTERM raises."""


@pytest.fixture(autouse=True)
def _handlers(monkeypatch: pytest.MonkeyPatch) -> object:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop), signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)]
)
def test_uninterrupted__raises_at_the_end(number: signal.Signals, raised: type[BaseException]) -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            done.append("all of it")

    with pytest.raises(raised):
        work()
    assert done == ["all of it"]
    with pytest.raises(raised):  # and from then on at once
        signal.raise_signal(number)


def test_uninterrupted__nothing_happens_without_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with uninterrupted():
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_write__an_interrupted_transaction_is_whole_and_leaves_no_lock(tmp_path: Path) -> None:
    database = open_current(f"sqlite:///{tmp_path / 'fsq.db'}")

    def interrupted(session: Session, now: datetime) -> None:
        session.add(Round(name="r", digest="", source="", spec={"parallel": True}, facts={}, created_at=now))
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped) as held:  # with its traceback, and so every frame, alive
        PatientDatabase(database, 1.0, lambda _: None).write(interrupted)
    with sqlite3.connect(tmp_path / "fsq.db", timeout=0) as other:
        other.execute("BEGIN IMMEDIATE")
        assert other.execute("SELECT count(*) FROM rounds").fetchone() == (1,)
    other.close()
    assert held.type is Stopped
    database.close()
