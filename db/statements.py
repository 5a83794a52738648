"""The statements that every job takes many of, written once: building one takes longer than running it.

An UPDATE without values sets the columns that it is given.
"""

from __future__ import annotations

from sqlalchemy import bindparam, case, delete, insert, or_, select, update

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
    infra_failures=case((_IS_PROGRESS, 0), else_=_JOBS.c.infra_failures),
)
# a time further ahead than any pause was set before the clock was put back
_MAY_START = or_(Job.not_before <= bindparam("now"), Job.not_before > bindparam("far"))
_MAY_BE_CLAIMED = (Job.state == JobState.QUEUED, _MAY_START)
_FIRST = select(Job.id).where(Job.round_id == Round.id, *_MAY_BE_CLAIMED).order_by(Job.id).limit(1)
_OLDEST_HERE = _FIRST.correlate(Round).scalar_subquery().label("oldest")
# The round is locked first: whoever looked for a job among those of a locked round would look at, and lock, each.
FREE_ROUND = (
    select(Round.id, _OLDEST_HERE)
    .where(Round.state == RoundState.ACTIVE)
    .order_by(_OLDEST_HERE.nulls_last())
    .limit(1)
    .with_for_update(skip_locked=True, key_share=True)
)
FREE_ROUND_OF = FREE_ROUND.where(Round.id == bindparam("round"))
OLDEST = (
    select(Job.id, Job.round_id, Job.attempts, Job.fencing_token)
    .where(Job.round_id == bindparam("round"), *_MAY_BE_CLAIMED)
    .order_by(Job.id)
    .limit(1)
    .with_for_update(key_share=True)
)
_RUNNING = select(Job).join(Round).where(Job.state == JobState.RUNNING).order_by(Job.id)
RUNNING = _RUNNING.with_for_update(skip_locked=True, key_share=True, of=(Job, Round))
HELD = _RUNNING.where(Job.worker_id == bindparam("worker"))
HELD_FREE = RUNNING.where(Job.worker_id == bindparam("worker"))
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
FORGET = delete(_EVALUATIONS).where(_EVALUATIONS.c.job_id == bindparam("job"))
SEEN = update(_WORKERS).where(_WORKERS.c.id == bindparam("worker"))
STORED = select(_EVALUATIONS.c.step).where(_EVALUATIONS.c.job_id == bindparam("job"))
EVALUATED = insert(_EVALUATIONS)
