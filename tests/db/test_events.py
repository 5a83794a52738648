"""The events of a round: gapless, in order, by whichever process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from db import events
from db.events import EventKind
from db.session import Database
from orchestrator import interventions
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
