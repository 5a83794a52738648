"""Workers, the locks they hold and the jobs they have: who died, who is silent, what is stuck."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.clock import clock
from db.queue import LONGEST_LEASE
from db.session import Database
from db.tables import Job, JobState, Round, Worker
from worker.diagnosis.finding import Finding
from worker.liveness import is_alive

LONGEST_SILENCE = timedelta(minutes=5)  # of a worker elsewhere, which shows life every ten seconds


def examine(database: Database, home: Path, host: str | None = None) -> Iterator[Finding]:
    """Compares what the database says of workers with the processes and locks of this machine."""
    host = host or socket.gethostname()
    with database.read() as session:
        now = clock(session)
        working = list(session.scalars(select(Worker).where(Worker.stopped_at.is_(None)).order_by(Worker.id)))
        stuck = _stuck_jobs(session, now)
    yield from locks(home / "locks", host, working)
    yield from _each(working, host, now)
    yield leases(stuck, now)


def locks(folder: Path, host: str, working: Sequence[Worker]) -> Iterator[Finding]:
    """The lock files of a home folder: each is free, or held by a worker of this database."""
    known = {path for worker in working if (path := lock_path(worker, host)) is not None}
    for path in sorted(folder.glob("*.lock")):
        what = f"lock {path.name}"
        try:
            if not is_held(path):
                yield Finding.fine(what, "free")
            elif path.resolve() in known:
                yield Finding.fine(what, "held by a worker")
            else:
                yield Finding.problem(
                    what,
                    f"held by {_named(holders(path))}, which is no worker of this database",
                    "a worker of another database has the device: stop it, or let this one work with another device "
                    "or FSQ_HOME",
                )
        except OSError as error:
            yield Finding.problem(
                what,
                f"cannot be opened: {error.strerror}",
                "give it to the user that runs fsq, or remove it",
            )


def is_held(path: Path) -> bool:
    """Whether some process holds the lock; raises OSError."""
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def holders(path: Path) -> list[int]:
    """The processes that have the file open, where the platform tells."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path.resolve():
                found.add(int(link.parts[2]))
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
    return sorted(found)


def lock_path(worker: Worker, host: str) -> Path | None:
    """The lock file of a worker of this host; None for another host's."""
    its_host, _, path = worker.device_lock.partition(":")
    return Path(path) if its_host == worker.host == host else None


def _each(working: Sequence[Worker], host: str, now: datetime) -> Iterator[Finding]:
    if not working:
        yield Finding.fine("workers", "none is at work")
    for worker in working:
        path = lock_path(worker, host)
        problem = _elsewhere(worker, now) if path is None else _here(worker, path)
        what = f"worker {worker.id} on {worker.host} ({worker.device})"
        if problem is None and worker.paused:
            problem = (
                f"has stopped pulling jobs: {worker.paused}",
                "mend that; it tries again by itself after a pause, or at once when it is started again",
            )
        if problem is None:
            yield Finding.fine(what, f"process {worker.pid} is at work")
        else:
            yield Finding.problem(what, *problem)


def _here(worker: Worker, path: Path) -> tuple[str, str] | None:
    """What is wrong with a worker of this machine: found, advice."""
    held = path.exists() and is_held(path)
    if held and is_alive(worker.pid):
        return None
    if held:
        return (
            f"process {worker.pid} is gone, but {_named(holders(path))} still holds its lock {path}",
            "end that process; it keeps every worker from the device",
        )
    return (
        f"process {worker.pid} died; last seen {worker.seen_at:%Y-%m-%d %H:%M:%S} UTC",
        f"run `fsq work --device {worker.device}`: the next worker on this device takes its jobs back",
    )


def _elsewhere(worker: Worker, now: datetime) -> tuple[str, str] | None:
    """What can be known of a worker on another machine: found, advice."""
    if now - worker.seen_at <= LONGEST_SILENCE:
        return None
    return (
        f"not seen since {worker.seen_at:%Y-%m-%d %H:%M:%S} UTC",
        f"look at {worker.host}; any worker takes its job back once the lease has ended",
    )


def _stuck_jobs(session: Session, now: datetime) -> list[tuple[str, Job]]:
    """Running jobs whose lease has ended, or reaches beyond reason, with the names of their rounds.

    A lease that ends later than any is given for was given before the clock was set back.
    """
    expired = (Job.lease_expires_at < now) | (Job.lease_expires_at > now + LONGEST_LEASE)
    query = select(Round.name, Job).join(Job.round).where(Job.state == JobState.RUNNING, expired)
    return [(name, job) for name, job in session.execute(query.order_by(Job.lease_expires_at))]


def leases(stuck: Sequence[tuple[str, Job]], now: datetime) -> Finding:
    """Jobs that nobody works on any more, though they are said to be running."""
    if not stuck:
        return Finding.fine("leases", "no job is stuck")
    return Finding.problem(
        "leases",
        "; ".join(_stuck(name, job, now) for name, job in stuck),
        "run `fsq work`: a worker takes such jobs back before it looks for new ones",
    )


def _stuck(round_name: str, job: Job, now: datetime) -> str:
    until = job.lease_expires_at
    assert until is not None  # noqa: S101  (the query asks for it)
    when = "ended" if until < now else "ends only"
    named = f"{round_name}: {job.task} {job.stage} {job.variant} seed {job.seed}"
    return f"job {job.id} ({named}) runs with a lease that {when} {until:%Y-%m-%d %H:%M:%S} UTC"


def _named(pids: list[int]) -> str:
    return f"process {', '.join(map(str, pids))}" if pids else "a process"
