"""The statements that every job takes many of, written once: building one takes longer than running it.

An UPDATE without values sets the columns that it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Executable, bindparam, case, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from db.tables import Base, Job, JobState, Round, RoundState

REQUEUED = {"state": JobState.QUEUED, "lease_expires_at": None, "worker_id": None}

_JOBS, _EVALUATIONS, _WORKERS = (Base.metadata.tables[name] for name in ("jobs", "evaluations", "workers"))
OF_JOB = update(_JOBS).where(_JOBS.c.id == bindparam("job"))
OF_HELD = OF_JOB.where(_JOBS.c.state == JobState.RUNNING, _JOBS.c.fencing_token == bindparam("token"))
UNCOUNTED = OF_HELD.values(
    attempts=_JOBS.c.attempts - 1, **{name: bindparam(name) for name in ("not_before", *REQUEUED)}
)
_IS_PROGRESS = _JOBS.c.reached < bindparam("step")
REACHED = OF_HELD.values(
    reached=case((_IS_PROGRESS, bindparam("step")), else_=_JOBS.c.reached),
    fruitless=case((_IS_PROGRESS, 0), else_=_JOBS.c.fruitless),
)
# a time further ahead than any pause was set before the clock was put back
_MAY_START = or_(Job.not_before <= bindparam("now"), Job.not_before > bindparam("far"))
OLDEST = (
    select(Job.id, Job.round_id, Job.attempts, Job.fencing_token)
    .join(Round)
    .where(Job.state == JobState.QUEUED, _MAY_START, Round.state == RoundState.ACTIVE)
    .order_by(Job.id)
    .limit(1)
    .with_for_update(skip_locked=True, key_share=True, of=(Job, Round))
)
RUNNING = (
    select(Job)
    .join(Round)
    .where(Job.state == JobState.RUNNING)
    .order_by(Job.id)
    .with_for_update(skip_locked=True, key_share=True, of=(Job, Round))
)
HELD = RUNNING.where(Job.worker_id == bindparam("worker"))
EXPIRED = RUNNING.where(or_(Job.lease_expires_at < bindparam("now"), Job.lease_expires_at > bindparam("far")))
KNOWN = (
    select(Job)
    .where(
        Job.fingerprint == bindparam("known"),
        Job.state == JobState.DONE,
        Job.outcome.in_(bindparam("outcomes", expanding=True)),
    )
    .order_by(Job.id)
    .limit(1)
)
OLDEST_OF_ROUND = OLDEST.where(Job.round_id == bindparam("round"))
FORGET = delete(_EVALUATIONS).where(_EVALUATIONS.c.job_id == bindparam("job"))
SEEN = update(_WORKERS).where(_WORKERS.c.id == bindparam("worker"))


def _upsert(insert: Callable[..., Any]) -> Executable:
    added = insert(_EVALUATIONS)
    key = list(_EVALUATIONS.primary_key)
    changed = {
        column.name: added.excluded[column.name] for column in _EVALUATIONS.c if column not in set(key)
    }
    upserted: Executable = added.on_conflict_do_update(index_elements=key, set_=changed)
    return upserted


EVALUATED = {"sqlite": _upsert(sqlite.insert), "postgresql": _upsert(postgresql.insert)}
