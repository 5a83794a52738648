"""Rounds that come after others: the pure rule, and the engine on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db.session import Database
from db.tables import Round, RoundState
from orchestrator import engine
from orchestrator.chains import ENDED, Parent, start
from orchestrator.errors import BadRound, NotFound
from tests.orchestrator.factories import NOW, Rig, resolve, result
from worker.job import JobResult, Outcome

WAITING, ACTIVE, BLOCKED = RoundState.WAITING, RoundState.ACTIVE, RoundState.BLOCKED


@pytest.mark.parametrize("when", ["finished", "promoted", "any"])
@pytest.mark.parametrize("state", sorted(set(RoundState) - ENDED))
def test_start__waits_for_the_end(state: RoundState, when: Any) -> None:
    assert start(Parent("p", state, 1, True), when).state is WAITING


@pytest.mark.parametrize(
    ("state", "promoted", "measured", "when", "expected", "reason"),
    [
        ("finished", 0, True, "finished", ACTIVE, None),
        ("finished", 0, False, "finished", BLOCKED, "round p failed: no arm of it could be measured"),
        ("finished", 0, False, "any", ACTIVE, None),
        ("finished", 2, True, "promoted", ACTIVE, None),
        ("finished", 0, True, "promoted", BLOCKED, "round p promoted nothing"),
        ("cancelled", 2, True, "finished", BLOCKED, "round p was cancelled"),
        ("cancelled", 0, True, "any", ACTIVE, None),
        ("blocked", 0, False, "promoted", BLOCKED, "round p is blocked"),
        ("blocked", 0, False, "any", ACTIVE, None),
    ],
)
def test_start__after_an_end(
    state: str, promoted: int, measured: bool, when: Any, expected: RoundState, reason: str | None
) -> None:
    begun = start(Parent("p", RoundState(state), promoted, measured), when)

    assert (begun.state, begun.reason) == (expected, reason)


def states(database: Database) -> dict[str, tuple[RoundState, str | None, int]]:
    """State, reason and number of jobs of every round."""
    with database.read() as session:
        rows = session.scalars(select(Round))
        return {row.name: (row.state, row.reason, len(row.jobs)) for row in rows}


def chain(rig: Rig, folder: Path, **parents: Any) -> None:
    """Submits r1, then each round after the one and on the condition given."""
    rig.submit(resolve(folder))
    for seed, (name, (parent, when)) in enumerate(parents.items(), start=1):
        rig.submit(resolve(folder, round=name, seeds=[seed], after={"round": parent, "when": when}))


def test_submit__waits_without_jobs_and_starts_when_the_parent_ends(
    database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"))
    assert states(database)["r2"] == (WAITING, "waits for round r1", 0)

    order = rig.run_all({})

    assert states(database)["r1"][0] == states(database)["r2"][0] == RoundState.FINISHED
    assert [key.seed for key in order] == sorted(key.seed for key in order)  # r1 whole, then r2


def test_submit__again_while_it_waits_changes_nothing(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"))
    with database.write() as session:
        resolved = resolve(tmp_path, round="r2", seeds=[1], after={"round": "r1", "when": "finished"})
        assert engine.submit(session, resolved, "", now=NOW).is_new is False


def test_submit__after_a_round_that_has_finished(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({})

    rig.submit(resolve(tmp_path, round="r2", seeds=[1], after={"round": "r1"}))
    rig.submit(resolve(tmp_path, round="r3", seeds=[2], after={"round": "r1", "when": "promoted"}))

    assert states(database)["r2"] == (ACTIVE, None, 1)
    assert states(database)["r3"] == (BLOCKED, "round r1 promoted nothing", 0)


def test_submit__unknown_parent(database: Database, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no round named 'r0'"):
        Rig(database).submit(resolve(tmp_path, after={"round": "r0"}))
    assert states(database) == {}


def test_read__itself_as_parent(tmp_path: Path) -> None:
    with pytest.raises(BadRound, match="the round 'r1' cannot come after itself"):
        resolve(tmp_path, after={"round": "r1"})


def test_cancel__blocks_what_builds_on_it(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"), r3=("r2", "finished"), r4=("r2", "any"), r5=("r1", "any"))

    with database.write() as session:
        assert engine.cancel(session, "r1", now=NOW)

    found = states(database)
    assert found["r2"] == (BLOCKED, "round r1 was cancelled", 0)
    assert found["r3"] == (BLOCKED, "round r2 is blocked", 0)
    assert found["r4"] == found["r5"] == (ACTIVE, None, 1)


def test_cancel__of_a_waiting_round(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"))
    with database.write() as session:
        assert engine.cancel(session, "r2", now=NOW)
        assert not engine.cancel(session, "r2", now=NOW)
    rig.run_all({})

    assert states(database)["r2"] == (RoundState.CANCELLED, None, 0)


def test_advance__parent_that_fails_blocks(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"))

    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too large"))  # the baseline: its task is blocked

    assert states(database)["r1"][0] is RoundState.FINISHED
    assert states(database)["r2"] == (BLOCKED, "round r1 failed: no arm of it could be measured", 0)


def test_advance__promotion_is_what_the_child_asked_for(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "promoted"))
    for accuracy in (0.2, 0.3, 0.2, 0.3):  # baseline and l1, at quick and at med
        rig.run_next(result(accuracy))
    rig.run_next(result(0.2))  # l2 at quick

    assert states(database)["r1"][0] is RoundState.FINISHED
    assert states(database)["r2"] == (ACTIVE, None, 1)
