"""A worker's dealings with a real queue: the next job comes with the end of the last."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import queue as db_queue
from db.errors import DatabaseUnreachable
from db.events import lock
from db.queue import Answers, Equals
from db.session import Database
from db.tables import Event, Job, JobState, Round
from orchestrator import engine
from tests.claims import start_until_it_waits
from tests.db.test_queue import EVALUATION
from tests.orchestrator.factories import resolve, result, round_data
from worker.job import JobResult, JobSpec, Outcome
from worker.limits import Limits
from worker.queue_client import LONGEST_BEFORE_A_CLAIM, Claim, QueueClient


def submit(database: Database, tmp_path: Path, **changes: Any) -> None:
    with database.write() as session:
        engine.submit(session, resolve(tmp_path, **changes), "", by="me", now=datetime.now(UTC))


@pytest.fixture
def queue(database: Database, tmp_path: Path) -> QueueClient:
    """A registered worker's queue."""

    def advance(session: Session, job_id: int, now: datetime) -> object:
        return engine.advance_job(session, job_id, now=now)

    client = QueueClient(database, tmp_path, Limits(), advance, lambda _: True, lambda _: None)
    client.register("cpu", tmp_path / "lock")
    return client


@pytest.fixture
def other(queue: QueueClient, tmp_path: Path) -> QueueClient:
    """A second worker's."""
    client = replace(queue)
    client.register("cpu:1", tmp_path / "other")
    return client


def must_claim(queue: QueueClient) -> Claim:
    claim = queue.claim()
    assert claim is not None
    return claim


def states(database: Database) -> dict[str, tuple[JobState, str | None, int]]:
    """By round and variant: state, outcome and attempts of each job."""
    with database.read() as session:
        return {
            f"{job.round.name} {job.variant}": (job.state, job.outcome, job.attempts)
            for job in session.scalars(select(Job).order_by(Job.id))
        }


def events(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Event.kind).order_by(Event.round_id, Event.number)))


def test_end__claims_the_next_job_with_it(queue: QueueClient, database: Database, tmp_path: Path) -> None:
    submit(database, tmp_path)
    first = must_claim(queue)
    ended = queue.end(first.lease, result(0.2), [], go_on=True)
    assert not ended.will_retry
    assert ended.next is not None
    assert (ended.next.job.round, ended.next.job.variant, ended.next.job.attempt) == ("r1", "l1", 1)
    assert states(database) == {
        "r1 baseline": (JobState.DONE, "ok", 1),
        "r1 l1": (JobState.RUNNING, None, 1),
    }
    assert events(database) == ["submitted", "started", "job_started", "job_ended", "job_started"]


def test_end__claims_nothing_unless_it_may_go_on(
    queue: QueueClient, database: Database, tmp_path: Path
) -> None:
    submit(database, tmp_path)
    assert queue.end(must_claim(queue).lease, result(0.2), [], go_on=False).next is None
    assert states(database)["r1 l1"] == (JobState.QUEUED, None, 0)


def test_end__claims_nothing_where_what_followed_took_long(
    queue: QueueClient, database: Database, tmp_path: Path
) -> None:
    """The lease would have begun before that."""
    submit(database, tmp_path)
    at_once = queue.advance

    def slowly(session: Session, job_id: int, now: datetime) -> object:
        time.sleep(LONGEST_BEFORE_A_CLAIM + 0.1)
        return at_once(session, job_id, now)

    queue.advance = slowly
    assert queue.end(must_claim(queue).lease, result(0.2), [], go_on=True).next is None
    assert must_claim(queue).job.variant == "l1"


