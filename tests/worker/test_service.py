"""A real worker with a real training process, and what happens to both."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.events import EventKind
from db.session import Database, open_current
from db.tables import Event, Job, JobState, Worker
from orchestrator import engine, interventions
from tests.orchestrator.factories import resolve, result
from worker.errors import DeviceBusy
from worker.job import Evaluation, JobResult, JobSpec, Outcome
from worker.limits import Limits
from worker.process import Child
from worker.queue_client import QueueClient
from worker.running import RunningJob
from worker.service import WorkerService

QUICK = {"stages": [{"name": "quick", "steps": 6, "eval_every": 2}], "variants": {"noop": {"layer_start": 9}}}
LONG = {
    "stages": [{"name": "quick", "steps": 100_000, "eval_every": 5}],
    "variants": {"noop": {"layer_start": 9}},
}


@dataclass
class Witness:
    """Remembers what it is told, and does something at the first evaluation."""

    at_first_evaluation: Callable[[], None] = lambda: None
    endings: list[tuple[Outcome, bool]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    evaluations: int = 0

    def started(self, job: RunningJob) -> None:
        """Nothing to remember."""

    def progressed(self, job: RunningJob, step: int, seconds: float, loss: float) -> None:
        """Too often."""

    def evaluated(self, job: RunningJob, evaluation: Evaluation) -> None:
        self.evaluations += 1
        if self.evaluations == 1:
            self.at_first_evaluation()

    def ended(self, job: RunningJob, result: JobResult, will_retry: bool) -> None:
        self.endings.append((result.outcome, will_retry))

    def troubled(self, message: str) -> None:
        self.troubles.append(message)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_current(f"sqlite:///{tmp_path / 'fsq.db'}")
    yield database
    database.close()


def now() -> datetime:
    return datetime.now(UTC)


def worker(database: Database, home: Path, witness: Witness, **limits: Any) -> WorkerService:
    def advance(session: Session, job_id: int, now: datetime) -> object:
        return engine.advance_job(session, job_id, now=now)

    chosen = Limits(**({"back_off": timedelta(seconds=0.1)} | limits))
    queue = QueueClient(database, home, chosen, advance, lambda _: True, witness.troubled)
    return WorkerService(queue, Child("cpu", home, chosen), witness, chosen)


def submit(database: Database, tmp_path: Path, **changes: Any) -> None:
    with database.write() as session:
        engine.submit(session, resolve(tmp_path, **changes), "", by="me", now=now())


def child_of(service: WorkerService) -> int:
    process = service.child._process
    assert process is not None
    return process.pid


def only_job(database: Database) -> Job:
    with database.read() as session:
        return session.scalars(select(Job)).one()


def kinds(database: Database) -> list[str]:
    with database.read() as session:
        return [kind for kind in session.scalars(select(Event.kind).order_by(Event.number)) if "job" in kind]


@pytest.mark.parametrize(
    ("send", "outcome"), [(signal.SIGSTOP, Outcome.TIMEOUT), (signal.SIGKILL, Outcome.CRASHED)]
)
def test_child__stopped_or_killed_is_replaced_and_the_job_goes_on(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    send: signal.Signals,
    outcome: Outcome,
) -> None:
    submit(database, tmp_path, **QUICK)

    def strike() -> None:
        os.kill(child_of(service), send)
        if send is signal.SIGSTOP:
            monkeypatch.setitem(vars(service.limits), "stall_seconds", 2.0)

    def ended(job: RunningJob, result: JobResult, will_retry: bool) -> None:
        monkeypatch.undo()  # the next child may take its time to start
        witness.endings.append((result.outcome, will_retry))

    witness = Witness(strike)
    witness.ended = ended  # type: ignore[method-assign]
    service = worker(database, tmp_path, witness)
    service.run_until_idle()
    assert witness.endings == [(outcome, True), (Outcome.OK, False)]
    job = only_job(database)
    assert (job.outcome, job.attempts, job.fruitless, job.reached) == ("ok", 2, 0, 6)
    assert kinds(database) == ["job_started", "job_requeued", "job_started", "job_ended"]


def test_job__that_always_crashes_is_parked_with_its_log(database: Database, tmp_path: Path) -> None:
    submit(database, tmp_path, **QUICK)
    witness = Witness()
    service = worker(database, tmp_path, witness, max_attempts=2)
    snapshots = tmp_path / "snapshots"
    snapshots.write_text("in the way")  # no snapshots: every attempt starts anew
    start_job = service.child.start_job

    def start_and_kill(spec: JobSpec, log: Path) -> None:
        start_job(spec, log)
        os.kill(child_of(service), signal.SIGKILL)

    service.child.start_job = start_and_kill  # type: ignore[method-assign]
    service.run_until_idle()
    assert witness.endings == [(Outcome.CRASHED, True), (Outcome.CRASHED, False)]
    assert service.queue.has_failed
    job = only_job(database)
    assert (job.state, job.outcome) == (JobState.DONE, "crashed")
    assert job.reason is not None
    assert job.reason.endswith(f"its output is in {tmp_path / 'runs/r1/s4/quick/baseline/seed0/log.txt'}")


def test_machine__sick_eats_no_job_until_it_is_healed(database: Database, tmp_path: Path) -> None:
    """The run directory cannot be written to: nothing can be started, more often than a crash would be forgiven."""
    submit(database, tmp_path, **(QUICK | {"seeds": [0, 1, 2, 3], "parallel": True}))
    (tmp_path / "runs").write_text("in the way")
    witness = Witness()
    limits = {"max_failures_in_a_row": 2, "cool_down": timedelta(seconds=0.2), "max_attempts": 2}
    service = worker(database, tmp_path, witness, **limits)

    def heal(message: str) -> None:
        witness.troubles.append(message)
        if len(witness.troubles) == 4:
            (tmp_path / "runs").unlink()

    service.listener.troubled = heal  # type: ignore[method-assign]
    service.run_until_idle()
    assert ["failures of the infrastructure in a row" in trouble for trouble in witness.troubles] == [
        True
    ] * 4
    with database.read() as session:
        assert set(session.scalars(select(Job.outcome))) == {"ok"}


def test_machine__that_stays_sick_gives_a_job_up_at_last(database: Database, tmp_path: Path) -> None:
    submit(database, tmp_path, **QUICK)
    (tmp_path / "runs").write_text("in the way")
    witness = Witness()
    worker(
        database, tmp_path, witness, max_infra_attempts=3, cool_down=timedelta(seconds=0.1)
    ).run_until_idle()
    assert witness.endings == [
        (Outcome.INFRA_FAILED, True),
        (Outcome.INFRA_FAILED, True),
        (Outcome.INFRA_FAILED, False),
    ]
    assert "the job cannot be started" in (only_job(database).reason or "")


def test_worker__a_defect_of_its_own_is_no_endless_loop(database: Database, tmp_path: Path) -> None:
    submit(database, tmp_path, **QUICK)
    witness = Witness()
    service = worker(database, tmp_path, witness, max_attempts=2)

    def broken(*_: object) -> None:
        raise ValueError("a defect\0 \udc80")

    service._supervisor.run = broken  # type: ignore[assignment]
    service.run_until_idle()
    assert witness.endings == [(Outcome.CRASHED, True), (Outcome.CRASHED, False)]
    assert only_job(database).reason == "ValueError: a defect ?"
    assert "Traceback" in witness.troubles[0]


def test_machine__pauses_and_says_why(database: Database, tmp_path: Path) -> None:
    submit(database, tmp_path, **QUICK)
    (tmp_path / "runs").write_text("in the way")
    witness = Witness()
    service = worker(database, tmp_path, witness, max_failures_in_a_row=1, cool_down=timedelta(seconds=1.5))
    paused: list[str | None] = []
    show_life = service.queue.show_life

    def heal(reason: str | None) -> None:
        show_life(reason)
        with database.read() as session:
            paused.append(session.scalars(select(Worker.paused)).one())
        if (tmp_path / "runs").is_file():
            (tmp_path / "runs").unlink()
        if reason is None and only_job(database).outcome == "ok":
            raise KeyboardInterrupt

    service.queue.show_life = heal  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        service.run_forever()
    assert paused[0] is not None
    assert "1 failures of the infrastructure in a row" in paused[0]
    assert "tries again in" in witness.troubles[0]
    assert only_job(database).outcome == "ok"


def test_cancel__stops_the_running_job_within_seconds(database: Database, tmp_path: Path) -> None:
    submit(database, tmp_path, **LONG)

    def cancel() -> None:
        with database.write() as session:
            interventions.cancel(session, "r1", by="me", now=now())

    witness = Witness(cancel)
    worker(database, tmp_path, witness).run_until_idle()
    assert witness.endings == [(Outcome.CANCELLED, False)]
    assert only_job(database).outcome == "cancelled"
    with database.read() as session:
        (stopped_at,) = session.scalars(select(Worker.stopped_at))
    cancelled_at = only_job(database).finished_at
    assert stopped_at is not None
    assert cancelled_at is not None
    assert stopped_at - cancelled_at < timedelta(seconds=5)


def test_cancel__forgotten_lease_then_fenced(database: Database, tmp_path: Path) -> None:
    """The job is taken away while its worker cannot be told: what it measures does not count."""
    submit(database, tmp_path, **LONG)

    def take_away() -> None:
        with database.write() as session:
            job = session.scalars(select(Job)).one()
            job.fencing_token, job.worker_id = job.fencing_token + 1, None
            job.lease_expires_at = now() + timedelta(minutes=1)

    witness = Witness(take_away)
    service = worker(database, tmp_path, witness)
    service.queue.is_idle = lambda: True  # type: ignore[method-assign]  # another worker holds the job
    service.run_until_idle()
    assert witness.endings == [(Outcome.CANCELLED, False)]
    assert EventKind.JOB_ENDED not in kinds(database)


def test_device__is_used_by_one_worker_at_a_time(database: Database, tmp_path: Path) -> None:
    service = worker(database, tmp_path, Witness())
    with service._registered(), pytest.raises(DeviceBusy, match=r"^another worker is using cpu \(lock "):
        worker(database, tmp_path, Witness()).run_until_idle()
    worker(database, tmp_path, Witness()).run_until_idle()


def test_device__whose_lock_cannot_be_taken(database: Database, tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file")
    with pytest.raises(DeviceBusy, match=r"locks/cpu.lock.* cannot be taken: (Not a directory|File exists)$"):
        worker(database, tmp_path, Witness()).run_until_idle()


def test_child__trains_without_importing_the_compiler(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """torch._dynamo takes two to three seconds, at every start of a training process; much in torch asks for it."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    submit(database, tmp_path, **QUICK | {"variants": {"l1": {"layer_start": 1}}})
    witness = Witness()
    worker(database, tmp_path, witness).run_until_idle()
    assert witness.endings == [(Outcome.OK, False)] * 2
    logs = [path.read_text() for path in tmp_path.rglob("log.txt")]
    imported = [
        line.rpartition("|")[2].strip() for line in "".join([capfd.readouterr().err, *logs]).splitlines()
    ]
    assert "torch.optim" in imported
    assert "torch._dynamo" not in imported


