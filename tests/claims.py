"""Claims as a client makes them that need not know its job."""

from __future__ import annotations

from datetime import datetime, timedelta

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
