"""The queue on both databases: claims, leases, fencing, requeueing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest
from sqlalchemy import select, update

from db import events, queue
from db.errors import LeaseLost
from db.events import EventKind
from db.queue import MAX_ATTEMPTS, Lease
from db.session import Database
from db.statements import OLDEST
from db.tables import Evaluation, Job, JobState, Round, RoundState, Worker
from tests.claims import start_until_it_waits, take_next

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=60)
EVALUATION = {
    "step": 20,
    "seconds": 1.5,
    "tokens": 3_000_000_000,
    "train_loss": 1.0,
    "val_loss": 2.0,
    "val_tok_acc": 0.5,
    "val_seq_acc": 0.25,
    "distinct_predictions": 3,
    "correct": [1, 0, 2],
}


def add_round(database: Database, name: str = "r", jobs: int = 1) -> int:
    with database.write() as session:
        row = Round(name=name, digest=name, source="", spec={"parallel": True}, facts={}, created_at=NOW)
        named = [{"variant": f"v{i}", "fingerprint": f"{name}{i}"} for i in range(jobs)]
        common = {
            "task": "t",
            "stage": "quick",
            "seed": 0,
            "payload": {},
            "not_before": NOW,
            "created_at": NOW,
        }
        row.jobs = [Job(**(common | names)) for names in named]
        session.add(row)
        session.flush()
        return row.id


def add_worker(database: Database, lock: str = "lock") -> int:
    with database.write() as session:
        worker = Worker(host="h", pid=1, device="cpu", device_lock=lock, started_at=NOW, seen_at=NOW)
        session.add(worker)
        session.flush()
        return worker.id


def claim(
    database: Database, worker: int, *, now: datetime = NOW, round_id: int | None = None
) -> Lease | None:
    with database.write() as session:
        return take_next(session, worker_id=worker, now=now, lease_for=LEASE, round_id=round_id)


def must_claim(database: Database, worker: int, now: datetime = NOW) -> Lease:
    lease = claim(database, worker, now=now)
    assert lease is not None
    return lease


def complete(database: Database, lease: Lease) -> None:
    with database.write() as session:
        queue.complete(session, lease, now=NOW, outcome="ok", reason=None, result={"outcome": "ok"})


def job(database: Database, job_id: int) -> Job:
    with database.read() as session:
        return session.get_one(Job, job_id)


def test_claim__oldest_first_each_once(database: Database) -> None:
    add_round(database, jobs=3)
    worker = add_worker(database)
    leases = [must_claim(database, worker) for _ in range(3)]
    assert [lease.job_id for lease in leases] == sorted(lease.job_id for lease in leases)
    assert claim(database, worker) is None


def test_claim__only_of_the_round_asked_for(database: Database) -> None:
    add_round(database, "a")
    second = add_round(database, "b")
    lease = claim(database, add_worker(database), round_id=second)
    assert lease is not None
    assert job(database, lease.job_id).round_id == second


def test_claim__not_before_its_time_and_not_of_ended_rounds(database: Database) -> None:
    round_id = add_round(database)
    worker = add_worker(database)
    assert claim(database, worker, now=NOW - timedelta(seconds=1)) is None
    with database.write() as session:
        session.get_one(Round, round_id).state = RoundState.CANCELLED
    assert claim(database, worker) is None


def test_complete__stores_the_result_once(database: Database) -> None:
    add_round(database)
    lease = must_claim(database, add_worker(database))
    complete(database, lease)
    stored = job(database, lease.job_id)
    assert (stored.state, stored.outcome, stored.result) == (JobState.DONE, "ok", {"outcome": "ok"})
    with pytest.raises(LeaseLost):
        complete(database, lease)


def test_complete__stale_holder_is_refused(database: Database) -> None:
    """The first worker stalls, loses its lease, and comes back after the second one has claimed the job."""
    add_round(database)
    first, second = add_worker(database), add_worker(database)
    stale = must_claim(database, first)
    later = NOW + LEASE + timedelta(seconds=1)
    with database.write() as session:
        assert queue.requeue_expired(session, now=later) == [stale.job_id]
    fresh = must_claim(database, second, later)
    assert fresh.token > stale.token
    with pytest.raises(LeaseLost):
        complete(database, stale)
    with pytest.raises(LeaseLost), database.write() as session:
        queue.record_evaluations(session, stale, [EVALUATION], now=NOW)
    with pytest.raises(LeaseLost), database.write() as session:
        queue.heartbeat(session, stale, now=later, lease_for=LEASE)
    complete(database, fresh)
    assert job(database, fresh.job_id).worker_id == second


def test_heartbeat__keeps_the_lease(database: Database) -> None:
    add_round(database)
    lease = must_claim(database, add_worker(database))
    later = NOW + LEASE * 0.9
    with database.write() as session:
        queue.heartbeat(session, lease, now=later, lease_for=LEASE)
    with database.write() as session:
        assert queue.requeue_expired(session, now=NOW + LEASE * 1.5) == []


def test_record_evaluations__kept_and_forgotten_with_the_attempt(database: Database) -> None:
    add_round(database)
    lease = must_claim(database, add_worker(database))
    with database.write() as session:
        queue.record_evaluations(session, lease, [EVALUATION], now=NOW)
    with database.read() as session:
        (row,) = session.scalars(select(Evaluation))
        assert {name: getattr(row, name) for name in EVALUATION} == EVALUATION
    with database.write() as session:
        queue.hand_back(session, lease, now=NOW)
    must_claim(database, lease.worker_id)
    with database.read() as session:
        assert session.scalars(select(Evaluation)).all() == []


def test_record_evaluations__several_at_once_and_told_again(database: Database) -> None:
    round_id = add_round(database)
    lease = must_claim(database, add_worker(database))
    told = [EVALUATION | {"step": step} for step in (20, 40, 60)]
    for part in (told[:2], told):
        with database.write() as session:
            queue.record_evaluations(session, lease, part, now=NOW)
    with database.read() as session:
        assert session.scalars(select(Evaluation.step).order_by(Evaluation.step)).all() == [20, 40, 60]
        happened = [one for one in events.since(session, round_id, 0) if one.kind is EventKind.EVALUATED]
        assert [one.data["step"] for one in happened] == [20, 40, 60]
        numbers = [one.number for one in happened]
        assert numbers == list(range(numbers[0], numbers[0] + 3))
    assert job(database, lease.job_id).reached == 60


def test_give_up__the_infrastructures_failures_use_up_none_of_the_jobs_attempts(database: Database) -> None:
    add_round(database)
    worker = add_worker(database)
    now = NOW
    for _ in range(5):
        lease = must_claim(database, worker, now)
        with database.write() as session:
            assert queue.give_up(
                session,
                lease,
                now=now,
                outcome="infra_failed",
                reason="no space left",
                back_off=timedelta(0),
                max_attempts=8,
                is_infrastructure=True,
            )
    for _ in range(MAX_ATTEMPTS - 1):  # a killed worker is none of the infrastructure's failures
        must_claim(database, worker, now)
        now += 2 * LEASE
        with database.write() as session:
            assert queue.requeue_expired(session, now=now)
    assert job(database, 1).state is JobState.QUEUED
    must_claim(database, worker, now)
    with database.write() as session:
        queue.requeue_expired(session, now=now + 2 * LEASE)
    assert job(database, 1).outcome == "lost"


def test_hand_back_all__waits_for_the_round_of_its_job(database: Database) -> None:
    """A worker that is stopped hands its job back even if the round is being changed at that moment."""
    if database.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time")
    round_id = add_round(database)
    worker = add_worker(database)
    lease = must_claim(database, worker)

    def hand_back() -> None:
        with database.write() as session:
            queue.hand_back_all(session, worker_id=worker, now=NOW, wait=True)

    thread = Thread(target=hand_back)
    with database.write() as session:
        events.lock(session, round_id)
        start_until_it_waits(thread, session)
    thread.join(10)
    stored = job(database, lease.job_id)
    assert (stored.state, stored.attempts) == (JobState.QUEUED, 0)


def test_give_up__backs_off_then_ends(database: Database) -> None:
    add_round(database)
    worker = add_worker(database)
    now = NOW
    for attempt in range(1, MAX_ATTEMPTS + 1):
        lease = must_claim(database, worker, now)
        with database.write() as session:
            again = queue.give_up(
                session, lease, now=now, outcome="crashed", reason="signal 9", back_off=timedelta(seconds=10)
            )
        assert again == (attempt < MAX_ATTEMPTS)
        pause = timedelta(seconds=10 * (2 ** (attempt - 1) - 1))
        if pause:
            assert claim(database, worker, now=now + pause - timedelta(seconds=1)) is None
        now += pause
    ended = job(database, lease.job_id)
    assert (ended.state, ended.outcome, ended.reason, ended.attempts) == (
        JobState.DONE,
        "crashed",
        "signal 9",
        3,
    )


def test_hand_back__does_not_count_as_an_attempt(database: Database) -> None:
    add_round(database)
    lease = must_claim(database, add_worker(database))
    with database.write() as session:
        queue.hand_back(session, lease, now=NOW)
    stored = job(database, lease.job_id)
    assert (stored.state, stored.attempts, stored.worker_id) == (JobState.QUEUED, 0, None)


def test_requeue_dead__takes_jobs_of_earlier_holders_of_the_lock_only(database: Database) -> None:
    add_round(database, jobs=2)
    dead, other = add_worker(database, "mine"), add_worker(database, "elsewhere")
    lost, kept = must_claim(database, dead), must_claim(database, other)
    me = add_worker(database, "mine")
    with database.write() as session:
        assert queue.requeue_dead(session, device_lock="mine", worker_id=me, now=NOW) == [lost.job_id]
    assert job(database, kept.job_id).state is JobState.RUNNING
    with database.read() as session:
        assert session.get_one(Worker, dead).stopped_at == NOW


def test_known_result__first_with_a_wanted_outcome(database: Database) -> None:
    add_round(database, "a")
    lease = must_claim(database, add_worker(database))
    with database.read() as session:
        assert queue.known_result(session, "a0", queue.Answers(["ok"])) is None
    complete(database, lease)
    with database.read() as session:
        known = queue.known_result(session, "a0", queue.Answers(["ok"]))
        assert known is not None
        assert known.job_id == lease.job_id
        assert queue.known_result(session, "a0", queue.Answers(["diverged"])) is None


def test_equals__one_that_runs_comes_before_one_whose_result_is_known(database: Database) -> None:
    add_round(database, jobs=3)
    with database.write() as session:
        session.execute(update(Job).values(fingerprint="same"))
    worker = add_worker(database)
    first, second = must_claim(database, worker), must_claim(database, worker)
    complete(database, first)

    def equals(outcome: str) -> queue.Equals:
        with database.write() as session:
            return queue.equals(session, "same", queue.Answers([outcome]))

    assert equals("ok") == queue.Equals(is_at_work=True)
    complete(database, second)
    known = queue.KnownResult(first.job_id, {"outcome": "ok"}, None)
    assert equals("ok") == queue.Equals(is_at_work=False, known=known)
    assert equals("diverged") == queue.Equals(is_at_work=False)


def test_is_running_and_next_start(database: Database) -> None:
    add_round(database)
    with database.read() as session:
        assert (queue.is_running(session), queue.next_start(session)) == (False, NOW)
    lease = must_claim(database, add_worker(database))
    with database.read() as session:
        assert (queue.is_running(session), queue.next_start(session)) == (True, None)
    complete(database, lease)
    with database.read() as session:
        assert (queue.is_running(session), queue.next_start(session)) == (False, None)


def test_give_up__progress_starts_the_count_anew(database: Database) -> None:
    add_round(database)
    worker = add_worker(database)
    now = NOW
    for step in range(1, 2 * MAX_ATTEMPTS):
        lease = must_claim(database, worker, now)
        with database.write() as session:
            queue.record_evaluations(session, lease, [EVALUATION | {"step": step}], now=now)
            assert queue.give_up(
                session, lease, now=now, outcome="crashed", reason="", back_off=timedelta(seconds=1)
            )
        now += timedelta(seconds=1)
    for _ in range(MAX_ATTEMPTS - 1):  # the same evaluation again is no progress
        lease = must_claim(database, worker, now)
        with database.write() as session:
            queue.record_evaluations(session, lease, [EVALUATION | {"step": 1}], now=now)
            again = queue.give_up(
                session, lease, now=now, outcome="crashed", reason="", back_off=timedelta(seconds=1)
            )
        now += timedelta(seconds=10)
    assert not again


def test_claim__a_clock_set_back_delays_nothing(database: Database) -> None:
    """What was meant to start soon lies hours ahead now; so does the end of a dead worker's lease."""
    add_round(database, jobs=2)
    dead, worker = add_worker(database), add_worker(database)
    must_claim(database, dead)
    before = NOW - timedelta(hours=3)
    with database.write() as session:
        assert len(queue.requeue_expired(session, now=before)) == 1
    assert {must_claim(database, worker, before).job_id, must_claim(database, worker, before).job_id} == {
        1,
        2,
    }


