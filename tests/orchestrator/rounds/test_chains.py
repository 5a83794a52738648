"""Rounds that come after others: the pure rule, and the engine on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from db.session import Database
from db.tables import Round, RoundState
from orchestrator import engine, interventions
from orchestrator.errors import BadRound, NotFound
from orchestrator.rounds import stored_round
from orchestrator.rounds.chains import Parent, can_retry, start
from orchestrator.rounds.reading import parse_round
from orchestrator.rounds.spec import RoundSpec
from orchestrator.rules import RuleFailed
from tests.orchestrator.factories import NOW, Rig, resolve, result, round_data
from worker.job import JobResult, Outcome

WAITING, ACTIVE, BLOCKED = RoundState.WAITING, RoundState.ACTIVE, RoundState.BLOCKED
WINNERS = {"from": "r1", "where": "promoted", "top": 1, "by": "med"}


@pytest.mark.parametrize("when", ["finished", "promoted", "any"])
@pytest.mark.parametrize("state", [state for state in RoundState if not state.has_ended])
def test_start__waits_for_the_end(state: RoundState, when: Any) -> None:
    assert start(Parent("p", state, 1, True), when).state is WAITING


@pytest.mark.parametrize(
    ("state", "promoted", "measured", "when", "expected", "reason"),
    [
        ("finished", 0, True, "finished", ACTIVE, None),
        ("finished", 0, False, "finished", BLOCKED, "round p failed: no arm of it could be measured"),
        ("finished", 0, False, "any", ACTIVE, None),
        ("finished", 2, True, "promoted", ACTIVE, None),
        ("finished", 0, True, "promoted", BLOCKED, "round p promoted nothing at its last stage"),
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


@pytest.mark.parametrize(
    ("state", "reason", "unmeasured", "can"),
    [
        ("active", None, 0, False),
        ("active", "on h: the rule failed", 0, True),
        ("active", None, 1, True),
        ("finished", None, 0, False),
        ("finished", None, 1, True),
        ("waiting", "waits for round p", 0, False),
        ("cancelled", None, 0, True),
        ("blocked", "round p was cancelled", 0, True),
    ],
)
def test_can_retry__where_something_can_go_on(
    state: str, reason: str | None, unmeasured: int, can: bool
) -> None:
    assert can_retry(RoundState(state), reason, unmeasured) is can


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
        assert engine.submit(session, resolved, "", by="me", now=NOW).is_new is False


def test_submit__after_a_round_that_has_finished(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({})

    rig.submit(resolve(tmp_path, round="r2", seeds=[1], after={"round": "r1"}))
    rig.submit(resolve(tmp_path, round="r3", seeds=[2], after={"round": "r1", "when": "promoted"}))

    assert states(database)["r2"] == (ACTIVE, None, 1)
    assert states(database)["r3"] == (BLOCKED, "round r1 promoted nothing at its last stage", 0)


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
        assert interventions.cancel(session, "r1", by="me", now=NOW).changed

    found = states(database)
    assert found["r2"] == (BLOCKED, "round r1 was cancelled", 0)
    assert found["r3"] == (BLOCKED, "round r2 is blocked", 0)
    assert found["r4"] == found["r5"] == (ACTIVE, None, 1)


def test_cancel__of_a_waiting_round(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"))
    with database.write() as session:
        assert interventions.cancel(session, "r2", by="me", now=NOW).changed
        assert not interventions.cancel(session, "r2", by="me", now=NOW).changed
    rig.run_all({})

    assert states(database)["r2"] == (RoundState.CANCELLED, None, 0)


def test_cancel__of_a_blocked_round(database: Database, tmp_path: Path) -> None:
    """It no longer waits for the round that blocks it to be tried again."""
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"))
    for name in ("r1", "r2"):
        with database.write() as session:
            assert interventions.cancel(session, name, by="me", now=NOW).changed
    assert states(database)["r2"] == (RoundState.CANCELLED, None, 0)
    with database.write() as session:
        interventions.retry(session, "r1", by="me", now=NOW)
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


@pytest.mark.parametrize(
    ("at_med", "expected"),
    [(0.3, (ACTIVE, None, 1)), (0.2, (BLOCKED, "round r1 promoted nothing at its last stage", 0))],
)
def test_advance__what_only_an_earlier_stage_promoted_starts_no_child(
    at_med: float, expected: tuple[RoundState, str | None, int], database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "promoted"))
    for accuracy in (0.2, 0.3, 0.2, at_med, 0.2):  # baseline and l1 at quick, then at med, l2 at quick
        rig.run_next(result(accuracy))
    assert states(database)["r2"] == expected


@pytest.mark.parametrize(("of_l1", "expected"), [(Outcome.DIVERGED, ACTIVE), (Outcome.OOM, BLOCKED)])
def test_advance__no_ops_do_not_count_as_measured(
    of_l1: Outcome, expected: RoundState, database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, variants={"l1": {"layer_start": 1}, "noop": {"layer_start": 9}}))
    rig.submit(resolve(tmp_path, round="r2", seeds=[1], after={"round": "r1"}))
    rig.run_next(result(0.2))
    rig.run_next(JobResult(outcome=of_l1, reason="why"))
    assert states(database)["r1"][0] is RoundState.FINISHED
    assert states(database)["r2"][0] is expected


def test_submit__a_round_that_is_blocked_has_ended_until_it_waits_again(
    database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"))

    def ended_at() -> list[bool]:
        with database.read() as session:
            found = [stored_round.find(session, name).finished_at for name in ("r1", "r2")]
        return [at is not None for at in found]

    assert ended_at() == [False, False]
    for intervene, has_ended in ((interventions.cancel, True), (interventions.retry, False)):
        with database.write() as session:
            intervene(session, "r1", by="me", now=NOW)
        assert ended_at() == [has_ended, has_ended]


def test_advance__a_promoted_control_starts_no_child(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, control="aa"))
    rig.submit(resolve(tmp_path, round="r2", after={"round": "r1", "when": "promoted"}))

    rig.run_all({("quick", "aa"): 0.3, ("med", "aa"): 0.3})

    assert states(database)["r2"] == (BLOCKED, "round r1 promoted nothing at its last stage", 0)


def test_read__like_another_round(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))

    def known(name: str) -> Any:
        with database.read() as session:
            return stored_round.find(session, name).spec

    text = b"round: again_{date}\nlike: r1\nseeds: [7]\nvariants: {from: r1, top: 2}\n"
    spec, _ = parse_round(text, "again.yaml", today=NOW.date(), known=known)

    expected = round_data(round="again_2026-01-01", seeds=[7], variants={"from": "r1", "top": 2})
    assert spec == parse_round(yaml.safe_dump(expected).encode(), "")[0]
    with pytest.raises(NotFound, match="no round named 'r9'"):
        parse_round(b"round: x\nlike: r9\n", "x.yaml", known=known)
    with pytest.raises(BadRound, match="line 2, like: expected the name of a round"):
        parse_round(b"round: x\nlike: [r1]\n", "x.yaml", known=known)


def test_retry__of_a_parent_lets_blocked_rounds_wait_again(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"), r3=("r2", "finished"))
    with database.write() as session:
        interventions.cancel(session, "r1", by="me", now=NOW)
        before = stored_round.find(session, "r2").n_events

    with database.write() as session:
        assert interventions.retry(session, "r1", by="me", now=NOW).changed
    found = states(database)
    assert found["r2"] == (WAITING, "waits for round r1", 0)
    assert found["r3"] == (WAITING, "waits for round r2", 0)
    with database.read() as session:
        assert (
            stored_round.find(session, "r2").n_events > before
        )  # whatever can be seen changes with an event

    rig.run_all({})
    assert {state for state, *_ in states(database).values()} == {RoundState.FINISHED}


def test_retry__of_a_parent_that_ends_at_once(database: Database, tmp_path: Path) -> None:
    """Its failed job is known by now: it finishes in the very transaction, and its child starts."""
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"))
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too large"))
    rig.submit(resolve(tmp_path, round="same"))
    assert states(database)["r2"][0] is BLOCKED

    with database.write() as session:
        interventions.retry(session, "r1", by="me", now=NOW)
    rig.run_all({})
    assert states(database)["r1"][0] is states(database)["r2"][0] is RoundState.FINISHED


def test_retry__of_a_blocked_round_looks_again(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.submit(resolve(tmp_path, round="check", variants=WINNERS))
    rig.run_all({})
    assert states(database)["check"][0] is BLOCKED

    with database.write() as session:
        assert not interventions.retry(session, "check", by="me", now=NOW).changed  # there is still nothing
    assert states(database)["check"][0] is BLOCKED


def test_retry__of_a_round_that_was_cancelled_while_it_waited(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"))
    with database.write() as session:
        interventions.cancel(session, "r2", by="me", now=NOW)
        view = interventions.retry(session, "r2", by="me", now=NOW)
    assert (view.state, view.changed) == (WAITING, True)


@pytest.fixture
def postgres(database: Database) -> Database:
    if database.engine.dialect.name != "postgresql":
        pytest.skip("writers wait for each other on SQLite")
    return database


def test_advance__sees_what_was_cancelled_meanwhile(postgres: Database, tmp_path: Path) -> None:
    rig = Rig(postgres)
    round_id = rig.submit(resolve(tmp_path, variants={"noop": {"layer_start": 9}}))
    with postgres.write() as session:
        session.get_one(Round, round_id)  # as it was
        with postgres.write() as other:
            interventions.cancel(other, "r1", by="me", now=NOW)
        assert engine.advance(session, round_id, now=NOW).decisions == ()
    assert states(postgres)["r1"][0] is RoundState.CANCELLED


def test_cancel_and_retry__down_and_up_a_chain_at_once(postgres: Database, tmp_path: Path) -> None:
    """Parents and children are changed from many threads: nobody is the victim of a deadlock."""
    rig = Rig(postgres)
    chain(rig, tmp_path, r2=("r1", "finished"), r3=("r2", "any"))

    def change(number: int) -> None:
        act = (interventions.cancel, interventions.retry)[number % 2]
        with postgres.write() as session:
            act(session, f"r{1 + number % 3}", by="me", now=NOW)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(change, range(120)))

    for name in ("r1", "r2", "r3"):
        with postgres.write() as session:
            interventions.retry(session, name, by="me", now=NOW)
    rig.run_all({})
    assert {state for state, *_ in states(postgres).values()} == {RoundState.FINISHED}


def test_submit__the_same_round_from_many_at_once(postgres: Database, tmp_path: Path) -> None:
    resolved = resolve(tmp_path)

    def submit(_: int) -> bool:
        with postgres.write() as session:
            return engine.submit(session, resolved, "", by="me", now=NOW).is_new

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(submit, range(6))) == [False] * 5 + [True]


def test_advance__a_child_that_cannot_be_read_is_blocked(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a rule's code is gone; its parent ends nevertheless."""
    rig = Rig(database)
    chain(rig, tmp_path, r2=("r1", "finished"), r3=("r2", "any"))
    read = RoundSpec.from_json

    def broken(data: Any) -> RoundSpec:
        if data["round"] == "r2":
            raise RuleFailed("its rule is gone")
        return read(data)

    monkeypatch.setattr(RoundSpec, "from_json", broken)
    rig.run_all({})
    found = states(database)
    assert found["r1"][0] is RoundState.FINISHED
    assert found["r2"] == (BLOCKED, "round r2: its rule is gone", 0)
    assert found["r3"][0] is RoundState.FINISHED
    monkeypatch.undo()
    with database.write() as session:
        interventions.retry(session, "r2", by="me", now=NOW)
    assert states(database)["r2"][0] is ACTIVE
