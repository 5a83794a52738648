"""The statements that every job takes many of, written once: building one takes longer than running it.

An UPDATE without values sets the columns that it is given.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Boolean,
    FromClause,
    Row,
    Select,
    and_,
    bindparam,
    case,
    delete,
    insert,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from db.tables import EVALUATIONS, JOBS, ROUNDS, WORKERS, Job, JobState, Round, RoundState

AnySelect = Select[*tuple[Any, ...]]
AnyRow = Row[*tuple[Any, ...]]

REQUEUED = {"state": JobState.QUEUED, "lease_expires_at": None, "worker_id": None}

OF_JOB = update(JOBS).where(JOBS.c.id == bindparam("job"))
OF_HELD = OF_JOB.where(JOBS.c.state == JobState.RUNNING, JOBS.c.fencing_token == bindparam("token"))
UNCOUNTED = OF_HELD.values(
    attempts=JOBS.c.attempts - 1, **{name: bindparam(name) for name in ("not_before", *REQUEUED)}
)
_IS_PROGRESS = JOBS.c.reached < bindparam("step")
REACHED = OF_HELD.values(
    reached=case((_IS_PROGRESS, bindparam("step")), else_=JOBS.c.reached),
    fruitless=case((_IS_PROGRESS, 0), else_=JOBS.c.fruitless),
    infra_failures=case((_IS_PROGRESS, 0), else_=JOBS.c.infra_failures),
)
_AT_WORK = JOBS.alias("at_work")
_WORKS_ON = select(_AT_WORK.c.round_id).where(_AT_WORK.c.state == JobState.RUNNING)
IS_PARALLEL = ROUNDS.c.spec["parallel"].as_boolean()
# After a retry several may be queued where one job at a time is asked for. Of many rounds, those at work are found
# once; of one, only its own jobs are looked at.
MAY_RUN_ANOTHER = or_(ROUNDS.c.id.not_in(_WORKS_ON), IS_PARALLEL)
_THIS_MAY_RUN_ANOTHER = or_(
    ~_WORKS_ON.where(_AT_WORK.c.round_id == bindparam("round_id")).exists(), IS_PARALLEL
)


def _oldest(query: Select[Any], jobs: FromClause) -> Select[Any]:
    """The oldest of these jobs that may be claimed.

    As a range, and part of the order, the state is only found in the index made for this. One value would not count
    for the order, and PostgreSQL, by statistics from before they were done, may look for it through all that are.
    """
    is_queued = jobs.c.state.between(JobState.QUEUED, JobState.QUEUED)
    # a time further ahead than any pause was set before the clock was put back
    may_start = or_(jobs.c.not_before <= bindparam("now"), jobs.c.not_before > bindparam("far"))
    return query.where(is_queued, may_start).order_by(jobs.c.state, jobs.c.id).limit(1)


class is_alone_with(FunctionElement[bool]):  # noqa: N801  (as SQL has it)
    """Whether no other transaction has asked this of a fingerprint; none can, with success, until this one ends."""

    type = Boolean()
    inherit_cache = True


@compiles(is_alone_with, "postgresql")
def _by_lock(element: is_alone_with, compiler: SQLCompiler, **how: Any) -> str:
    return f"pg_try_advisory_xact_lock(hashtextextended({compiler.process(element.clauses, **how)}, 0))"


@compiles(is_alone_with, "sqlite")
def _always(element: is_alone_with, compiler: SQLCompiler, **how: Any) -> str:
    return f"{compiler.process(element.clauses, **how)} IS NOT NULL"  # one writes at a time


_OF_NEXT = (
    "id",
    "round_id",
    "task",
    "stage",
    "variant",
    "seed",
    "payload",
    "fingerprint",
    "trajectory",
    "attempts",
    "fencing_token",
)
_NEXT = select(
    ROUNDS.c.name.label("round"),
    is_alone_with(JOBS.c.fingerprint).label("is_alone"),
    *(JOBS.c[name] for name in _OF_NEXT),
).join(JOBS)
_FIRST = _oldest(select(JOBS.c.id).where(JOBS.c.round_id == ROUNDS.c.id), JOBS).correlate(ROUNDS)
_OLDEST_HERE = _FIRST.scalar_subquery().label("oldest")
# The round is locked first: whoever looked for a job among those of a locked round would look at, and lock, each.
_FREE_ROUND = (
    select(_OLDEST_HERE)
    .where(ROUNDS.c.state == RoundState.ACTIVE, MAY_RUN_ANOTHER)
    .order_by(_OLDEST_HERE.nulls_last())
    .limit(1)
    .with_for_update(skip_locked=True, key_share=True, of=ROUNDS)
)
OF_FREE_ROUND, OF_THIS_FREE_ROUND = (
    _NEXT.where(JOBS.c.id == round_.scalar_subquery())
    for round_ in (_FREE_ROUND, _FREE_ROUND.where(ROUNDS.c.id == bindparam("round_id")))
)
OLDEST = _oldest(
    _NEXT.where(JOBS.c.round_id == bindparam("round_id"), _THIS_MAY_RUN_ANOTHER), JOBS
).with_for_update(key_share=True, of=JOBS)
_RUNNING = select(Job).join(Round).where(Job.state == JobState.RUNNING).order_by(Job.id)
RUNNING = _RUNNING.with_for_update(skip_locked=True, key_share=True, of=(Job, Round))
HELD = _RUNNING.where(Job.worker_id == bindparam("worker"))
HELD_FREE = RUNNING.where(Job.worker_id == bindparam("worker"))
_HAS_EXPIRED = or_(JOBS.c.lease_expires_at < bindparam("now"), JOBS.c.lease_expires_at > bindparam("far"))
EXPIRED = RUNNING.where(_HAS_EXPIRED)
AN_EXPIRED = select(JOBS.c.id).where(JOBS.c.state == JobState.RUNNING, _HAS_EXPIRED).limit(1)
BEHIND = (
    select(ROUNDS.c.id, ROUNDS.c.n_events, ROUNDS.c.reason.is_not(None).label("is_held_up"))
    .where(ROUNDS.c.state == RoundState.ACTIVE, ROUNDS.c.is_behind)
    .order_by(ROUNDS.c.id)
)
_OF_FINGERPRINT = select(JOBS.c.id, JOBS.c.state, JOBS.c.result, JOBS.c.reason).where(
    JOBS.c.fingerprint == bindparam("known")
)
_IS_ANSWER = or_(
    JOBS.c.outcome.in_(bindparam("outcomes", expanding=True)),
    and_(
        JOBS.c.round_id == bindparam("here"), JOBS.c.outcome.in_(bindparam("outcomes_here", expanding=True))
    ),
)
_HAS_RESULT = and_(JOBS.c.state == JobState.DONE, _IS_ANSWER)
KNOWN = _OF_FINGERPRINT.where(_HAS_RESULT).order_by(JOBS.c.id).limit(1)
_RUNS = _OF_FINGERPRINT.where(JOBS.c.state == JobState.RUNNING).limit(1)
RUNNING_OR_KNOWN = union_all(*(select(one.subquery()) for one in (_RUNS, KNOWN)))  # of one moment
ALONE_WITH = select(is_alone_with(bindparam("fingerprint")))
FORGET = delete(EVALUATIONS).where(EVALUATIONS.c.job_id == bindparam("job"))
SEEN = update(WORKERS).where(WORKERS.c.id == bindparam("worker"))
STORED = select(EVALUATIONS.c.step).where(EVALUATIONS.c.job_id == bindparam("job"))
EVALUATED = insert(EVALUATIONS)
