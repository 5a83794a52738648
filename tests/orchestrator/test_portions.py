"""What follows at once is stored in portions, and workers catch up with rounds that are behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from db.errors import DatabaseUnreachable
from db.session import Database
from db.tables import Round, RoundState, Worker
from orchestrator import engine
from orchestrator.engine import Advance
from orchestrator.planner import plan
from orchestrator.rules import Threshold
from orchestrator.working import working
from tests.orchestrator.factories import NOW, Rig, resolve, result


@pytest.fixture(autouse=True)
def as_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())


def in_portions(database: Database, round_id: int) -> tuple[int, list[str]]:
    """Advances a round until all has followed: how many transactions that took, and who was decided in them."""
    advances: list[Advance] = []
    while not (advances and advances[-1].is_whole):
        with database.write() as session:
            advances.append(engine.advance(session, round_id, now=NOW))
    assert all(one != engine.NOTHING for one in advances[:-1])  # or it might go on for ever
    return len(advances), [taken.decision.key.variant for one in advances for taken in one.decisions]


def test_advance__in_portions_comes_to_the_same(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little a transaction may do: what is known already, and decisions that all come at once."""
    rig = Rig(database, by_example=True)
    rule = {"rule": "top_k", "keep": 1}
    first = rig.submit(resolve(tmp_path, prune=rule))
    rig.run_all({("quick", "l1"): 0.3, ("med", "l1"): 0.4, ("quick", "l2"): 0.35})
    with database.read() as session:
        expected = dict(records_of(session, first))
    monkeypatch.setattr(engine, "LONGEST_PORTION", -1.0)

    again = rig.submit(resolve(tmp_path, round="r2", prune=rule))
    transactions, decided = in_portions(database, again)
    assert transactions > len(decided) == 4
    with database.read() as session:
        assert session.get_one(Round, again).state is RoundState.FINISHED
        assert dict(records_of(session, again)) == expected


def test_advance_job__of_a_round_that_is_behind_looks_at_all_of_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[1]))
    rig.run_all({})
    with monkeypatch.context() as patched:
        patched.setattr(engine, "LONGEST_PORTION", -1.0)
        again = rig.submit(resolve(tmp_path, round="r2", seeds=[0, 1], parallel=True))
    rig.run_next(result(0.2))  # the baseline of seed 0
    with database.read() as session:
        row = session.get_one(Round, again)
        decided = [one.variant for one in row.decisions if one.seed == 1]
        assert (decided, row.is_behind) == (["l1", "l2", "noop"], False)