def answering(service: WorkerService, *results: JobResult) -> None:
    """Has the attempts end like this, without a training process; the last is for all that follow."""
    left = list(results)
    service._supervisor.run = lambda claim: (left.pop(0) if len(left) > 1 else left[0], [])  # type: ignore[method-assign]


def test_next_job__claimed_with_the_end_of_the_last_is_the_one_that_runs(
    database: Database, tmp_path: Path
) -> None:
    submit(database, tmp_path)
    service = worker(database, tmp_path, Witness())
    answering(service, result(0.2))
    service.run_until_idle()
    assert kinds(database) == ["job_started", "job_ended"] * 3


def test_next_job__is_not_claimed_by_a_worker_that_will_rest(database: Database, tmp_path: Path) -> None:
    submit(database, tmp_path, seeds=[0, 1])
    witness = Witness()
    service = worker(
        database,
        tmp_path,
        witness,
        max_failures_in_a_row=1,
        cool_down=timedelta(seconds=0.3),
        max_infra_attempts=1,
    )
    answering(service, JobResult(outcome=Outcome.INFRA_FAILED, reason="no network"), result(0.2))
    running: list[int] = []

    def look(message: str) -> None:
        with database.read() as session:
            running.extend(session.scalars(select(Job.id).where(Job.state == JobState.RUNNING)))
        witness.troubles.append(message)

    witness.troubled = look  # type: ignore[method-assign]
    service.run_until_idle()
    assert "no network" in witness.troubles[0]
    assert running == []
    assert "job_requeued" not in kinds(database)


def test_next_job__goes_back_when_its_worker_is_interrupted(database: Database, tmp_path: Path) -> None:
    submit(database, tmp_path)
    witness = Witness()
    service = worker(database, tmp_path, witness)
    answering(service, result(0.2))
    ended = witness.ended

    def interrupted(job: RunningJob, result: JobResult, will_retry: bool) -> None:
        raise KeyboardInterrupt

    witness.ended = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        service.run_until_idle()
    with database.read() as session:
        jobs = [(job.state, job.attempts) for job in session.scalars(select(Job).order_by(Job.id))]
    assert jobs == [(JobState.DONE, 1), (JobState.QUEUED, 0)]
    witness.ended = ended  # type: ignore[method-assign]
    service.run_until_idle()
    assert kinds(database)[2:] == ["job_started", "job_requeued", *["job_started", "job_ended"] * 2]
