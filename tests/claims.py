"""Clients of the queue: claims by one that need not know its job, and one that another keeps waiting."""

from __future__ import annotations

from datetime import datetime, timedelta
from threading import Thread

from sqlalchemy import text
from sqlalchemy.orm import Session

from db import queue
from db.queue import Lease


def take_next(
    session: Session,
    *,
    worker_id: int,
    now: datetime,
    lease_for: timedelta,
    round_id: int | None = None,
    locked: int | None = None,
) -> Lease | None:
    """Leases the next job, of one round or of any; None when there is none."""
    job = queue.next_job(session, now=now, round_id=round_id, locked=locked)
    return job and queue.take(session, job, worker_id=worker_id, now=now, lease_for=lease_for)


def start_until_it_waits(thread: Thread, session: Session) -> None:
    """Starts a thread that comes to wait for what this transaction of PostgreSQL's has locked."""
    waits = text("SELECT count(*) FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))")
    thread.start()
    while not session.scalar(waits):
        assert thread.is_alive()
        thread.join(0.01)