def test_hand_back_all__what_a_worker_does_not_know_of(database: Database) -> None:
    add_round(database, jobs=2)
    mine, other = add_worker(database), add_worker(database)
    unheard, kept = must_claim(database, mine), must_claim(database, other)
    with database.write() as session:
        queue.hand_back_all(session, worker_id=mine, now=NOW)
    assert job(database, unheard.job_id).state is JobState.QUEUED
    assert job(database, kept.job_id).state is JobState.RUNNING


def test_has_ended__under_this_lease_only(database: Database) -> None:
    add_round(database)
    stale = must_claim(database, add_worker(database))
    with database.write() as session:
        queue.hand_back(session, stale, now=NOW)
    lease = must_claim(database, add_worker(database))
    complete(database, lease)
    with database.read() as session:
        assert queue.has_ended(session, lease, "ok")
        assert not queue.has_ended(session, lease, "diverged")
        assert not queue.has_ended(session, stale, "ok")


def test_is_running_and_next_start__of_one_round(database: Database) -> None:
    first, second = add_round(database, "first"), add_round(database, "second")
    worker = add_worker(database)
    with database.write() as session:
        session.query(Job).where(Job.round_id == second).one().not_before = NOW + timedelta(hours=1)
    with database.read() as session:
        assert queue.next_start(session, round_id=second) == NOW + timedelta(hours=1)
    must_claim(database, worker)
    with database.read() as session:
        assert [queue.is_running(session, round_id=one) for one in (first, second)] == [True, False]
        assert queue.next_start(session, round_id=first) is None


def test_claim__the_second_look_sees_what_was_started_before_the_round_was_locked(database: Database) -> None:
    """Of a round that runs one job at a time; what the first look found is of the moment before."""
    worker, round_id = add_worker(database), add_round(database, jobs=2)
    asked = {"now": NOW, "far": NOW + LEASE, "round_id": round_id}
    with database.write() as session:
        session.execute(update(Round).values(spec={"parallel": False}))
        assert session.execute(OLDEST, asked).first() is not None
    must_claim(database, worker)
    with database.write() as session:
        assert session.execute(OLDEST, asked).first() is None
        session.execute(update(Round).values(spec={"parallel": True}))
        assert session.execute(OLDEST, asked).first() is not None
