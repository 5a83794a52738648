"""A worker on real rounds: what follows from its jobs, and from rounds that cannot be worked out."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from socket import gethostname
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db import events
from db.errors import DatabaseUnreachable
from db.events import EventKind
from db.session import Database
from db.tables import Job, Round, RoundState, Worker
from orchestrator import engine, interventions
from orchestrator.client import DatabaseClient
from orchestrator.engine import Advance
from orchestrator.errors import BrokenRound
from orchestrator.reports import checking, references
from orchestrator.reports.gathering import gather
from orchestrator.rules import Threshold, TopK, known
from orchestrator.verdicts import Verdict
from orchestrator.views import lookup
from orchestrator.views.lookup import Slice
from orchestrator.working import working
from tests.orchestrator.factories import NOW, Rig, resolve, result, round_data
from worker.job import JobResult, Outcome
from worker.limits import Limits


def judge(*_: Any) -> None:
    raise ZeroDivisionError("no rivals")


WRONG = {
    "raises": (judge, "ZeroDivisionError: no rivals"),
    "gives True": (
        lambda *_: True,
        "TypeError: judge gave True, and not a Ruling with a truth value and a text",
    ),
}


def break_(database: Database, rig: Rig, round_id: int, how: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Takes the rule of a round away, or has it raise; gives what is to be said of it."""
    if how in WRONG:
        judges, error = WRONG[how]
        monkeypatch.setattr(TopK, "judge", judges)
        with pytest.raises(BrokenRound):
            rig.run_all({})
        return f"round r1: the prune rule 'top_k' failed on s4, l1 at quick: {error}"
    with database.write() as session:
        row = session.get_one(Round, round_id)
        row.spec = row.spec | {"prune": {"rule": "gone"}}
    return (
        f"round r1 cannot be read here: prune: there is no prune rule 'gone'; known are {', '.join(known())}"
    )


@pytest.mark.parametrize("how", ["is gone", *WRONG])
def test_working__a_broken_round_holds_up_no_other(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())
    rig, display = Rig(database), Mock()
    broken = rig.submit(resolve(tmp_path, prune={"rule": "top_k"}))
    said = break_(database, rig, broken, how, monkeypatch)
    whole = rig.submit(resolve(tmp_path, round="whole", optimizer={"lr": 1e-3}))
    with database.write() as session:
        session.execute(delete(Job).where(Job.round_id == whole))

    with working(database, Mock(), display, None) as service, database.write() as session:
        assert len(session.scalars(select(Job).where(Job.round_id == whole)).all()) == 1
        of_broken = session.scalars(select(Job.id).where(Job.round_id == broken)).all()
        advanced = service.queue.advance(session, of_broken[0], NOW)
        assert (advanced.decisions, str(advanced.broken)) == ((), said)

    told = f"{said}; nothing more of it is decided"
    assert [call.args for call in display.troubled.call_args_list] == [(told,), (told,)]
    with database.read() as session:
        reasons = {line.round: line.reason for line in lookup.rounds(session, Slice()).items}
    # where the rule is gone, its first job has yet to run
    assert reasons == {"r1": f"on {gethostname()}: {said}" if how in WRONG else None, "whole": None}
    client, warned = DatabaseClient(database, Mock(), "me"), Mock()
    assert [one.view.round for one in gather(client, warn=warned)] == ["whole"]
    assert warned.call_count == 1
    with pytest.raises(BrokenRound, match="round r1"):
        gather(client, ["r1"], warned)
    document = references.read("_whole_records.jsonl _r1_records.jsonl _none_records.jsonl", "paper.md")
    known_results = checking.known([document], None, lambda: nullcontext(client))
    assert (known_results.rounds, set(known_results.unreadable)) == ({"whole"}, {"r1"})