def test_submit__what_is_known_is_planned_in_one_go(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many jobs there are: planning anew after each takes a time that grows with their square."""
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[0, 1, 2]))
    rig.run_all({("quick", "l1"): 0.3})
    planned = Mock(wraps=plan)
    monkeypatch.setattr("orchestrator.stored_plan.plan", planned)
    again = rig.submit(resolve(tmp_path, round="r2", seeds=[0, 1, 2]))
    assert planned.call_count == 1
    with database.read() as session:
        assert len(session.get_one(Round, again).jobs) == 15
        assert session.get_one(Round, again).state is RoundState.FINISHED


def records_of(session: Session, round_id: int) -> Iterator[tuple[str, Any]]:
    """What was decided, and what that rests on."""
    for one in session.get_one(Round, round_id).decisions:
        yield f"{one.stage} {one.variant}", (one.decision, one.reason, one.d_acc, one.evidence)


def test_working__catches_up_with_what_did_not_follow_in_one_transaction(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round of which all is known is submitted beside an idle worker, and nobody else advances it."""
    rig, display = Rig(database), Mock()
    rig.submit(resolve(tmp_path))
    rig.run_all({("quick", "l1"): 0.3, ("med", "l1"): 0.4})
    monkeypatch.setattr(engine, "LONGEST_PORTION", -1.0)
    with working(database, Mock(), display, None) as service:
        service.queue.register("cpu", tmp_path / "cpu.lock")
        again = rig.submit(resolve(tmp_path, round="r2"))
        with database.write() as session:
            assert session.get_one(Round, again).state is RoundState.ACTIVE
            session.execute(update(Worker).values(seen_at=NOW))
        assert service.queue.claim() is None
        with database.read() as session:
            assert session.get_one(Worker, service.queue.worker_id).seen_at > NOW  # that may take minutes
    with database.read() as session:
        assert session.get_one(Round, again).state is RoundState.FINISHED
    told = [one.decision.key for call in display.decided.call_args_list for one in call.args[0]]
    assert [(key.stage, key.variant) for key in told] == [
        ("quick", "l1"),
        ("med", "l1"),
        ("quick", "l2"),
        ("quick", "noop"),
    ]


def test_working__a_broken_round_that_is_behind_is_tried_once_by_each_worker(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot work it out holds it up for none that can; without one, nobody tries for ever."""
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({("quick", "l1"): 0.3})
    monkeypatch.setattr(engine, "LONGEST_PORTION", -1.0)
    with (
        working(database, Mock(), Mock(), None) as without_rule,
        working(database, Mock(), Mock(), None) as without_rule_too,
        working(database, Mock(), Mock(), None) as with_rule,
    ):
        for name, service in (("a", without_rule), ("b", without_rule_too), ("c", with_rule)):
            service.queue.register(name, tmp_path / f"{name}.lock")
        again = rig.submit(resolve(tmp_path, round="r2"))
        assert not without_rule.queue.is_idle()
        with monkeypatch.context() as patched:
            patched.setattr(Threshold, "judge", Mock(side_effect=ZeroDivisionError("no rivals")))
            assert without_rule.queue.claim() is None
            told = reason_of(database, again)
            assert without_rule.queue.claim() is None
            assert reason_of(database, again) == told
            assert "no rivals" in (told or "")
            assert without_rule.queue.is_idle()
            monkeypatch.setattr(engine, "gethostname", lambda: "elsewhere")
            assert without_rule_too.queue.claim() is None
            assert reason_of(database, again) == told  # or they would take turns for ever
        assert with_rule.queue.claim() is None
    assert reason_of(database, again) is None
    with database.read() as session:
        assert session.get_one(Round, again).state is RoundState.FINISHED


def reason_of(database: Database, round_id: int) -> str | None:
    with database.read() as session:
        return session.get_one(Round, round_id).reason


def test_working__catches_up_although_the_database_was_away_for_a_moment(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({})
    monkeypatch.setattr(engine, "LONGEST_PORTION", -1.0)
    at_once, tries = engine.advance, iter([True])

    def losing_the_first(session: Session, id_: int, *, now: datetime) -> Advance:
        advanced = at_once(session, id_, now=now)
        if next(tries, False):
            raise DatabaseUnreachable("gone")
        return advanced

    with working(database, Mock(), Mock(), None) as service:
        service.queue.register("cpu", tmp_path / "cpu.lock")
        again = rig.submit(resolve(tmp_path, round="r2"))
        monkeypatch.setattr(engine, "advance", losing_the_first)
        assert service.queue.claim() is None
    with database.read() as session:
        assert session.get_one(Round, again).state is RoundState.FINISHED


def test_working__catches_up_before_it_takes_jobs_of_other_rounds(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({})
    monkeypatch.setattr(engine, "LONGEST_PORTION", -1.0)
    with working(database, Mock(), Mock(), None) as service:
        service.queue.register("cpu", tmp_path / "cpu.lock")
        rig.submit(resolve(tmp_path, round="night", seeds=[7]))
        first = service.queue.claim()
        assert first is not None
        again = rig.submit(resolve(tmp_path, round="r2"))
        monkeypatch.setattr(service.queue, "_look_at", 0.0)  # it looks now and then
        assert service.queue.end(first.lease, result(0.2), [], go_on=True).next is None
        second = service.queue.claim()
        assert second is not None
        assert second.job.round == "night"
        with database.read() as session:
            assert session.get_one(Round, again).state is RoundState.FINISHED


def test_working__a_lane_that_is_behind_does_not_wait_for_the_others(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a round with one seed more, whose jobs are queued, all that is known of the other follows first."""
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[1]))
    rig.run_all({})
    monkeypatch.setattr(engine, "LONGEST_PORTION", -1.0)
    with working(database, Mock(), Mock(), None) as service:
        service.queue.register("cpu", tmp_path / "cpu.lock")
        more = rig.submit(resolve(tmp_path, round="r2", seeds=[0, 1], parallel=True))
        claim = service.queue.claim()
        assert claim is not None
        with database.read() as session:
            assert {one.variant for one in session.get_one(Round, more).decisions if one.seed == 1} == {
                "l1",
                "l2",
                "noop",
            }