def test_end__does_not_put_off_the_look_for_expired_leases(
    queue: QueueClient, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is never idle takes back what others left, too."""
    submit(database, tmp_path)
    submit(database, tmp_path, round="r2", seeds=[7])
    lease = must_claim(queue).lease
    monkeypatch.setattr(queue, "_look_at", math.inf)
    left = {"state": JobState.RUNNING, "lease_expires_at": datetime(2020, 1, 1, tzinfo=UTC)}
    with database.write() as session:
        session.execute(update(Job).where(Job.seed == 7).values(**left))
    ended = queue.end(lease, result(0.2), [], go_on=True)
    assert ended.next is not None
    monkeypatch.setattr(queue, "_look_at", 0.0)
    assert queue.end(ended.next.lease, result(0.2), [], go_on=True).next is None
    assert must_claim(queue).job.seed == 7


def test_end__goes_on_when_a_look_finds_no_expired_lease(
    queue: QueueClient, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(database, tmp_path)
    lease = must_claim(queue).lease
    monkeypatch.setattr(queue, "_look_at", 0.0)
    assert queue.end(lease, result(0.2), [], go_on=True).next is not None
    assert queue._look_at > time.monotonic()


def test_end__leaves_a_known_result_to_the_next_claim(
    queue: QueueClient, database: Database, tmp_path: Path
) -> None:
    submit(database, tmp_path)
    submit(database, tmp_path, round="r2")
    assert queue.end(must_claim(queue).lease, result(0.2), [], go_on=True).next is None
    assert states(database) == {
        "r1 baseline": (JobState.DONE, "ok", 1),
        "r2 baseline": (JobState.QUEUED, None, 0),
        "r1 l1": (JobState.QUEUED, None, 0),
    }
    assert must_claim(queue).job.round == "r1"
    assert states(database)["r2 baseline"] == (JobState.DONE, "cached", 1)


def test_claim__equal_jobs_wait_for_the_one_that_runs(
    queue: QueueClient, other: QueueClient, database: Database, tmp_path: Path
) -> None:
    submit(database, tmp_path)
    submit(database, tmp_path, round="r2", variants={"l2": {"layer_start": 2}})
    running = must_claim(queue)
    assert other.claim() is None
    assert states(database) == {
        "r1 baseline": (JobState.RUNNING, None, 1),
        "r2 baseline": (JobState.QUEUED, None, 0),
    }
    queue.end(running.lease, result(0.2), [], go_on=False)
    with database.write() as session:
        session.execute(update(Job).values(not_before=datetime.now(UTC)))
    taken = must_claim(other)
    assert states(database)["r2 baseline"] == (JobState.DONE, "cached", 1)
    assert (taken.job.round, taken.job.variant) == ("r1", "l1")


def test_claim__an_equal_job_runs_where_the_other_came_to_nothing(
    queue: QueueClient, database: Database, tmp_path: Path
) -> None:
    submit(database, tmp_path)
    submit(database, tmp_path, round="r2")
    running = must_claim(queue)
    queue.end(running.lease, JobResult(outcome=Outcome.OOM, reason="too large"), [], go_on=False)
    assert must_claim(queue).job.round == "r2"


def test_claim__an_equal_job_that_was_stopped_early_answers_in_its_own_round_alone(
    queue: QueueClient, database: Database, tmp_path: Path
) -> None:
    task, variants = round_data()["tasks"]["s4"], {"l1": {"layer_start": 1}}
    asked = {"tasks": {"a": task, "b": dict(task)}, "variants": variants, "parallel": True}
    submit(database, tmp_path, **asked)
    queue.end(must_claim(queue).lease, result(0.2), [], go_on=False)
    stopped = JobResult(outcome=Outcome.STOPPED, reason="at step 2", partial=result(0.1).metrics)
    queue.end(must_claim(queue).lease, stopped, [], go_on=False)
    assert queue.claim() is None
    with database.read() as session:
        ended = session.execute(select(Job.task, Job.outcome).where(Job.variant == "l1").order_by(Job.id))
        assert [tuple(one) for one in ended] == [("a", "stopped"), ("b", "cached")]
    submit(database, tmp_path, round="r2", tasks={"a": task}, variants=variants)
    assert must_claim(queue).job.variant == "l1"


def test_claim__an_equal_job_that_ends_while_another_looks(
    queue: QueueClient,
    other: QueueClient,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time")
    submit(database, tmp_path)
    submit(database, tmp_path, round="r2")
    running = must_claim(queue)
    look = db_queue.equals

    def ends_first(session: Session, fingerprint: str, answers: Answers, *, is_alone: bool | None) -> Equals:
        monkeypatch.setattr(db_queue, "equals", look)
        queue.end(running.lease, result(0.2), [], go_on=False)
        return look(session, fingerprint, answers, is_alone=is_alone)

    monkeypatch.setattr(db_queue, "equals", ends_first)
    must_claim(other)
    assert states(database)["r2 baseline"] == (JobState.DONE, "cached", 1)


@pytest.mark.parametrize("queued_by", ["this version", "another"])
def test_claim__two_that_look_at_equal_jobs_at_once(
    queued_by: str, queue: QueueClient, other: QueueClient, database: Database, tmp_path: Path
) -> None:
    """Neither sees what the other has not committed."""
    if database.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time")
    submit(database, tmp_path)
    submit(database, tmp_path, round="r2")
    if queued_by == "another":
        with database.write() as session:
            session.execute(update(Job).where(Job.id == 2).values(fingerprint="as it has it"))
    with database.write() as session:
        first = queue._claim(session, datetime.now(UTC))
        with database.write() as second:
            assert other._claim(second, datetime.now(UTC)) is False
    assert isinstance(first, Claim)
    assert sum(state is JobState.RUNNING for state, *_ in states(database).values()) == 1


@pytest.mark.parametrize("failure", [None, KeyError("of a task kind's own code")])
def test_end__is_stored_although_the_next_job_cannot_be_read(
    failure: Exception | None,
    queue: QueueClient,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit(database, tmp_path)
    submit(database, tmp_path, round="r2", seeds=[7])
    with database.write() as session:
        broken = session.scalars(select(Job).where(Job.seed == 7)).one()
        broken.payload = {"of": "another version"}
    claim = must_claim(queue)
    if failure is not None:
        monkeypatch.setattr(JobSpec, "from_json", Mock(side_effect=failure))
    assert queue.end(claim.lease, result(0.2), [], go_on=True).next is None
    assert states(database)["r1 baseline"] == (JobState.DONE, "ok", 1)
    monkeypatch.undo()
    assert must_claim(queue).job.round == "r1"  # what cannot be read holds up no other
    assert states(database)["r2 baseline"] == (JobState.QUEUED, None, 2)  # twice at once, then later


def test_claim__gives_up_what_cannot_be_read_as_if_a_file_of_it_were_missing(
    queue: QueueClient, database: Database, tmp_path: Path
) -> None:
    submit(database, tmp_path)
    with database.write() as session:
        session.scalars(select(Job)).one().payload = {"of": "another\nversion"}
    queue.limits = replace(queue.limits, back_off=timedelta(0))
    assert queue.claim() is None
    assert states(database) == {
        "r1 baseline": (JobState.DONE, "infra_failed", queue.limits.max_infra_attempts)
    }
    with database.read() as session:
        reason = session.scalars(select(Job)).one().reason
    assert reason is not None
    assert queue.has_failed
    assert reason.startswith("cannot be read here: ValidationError: ")
    assert "\n" not in reason


@pytest.mark.parametrize("ends", [False, True])
def test_report_and_end__touch_no_job_before_its_round_is_theirs(
    ends: bool, queue: QueueClient, database: Database, tmp_path: Path
) -> None:
    """Who cancels the round has it, and wants its jobs: neither may wait for the other."""
    if database.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time")
    submit(database, tmp_path)
    lease = must_claim(queue).lease

    def tell() -> None:
        if ends:
            queue.end(lease, result(0.2), [], go_on=False)
        else:
            queue.report(lease, [EVALUATION], beat=True)

    thread = Thread(target=tell)
    with database.write() as session:
        lock(session, lease.round_id)
        start_until_it_waits(thread, session)
        session.execute(select(Job.id).where(Job.id == lease.job_id).with_for_update(nowait=True))
    thread.join(10)
    assert not thread.is_alive()


def test_end__whose_answer_was_lost_is_not_told_twice(
    queue: QueueClient, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is made, with the next claim in it, and the connection goes before the answer comes."""
    submit(database, tmp_path)
    lease = must_claim(queue).lease
    write, lost = database.write, []

    @contextmanager
    def losing_the_first_answer() -> Iterator[Session]:
        with write() as session:
            yield session
        if not lost:
            lost.append(True)
            raise DatabaseUnreachable("the connection is gone")

    monkeypatch.setattr(database, "write", losing_the_first_answer)
    ended = queue.end(lease, result(0.2), [], go_on=True)
    assert lost
    assert ended == (False, None)
    assert states(database)["r1 baseline"] == (JobState.DONE, "ok", 1)
    assert must_claim(queue).job.variant == "l1"
    assert states(database)["r1 l1"] == (JobState.RUNNING, None, 1)


@pytest.mark.parametrize("at_an_end", [True, False])
def test_claim__a_result_of_one_version_is_never_reused_as_the_others(
    at_an_end: bool, queue: QueueClient, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever version queued the job: it is stored under what the version that runs it calls its result."""
    submit(database, tmp_path)
    submit(database, tmp_path, round="twin")
    of_old = must_claim(queue)
    monkeypatch.setattr("worker.job.spec.RESULT_VERSION", "the next")
    ended = queue.end(of_old.lease, result(0.2), [], go_on=at_an_end)
    claim = ended.next or must_claim(queue)
    assert (ended.next is not None, claim.job.round, claim.job.variant) == (at_an_end, "twin", "baseline")
    with database.read() as session:
        row = session.get_one(Job, claim.lease.job_id)
        assert (row.fingerprint, row.trajectory) == (claim.job.spec.fingerprint, claim.job.spec.trajectory)
    queue.end(claim.lease, result(0.3), [], go_on=False)
    submit(database, tmp_path, round="of_next")
    with database.read() as session:
        of_next = select(Job.cached_from_id).join(Round).where(Round.name == "of_next").order_by(Job.id)
        assert session.scalars(of_next).first() == claim.lease.job_id