def test_retry__of_a_round_that_was_held_up(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is decided once its rule is mended; until then whoever tries is told what is wrong."""
    rig = Rig(database)
    round_id = rig.submit(resolve(tmp_path, prune={"rule": "top_k"}))
    with monkeypatch.context() as patched:
        break_(database, rig, round_id, "raises", patched)
        with pytest.raises(BrokenRound) as broken, database.write() as session:
            engine.advance(session, round_id, now=NOW)
        with database.write() as session:
            engine.hold_up(session, broken.value, now=NOW)
            engine.hold_up(session, broken.value, now=NOW)  # told once
            assert engine.is_held_up(session)
        with pytest.raises(BrokenRound, match="no rivals"), database.write() as session:
            interventions.retry(session, "r1", by="me", now=NOW)
        with database.read() as session:
            assert "no rivals" in (session.get_one(Round, round_id).reason or "")
            told = [one for one in events.since(session, round_id, 0) if one.kind is EventKind.HELD_UP]
            assert len(told) == 1
        with database.write() as session:
            assert interventions.cancel(session, "r1", by="me", now=NOW).changed
            engine.hold_up(session, broken.value, now=NOW)
            assert not engine.is_held_up(session)  # it is over

    with database.write() as session:
        assert interventions.retry(session, "r1", by="me", now=NOW).changed
    with database.read() as session:
        row = session.get_one(Round, round_id)
        assert (row.reason, row.state) == (None, RoundState.FINISHED)
        assert {one.variant for one in row.decisions} >= {"l1", "l2"}


@pytest.mark.parametrize("how", ["the baseline diverges", "every worker dies"])
def test_working__what_nobody_could_measure_is_a_failure(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())
    Rig(database).submit(resolve(tmp_path))
    for _ in range(Limits().max_attempts):
        with working(database, Mock(), Mock(), None) as service:
            service.queue.register("cpu", tmp_path / "cpu.lock")
            claim = service.queue.claim()
            assert claim is not None
            assert not service.queue.has_failed
            if how == "the baseline diverges":
                service.queue.end(claim.lease, JobResult(outcome=Outcome.DIVERGED), [], go_on=True)
                break
    else:
        with working(database, Mock(), Mock(), None) as service:
            service.queue.register("cpu", tmp_path / "cpu.lock")
    assert service.queue.has_failed


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [(Outcome.DIVERGED, Verdict.UNDECIDED), (Outcome.OK, Verdict.PRUNED)],  # of the baseline
)
def test_working__tells_of_what_it_decides_at_its_start(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, verdict: Verdict
) -> None:
    """A job has ended without its round being advanced, as after a rule that failed."""
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())
    rig = Rig(database)
    rig.submit(resolve(tmp_path, variants={"l1": {"layer_start": 1}}))
    if outcome is Outcome.OK:
        rig.run_next(result(0.2))
    rig.run_next(result(0.1) if outcome is Outcome.OK else JobResult(outcome=outcome), advance=False)
    display = Mock()
    with working(database, Mock(), display, None) as service:
        assert service.queue.has_failed is (verdict is Verdict.UNDECIDED)
    told = [one.decision for call in display.decided.call_args_list for one in call.args[0]]
    assert [(one.key.variant, one.verdict) for one in told] == [("l1", verdict)]


def test_tidy__leaves_what_came_after_it_asked(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker of this home has just written the first snapshot of its job."""
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())
    folder = tmp_path / "snapshots"
    folder.mkdir()
    (folder / "old.digest.pt").touch()
    asked = engine.live_trajectories

    def while_it_asks(session: Session, found: set[str]) -> set[str]:
        (folder / "new.digest.pt").touch()
        return asked(session, found)

    monkeypatch.setattr(engine, "live_trajectories", while_it_asks)
    with working(database, Mock(), Mock(), None):
        assert [path.name for path in folder.iterdir()] == ["new.digest.pt"]


def test_working__goes_on_with_what_did_not_follow_in_one_transaction(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round of which all is known is submitted beside an idle worker, and nobody else advances it."""
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())
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
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())
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
            patched.setattr(Threshold, "judge", judge)
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
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())
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
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())
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
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())
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


def test_working__what_followed_before_a_round_broke_is_announced(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule fails on one task; a decision on the other stands, and is told."""
    monkeypatch.setenv("FSQ_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", Mock())
    judge_well = Threshold.judge

    def judge(rule: Threshold, trials: Any, rivals: Any) -> Any:
        return judge_well(rule, trials, rivals) if trials[0].delta < 0.5 else 1 / 0

    monkeypatch.setattr(Threshold, "judge", judge)
    data = round_data()
    task = data["tasks"]["s4"]
    tasks = {"a": task, "b": task | {"blanks": 5}}
    asked = {"tasks": tasks, "variants": {"l1": {"layer_start": 1}}, "stages": data["stages"][:1]}
    Rig(database).submit(resolve(tmp_path, parallel=True, **asked))
    display = Mock()
    with working(database, Mock(), display, None) as service:
        service.queue.register("cpu", tmp_path / "cpu.lock")
        for accuracy in (0.2, 0.2, 0.9, 0.1):
            claim = service.queue.claim()
            assert claim is not None
            service.queue.end(claim.lease, result(accuracy), [], go_on=False)
    told = [one.decision for call in display.decided.call_args_list for one in call.args[0]]
    assert [(one.key.task, one.verdict) for one in told] == [("b", Verdict.PRUNED)]
    assert all("ZeroDivisionError" in call.args[0] for call in display.troubled.call_args_list)
    with database.read() as session:
        row = session.scalars(select(Round)).one()
        assert [one.task for one in row.decisions] == ["b"]
        assert "ZeroDivisionError" in (row.reason or "")
