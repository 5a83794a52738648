"""The events of a round: gapless, in order, by whichever process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from threading import Thread

import pytest

from db import events
from db.clock import clock
from db.events import EventKind
from db.session import Database
from db.tables import Round
from orchestrator import interventions
from tests.claims import start_until_it_waits
from tests.db.test_queue import add_round
from tests.orchestrator.factories import NOW, Rig, resolve, result


def test_append__from_many_threads_leaves_no_gap(database: Database, tmp_path: Path) -> None:
    round_id = Rig(database).submit(resolve(tmp_path))
    with database.read() as session:
        before = len(events.since(session, round_id, 0))

    def append(number: int) -> None:
        with database.write() as session:
            events.append(session, round_id, EventKind.STARTED, now=NOW, n=number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(40)))

    with database.read() as session:
        found = events.since(session, round_id, 0)
    assert [event.number for event in found] == list(range(1, before + 41))
    assert sorted(event.data["n"] for event in found[before:]) == list(range(40))


def test_append__all_of_a_transaction_in_the_order_in_which_they_were_told(database: Database) -> None:
    first, second = add_round(database, "a"), add_round(database, "b")
    with database.write() as session:
        for number, round_id in enumerate((first, second, first)):
            events.append(session, round_id, EventKind.STARTED, now=NOW, n=number)
    with database.read() as session:
        told = {id_: events.since(session, id_, 0) for id_ in (first, second)}
    assert [(event.number, event.data, event.at) for event in told[first]] == [
        (1, {"n": 0}, NOW),
        (2, {"n": 2}, NOW),
    ]
    assert [(event.number, event.data) for event in told[second]] == [(1, {"n": 1})]


@pytest.mark.parametrize("fails", [False, True])
def test_savepoint__keeps_or_undoes_what_is_done_within_and_its_events(
    database: Database, fails: bool
) -> None:
    round_id = add_round(database)
    with database.write() as session:
        events.append(session, round_id, EventKind.STARTED, now=NOW)
        with suppress(RuntimeError), events.savepoint(session):
            events.append(session, round_id, EventKind.HELD_UP, now=NOW)
            session.get_one(Round, round_id).reason = "held up"
            if fails:
                raise RuntimeError
        events.append(session, round_id, EventKind.FINISHED, now=NOW)
    with database.read() as session:
        kinds = [event.kind for event in events.since(session, round_id, 0)]
        reason = session.get_one(Round, round_id).reason
    within = [] if fails else [EventKind.HELD_UP]
    assert kinds == [EventKind.STARTED, *within, EventKind.FINISHED]
    assert reason == (None if fails else "held up")


def test_savepoint__within_another_that_is_undone(database: Database) -> None:
    round_id = add_round(database)
    with database.write() as session:
        events.append(session, round_id, EventKind.STARTED, now=NOW)
        with suppress(RuntimeError), events.savepoint(session):
            events.append(session, round_id, EventKind.WAITING, now=NOW)
            with events.savepoint(session):
                events.append(session, round_id, EventKind.BLOCKED, now=NOW)
            raise RuntimeError
        events.append(session, round_id, EventKind.FINISHED, now=NOW)
    with database.read() as session:
        kinds = [event.kind for event in events.since(session, round_id, 0)]
    assert kinds == [EventKind.STARTED, EventKind.FINISHED]


def test_lock__tells_the_time_at_which_it_has_the_lock(database: Database) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time")
    round_id = add_round(database)
    found: list[datetime] = []

    def lock() -> None:
        with database.write() as session:
            found.append(events.lock(session, round_id))

    thread = Thread(target=lock)
    with database.write() as session:
        events.lock(session, round_id)
        start_until_it_waits(thread, session)
        before = clock(session)
    thread.join(10)
    assert found[0] > before


def test_since__tells_a_round_from_submission_to_end(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    round_id = rig.submit(resolve(tmp_path, variants={"l1": {"layer_start": 1}}))
    rig.run_next(result(0.2))
    rig.run_next(result(0.1))

    with database.read() as session:
        found = events.since(session, round_id, 0)
        assert events.since(session, round_id, 3, limit=2) == found[3:5]
    assert [event.kind for event in found] == [
        "submitted",
        "started",
        *("job_started", "job_ended") * 2,
        "decided",
        "finished",
    ]
    baseline = {"task": "s4", "stage": "quick", "config": "baseline", "seed": 0}
    assert found[2].data == baseline | {"attempt": 1}
    assert found[3].data == baseline | {"outcome": "ok", "reason": None}
    assert found[6].data["decision"] == "pruned"


def test_since__a_cancelled_round(database: Database, tmp_path: Path) -> None:
    round_id = Rig(database).submit(resolve(tmp_path))
    with database.write() as session:
        interventions.cancel(session, "r1", by="someone", now=NOW)
    with database.read() as session:
        last = events.since(session, round_id, 0)[-1]
    assert (last.kind, last.data) == ("cancelled", {"by": "someone"})
