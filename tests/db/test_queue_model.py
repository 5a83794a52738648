"""The queue against a small model of it in plain Python: whatever several clients do, in whatever order, both agree.

Rounds are real ones and are advanced as workers do it. Clients come back with leases they have lost, are started
again, forget what they hold; the clock jumps both ways; rounds are cancelled and tried again. After every step all
that is stored is compared with the model. FSQ_QUEUE_EXAMPLES raises the number of sequences that are tried.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from db import queue
from db.errors import LeaseLost
from db.events import EventKind
from db.queue import LONGEST_BACK_OFF, LONGEST_LEASE, MAX_ATTEMPTS, Lease
from db.session import Database
from db.tables import AT_ONCE, Base, Decision, Evaluation, Event, Job, JobState, Round, RoundState, Worker
from orchestrator import engine, interventions
from orchestrator.planner import State, plan
from orchestrator.rounds import stored_round
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import JobKey, Measurement
from orchestrator.verdicts import Verdict
from tests.claims import take_next
from tests.db.test_queue import EVALUATION, LEASE
from tests.db.test_queue_concurrency import without_sync
from tests.orchestrator.factories import NOW, resolve, result
from worker.job import REUSABLE, JobResult, Outcome

EXAMPLES = int(os.environ.get("FSQ_QUEUE_EXAMPLES", "12"))
IS_SEARCH = "FSQ_QUEUE_EXAMPLES" in os.environ  # else the same sequences every time
STEPS = 30
BACK_OFF = timedelta(seconds=10)
ENDS = [
    result(0.5),  # promoted, if it is not the baseline
    result(0.2),
    JobResult(outcome=Outcome.DIVERGED, reason="loss is nan"),
    JobResult(outcome=Outcome.BUILD_FAILED, reason="too few examples"),
]
JUMPS = [timedelta(seconds=seconds) for seconds in (1, 15, 61, 700, -1, -130, -10_000)]
CLIENTS = range(3)


class Name(NamedTuple):
    """A job, by its round and its key within it."""

    round: str
    key: JobKey


@dataclass
class ModelJob:
    """What must be stored of a job."""

    fingerprint: str
    not_before: datetime = AT_ONCE
    state: JobState = JobState.QUEUED
    attempts: int = 0
    fruitless: int = 0  # of no account once it has ended
    reached: int = 0
    token: int = 0
    holder: int | None = None  # while it runs
    expires: datetime | None = None
    outcome: str | None = None
    measured: JobResult | None = None  # what the planner is told
    evaluated: set[int] = field(default_factory=set)


@dataclass
class ModelRound:
    """What must be stored of a round; its events as (kind, job)."""

    resolved: ResolvedRound
    state: RoundState = RoundState.ACTIVE
    events: list[tuple[EventKind, Name | None]] = field(default_factory=list)
    decisions: dict[JobKey, Verdict] = field(default_factory=dict)


class Model:
    """Rounds and jobs in the order in which they came."""

    def __init__(self) -> None:
        self.rounds: dict[str, ModelRound] = {}
        self.jobs: dict[Name, ModelJob] = {}

    def tell(self, kind: EventKind, name: Name) -> None:
        self.rounds[name.round].events.append((kind, name))

    def submit(self, resolved: ResolvedRound) -> None:
        row = ModelRound(resolved, events=[(EventKind.SUBMITTED, None), (EventKind.STARTED, None)])
        self.rounds[resolved.spec.round] = row
        self.advance(resolved.spec.round)

    def advance(self, of: str) -> None:
        row = self.rounds[of]
        if row.state is not RoundState.ACTIVE:
            return
        added = True
        while added:
            measured = {
                name.key: _measurement(job) for name, job in self.of(of) if job.state is JobState.DONE
            }
            planned = plan(row.resolved.search, measured)
            new = [Name(of, key) for key in planned.jobs if Name(of, key) not in self.jobs]
            for name in new:
                self.jobs[name] = ModelJob(row.resolved.job(name.key).fingerprint)
            known = [name for name in new if self.end_from_cache(name)]
            added = bool(known)
        for decision in planned.decisions:
            if decision.key not in row.decisions:
                row.decisions[decision.key] = decision.verdict
                row.events.append((EventKind.DECIDED, None))
        if planned.state is State.FINISHED:
            row.state = RoundState.FINISHED
            row.events.append((EventKind.FINISHED, None))

    def of(self, round_name: str) -> list[tuple[Name, ModelJob]]:
        return [(name, job) for name, job in self.jobs.items() if name.round == round_name]

    def next(self, now: datetime, of: str | None) -> Name | None:
        """The oldest job that may start."""
        for name, job in self.jobs.items():
            may_start = job.not_before <= now or job.not_before > now + LONGEST_BACK_OFF
            wanted = of in (None, name.round) and self.rounds[name.round].state is RoundState.ACTIVE
            if job.state is JobState.QUEUED and may_start and wanted:
                return name
        return None

    def claim(self, name: Name, worker: int, now: datetime) -> None:
        job = self.jobs[name]
        job.state, job.holder, job.expires = JobState.RUNNING, worker, now + LEASE
        job.attempts += 1
        job.token += 1
        job.evaluated = set()
        self.tell(EventKind.JOB_STARTED, name)

    def evaluate(self, name: Name, step: int) -> None:
        job = self.jobs[name]
        if step in job.evaluated:
            return
        job.evaluated.add(step)
        if step > job.reached:
            job.reached, job.fruitless = step, 0
        self.tell(EventKind.EVALUATED, name)

    def end(self, name: Name, outcome: str, measured: JobResult) -> None:
        job = self.jobs[name]
        job.state, job.outcome, job.measured = JobState.DONE, outcome, measured
        job.holder, job.expires, job.fruitless = None, None, 0
        self.tell(EventKind.JOB_ENDED, name)

    def end_from_cache(self, name: Name) -> bool:
        """Ends a job if the result of another of the same fingerprint is known; returns whether it is."""
        job = self.jobs[name]
        for other in self.jobs.values():
            if other.fingerprint == job.fingerprint and other.outcome in REUSABLE:
                assert other.measured is not None
                self.end(name, Outcome.CACHED, other.measured)
                return True
        return False

    def requeue(self, name: Name, not_before: datetime = AT_ONCE) -> None:
        job = self.jobs[name]
        job.state, job.holder, job.expires, job.not_before = JobState.QUEUED, None, None, not_before
        self.tell(EventKind.JOB_REQUEUED, name)

    def hand_back(self, name: Name) -> None:
        self.jobs[name].attempts -= 1
        self.requeue(name)

    def fail(self, name: Name, outcome: Outcome, next_start: Callable[[int], datetime]) -> None:
        """An attempt came to nothing; when the next may start depends on how many in a row did."""
        job = self.jobs[name]
        job.fruitless += 1
        if job.fruitless == MAX_ATTEMPTS:
            self.end(name, outcome, JobResult(outcome=outcome))
        else:
            self.requeue(name, next_start(job.fruitless))

    def cancel(self, of: str) -> None:
        row = self.rounds[of]
        row.state = RoundState.CANCELLED
        row.events.append((EventKind.CANCELLED, None))
        for _, job in self.of(of):
            if job.state is not JobState.DONE:
                job.state, job.outcome = JobState.DONE, Outcome.CANCELLED
                job.measured = JobResult(outcome=Outcome.CANCELLED)
                job.holder, job.expires, job.fruitless = None, None, 0

    def unmeasured(self, of: str) -> list[ModelJob]:
        fine = (*REUSABLE, Outcome.CACHED)
        return [job for _, job in self.of(of) if job.state is JobState.DONE and job.outcome not in fine]

    def retry(self, of: str) -> None:
        row = self.rounds[of]
        row.state = RoundState.ACTIVE
        row.events.append((EventKind.RETRIED, None))
        for job in self.unmeasured(of):
            job.state, job.outcome, job.measured, job.not_before = JobState.QUEUED, None, None, AT_ONCE
            job.attempts = job.fruitless = job.reached = 0
        row.decisions = {key: it for key, it in row.decisions.items() if it is not Verdict.UNDECIDED}
        self.advance(of)

    def running(self) -> list[Name]:
        return [name for name, job in self.jobs.items() if job.state is JobState.RUNNING]


def _measurement(job: ModelJob) -> Measurement:
    assert job.measured is not None
    metrics = job.measured.metrics
    if metrics is None:
        return Measurement(job.measured.outcome, reason=job.measured.reason)
    return Measurement(job.measured.outcome, score=metrics.best_val_tok_acc, loss=metrics.best_val_loss)


class QueueMachine(RuleBasedStateMachine):
    """Clients of one queue; each rule is one transaction, as a worker's or a user's."""

    def __init__(self, database: Database, rounds: list[ResolvedRound]) -> None:
        super().__init__()
        self.database, self.available = database, rounds
        self.now = NOW
        self.model = Model()
        self.leases: list[tuple[Name, Lease]] = []  # all that were ever given
        self.workers: list[int] = []  # of each client, the latest
        self.ids: dict[Name, int] = {}
        with database.write() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
            self.workers = [self._enter(session, client) for client in CLIENTS]

    def _enter(self, session: Session, client: int) -> int:
        at = {"started_at": self.now, "seen_at": self.now}
        worker = Worker(host="h", pid=client, device="cpu", device_lock=f"lock {client}", **at)
        session.add(worker)
        session.flush()
        return worker.id

    def _is_held(self, name: Name, lease: Lease) -> bool:
        job = self.model.jobs[name]
        return job.state is JobState.RUNNING and job.token == lease.token

    def _held(self) -> list[tuple[Name, Lease]]:
        return [(name, lease) for name, lease in self.leases if self._is_held(name, lease)]

    def _stale(self) -> list[tuple[Name, Lease]]:
        return [(name, lease) for name, lease in self.leases if not self._is_held(name, lease)]

    def _advance(self, session: Session, job_ids: Iterable[int]) -> None:
        """As a worker does with the jobs that it has ended or taken back, here and in the model."""
        names = {id_: name for name, id_ in self.ids.items()}
        session.flush()
        for job_id in job_ids:
            engine.advance_job(session, job_id, now=self.now)
            self.model.advance(names[job_id].round)

    # what users do

    @initialize()
    def something_to_do(self) -> None:
        self._submit(self.available[0])
        self._submit(self.available[-1])

    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        """Another round, or one again that is there already."""
        self._submit(data.draw(st.sampled_from(self.available)))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.model.rounds)))
        is_active = self.model.rounds[name].state is RoundState.ACTIVE
        with self.database.write() as session:
            assert interventions.cancel(session, name, by="me", now=self.now).changed is is_active
        if is_active:
            self.model.cancel(name)

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        names = list(self.model.rounds)
        cancelled = [name for name in names if self.model.rounds[name].state is RoundState.CANCELLED]
        name = data.draw(st.sampled_from(cancelled or names))
        changes = bool(cancelled or self.model.unmeasured(name))
        with self.database.write() as session:
            assert interventions.retry(session, name, by="me", now=self.now).changed is changes
        if changes:
            self.model.retry(name)

    @rule(jump=st.sampled_from(JUMPS), client=st.sampled_from(CLIENTS))
    def claim_but_die_before_the_commit(self, jump: timedelta, client: int) -> None:
        """Nothing comes of it but that time has passed, or was set back."""
        self.now += jump
        with self.database.write() as session:
            take_next(session, worker_id=self.workers[client], now=self.now, lease_for=LEASE)
            session.rollback()

    def _submit(self, resolved: ResolvedRound) -> None:
        is_new = resolved.spec.round not in self.model.rounds
        with self.database.write() as session:
            assert engine.submit(session, resolved, "", by="me", now=self.now).is_new is is_new
        if is_new:
            self.model.submit(resolved)

    # what workers do

    @rule(client=st.sampled_from(CLIENTS), data=st.data())
    def claim(self, client: int, data: st.DataObject) -> None:
        """Any job, or one of a round; one whose result is known is ended at once."""
        self._claim(client, data.draw(st.sampled_from([None, *self.model.rounds])))

    def _claim(self, client: int, of: str | None) -> None:
        expected = self.model.next(self.now, of)
        with self.database.write() as session:
            round_id = None if of is None else stored_round.find(session, of).id
            worker = self.workers[client]
            lease = take_next(session, worker_id=worker, now=self.now, lease_for=LEASE, round_id=round_id)
            assert (lease and lease.job_id) == (expected and self.ids[expected])
            if lease is None or expected is None:
                return
            self.model.claim(expected, worker, self.now)
            self.leases.append((expected, lease))
            job = session.get_one(Job, lease.job_id)
            known = queue.known_result(session, job.fingerprint, queue.Answers(REUSABLE))
            assert self.model.end_from_cache(expected) is (known is not None)
            if known is not None:
                queue.complete_from_cache(session, lease, known, now=self.now, outcome=Outcome.CACHED)
                self._advance(session, [lease.job_id])

    def _some_lease(self, data: st.DataObject) -> tuple[Name, Lease] | None:
        """One that is held, though it may have run out; where none is, one is claimed, if there is something."""
        if not self._held():
            self._claim(data.draw(st.sampled_from(CLIENTS)), None)
        held = self._held()
        return data.draw(st.sampled_from(held)) if held else None

    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        if found := self._some_lease(data):
            name, lease = found
            with self.database.write() as session:
                queue.heartbeat(session, lease, now=self.now, lease_for=LEASE)
            self.model.jobs[name].expires = self.now + LEASE

    @rule(data=st.data(), step=st.integers(1, 3))
    def evaluate(self, data: st.DataObject, step: int) -> None:
        if found := self._some_lease(data):
            name, lease = found
            with self.database.write() as session:
                queue.record_evaluations(session, lease, [EVALUATION | {"step": step}], now=self.now)
            self.model.evaluate(name, step)

    @rule(data=st.data(), end=st.sampled_from(ENDS))
    def complete(self, data: st.DataObject, end: JobResult) -> None:
        if found := self._some_lease(data):
            name, lease = found
            self.model.end(name, end.outcome, end)
            with self.database.write() as session:
                _complete(session, lease, end, self.now)
                assert queue.has_ended(session, lease, end.outcome)
                self._advance(session, [lease.job_id])

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        if found := self._some_lease(data):
            name, lease = found
            self.model.fail(name, Outcome.CRASHED, lambda row: AT_ONCE if row == 1 else self.now + BACK_OFF)
            with self.database.write() as session:
                again = _give_up(session, lease, self.now)
                assert again is (self.model.jobs[name].state is JobState.QUEUED)
                self._advance(session, [lease.job_id])

    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        if found := self._some_lease(data):
            name, lease = found
            with self.database.write() as session:
                queue.hand_back(session, lease, now=self.now)
            self.model.hand_back(name)

    @precondition(lambda self: self._stale())
    @rule(data=st.data())
    def come_back_from_the_dead(self, data: st.DataObject) -> None:
        """Whatever is tried with a lease that was lost is refused and changes nothing."""
        stale = self._stale()
        run_by_another = [(name, lease) for name, lease in stale if self.model.jobs[name].holder]
        _, lease = data.draw(st.sampled_from(run_by_another or stale))
        transitions: list[Callable[[Session], object]] = [
            lambda session: queue.heartbeat(session, lease, now=self.now, lease_for=LEASE),
            lambda session: queue.record_evaluations(session, lease, [EVALUATION], now=self.now),
            lambda session: _complete(session, lease, ENDS[0], self.now),
            lambda session: _give_up(session, lease, self.now),
            lambda session: queue.hand_back(session, lease, now=self.now),
            lambda session: queue.require_held(session, lease),
        ]
        for transition in transitions:
            with pytest.raises(LeaseLost), self.database.write() as session:
                transition(session)

    @precondition(lambda self: self.model.running())
    @rule(client=st.sampled_from(CLIENTS))
    def forget(self, client: int) -> None:
        """A client hands back all that it holds, as it does before it claims."""
        worker = self.workers[client]
        with self.database.write() as session:
            queue.hand_back_all(session, worker_id=worker, now=self.now)
        held = [name for name in self.model.running() if self.model.jobs[name].holder == worker]
        for name in sorted(held, key=self.ids.__getitem__):
            self.model.hand_back(name)

    @precondition(lambda self: self.model.running())
    @rule(client=st.sampled_from(CLIENTS))
    def start_again(self, client: int) -> None:
        """A new process with the device lock of one that died: what that one held is taken back."""
        dead = self.workers[client]
        with self.database.write() as session:
            self.workers[client] = new = self._enter(session, client)
            lost = queue.requeue_dead(session, device_lock=f"lock {client}", worker_id=new, now=self.now)
            held = [name for name in self.model.running() if self.model.jobs[name].holder == dead]
            self._take_back(session, lost, held)

    @precondition(lambda self: self.model.running())
    @rule(jump=st.sampled_from([timedelta(0), 2 * LEASE, -2 * LONGEST_LEASE]))
    def expire(self, jump: timedelta) -> None:
        """A lease that ends later than any that could be given now is from before the clock was set back."""
        self.now += jump
        ends = {name: self.model.jobs[name].expires or self.now for name in self.model.running()}
        over = [name for name, end in ends.items() if not self.now <= end <= self.now + LONGEST_LEASE]
        with self.database.write() as session:
            self._take_back(session, queue.requeue_expired(session, now=self.now), over)

    def _take_back(self, session: Session, lost: list[int], expected: list[Name]) -> None:
        assert sorted(lost) == sorted(self.ids[name] for name in expected)
        for name in sorted(expected, key=lambda name: lost.index(self.ids[name])):
            self.model.fail(name, Outcome.LOST, lambda _: AT_ONCE)
        self._advance(session, lost)

    # what must hold

    @invariant()
    def what_is_stored_is_what_the_model_says(self) -> None:
        with self.database.read() as session:
            self._compare_jobs(session)
            self._compare_rounds(session)

    def _compare_jobs(self, session: Session) -> None:
        rows = session.execute(select(Round.name, Job).join(Job.round).order_by(Job.id)).all()
        evaluated: dict[int, set[int]] = {}
        for job_id, step in session.execute(select(Evaluation.job_id, Evaluation.step)):
            evaluated.setdefault(job_id, set()).add(step)
        self.ids = {
            Name(round_name, JobKey(job.task, job.stage, job.variant, job.seed)): job.id
            for round_name, job in rows
        }
        stored = [
            ModelJob(
                fingerprint=job.fingerprint,
                not_before=job.not_before,
                state=job.state,
                attempts=job.attempts,
                fruitless=0 if job.state is JobState.DONE else job.fruitless,
                reached=job.reached,
                token=job.fencing_token,
                holder=job.worker_id if job.state is JobState.RUNNING else None,
                expires=job.lease_expires_at,
                outcome=job.outcome,
                measured=None if job.result is None else JobResult.from_json(job.result),
                evaluated=evaluated.get(job.id, set()),
            )
            for _, job in rows
        ]
        assert dict(zip(self.ids, stored, strict=True)) == self.model.jobs
        assert list(self.ids) == list(self.model.jobs)  # the same age, too

    def _compare_rounds(self, session: Session) -> None:
        names = {id_: name for name, id_ in self.ids.items()}
        for row in session.scalars(select(Round)):
            expected = self.model.rounds[row.name]
            of_round = select(Event).where(Event.round_id == row.id).order_by(Event.number)
            told = session.scalars(of_round).all()
            assert [event.number for event in told] == list(range(1, row.n_events + 1))
            assert [(event.kind, event.job_id and names[event.job_id]) for event in told] == expected.events
            decided = session.scalars(select(Decision).where(Decision.round_id == row.id))
            verdicts = {JobKey(it.task, it.stage, it.variant, it.seed): it.decision for it in decided}
            assert (row.state, verdicts) == (expected.state, expected.decisions)


def _complete(session: Session, lease: Lease, end: JobResult, now: datetime) -> None:
    content = end.model_dump(mode="json")
    queue.complete(session, lease, now=now, outcome=end.outcome, reason=end.reason, result=content)


def _give_up(session: Session, lease: Lease, now: datetime) -> bool:
    crashed: dict[str, Any] = {"outcome": Outcome.CRASHED, "reason": "signal 9", "back_off": BACK_OFF}
    return queue.give_up(session, lease, now=now, **crashed)


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> list[ResolvedRound]:
    """Two that ask for the same, one of them side by side, and one that shares nothing with them."""
    folder = tmp_path_factory.mktemp("rounds")
    variants = {"variants": {"l1": {"layer_start": 1}, "noop": {"layer_start": 9}}}
    seeds = {"seeds": [0, 1]}
    return [
        resolve(folder, round="first", parallel=True, **variants, **seeds),
        resolve(folder, round="same", **variants, **seeds),
        resolve(folder, round="other", optimizer={"lr": 1e-4}, **variants),
    ]


def test_queue__does_what_the_model_does(database: Database, rounds: list[ResolvedRound]) -> None:
    without_sync(database)
    run_state_machine_as_test(
        partial(QueueMachine, database, rounds),  # type: ignore[arg-type]  # anything that makes one
        settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, derandomize=not IS_SEARCH),
    )
