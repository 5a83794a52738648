"""A worker on real rounds: what follows from its jobs, and from rounds that cannot be worked out."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from pathlib import Path
from socket import gethostname
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from db import events
from db.events import EventKind
from db.session import Database
from db.tables import Job, Round, RoundState
from orchestrator import engine, interventions
from orchestrator.client import DatabaseClient
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
