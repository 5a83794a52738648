"""What a user does to a round that runs or has ended: cancel it, or have it tried again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlalchemy.orm import Session

from db import events, queue
from db.events import EventKind
from db.tables import Decision, Job, Round, RoundState
from orchestrator import engine, stored_jobs, stored_plan
from orchestrator.rounds import chains, stored_round
from orchestrator.rules import Scope
from orchestrator.search import JobKey
from orchestrator.verdicts import Verdict
from orchestrator.views.shapes import ChangeView
from worker.job import Outcome


def cancel(session: Session, name: str, *, by: str, now: datetime) -> ChangeView:
    """Ends a round: nothing more is started, what is decided stays.

    A blocked one no longer waits for its parent's retry. Changes nothing once it has ended otherwise.
    """
    row = stored_round.locked(session, stored_round.find(session, name).id)
    if not chains.can_cancel(row.state):
        return ChangeView(round=name, state=row.state, changed=False)
    row.state, row.reason, row.finished_at = RoundState.CANCELLED, None, now
    events.append(session, row.id, EventKind.CANCELLED, now=now, by=by)
    queue.end_unfinished(
        session, row.id, now=now, outcome=Outcome.CANCELLED, reason="the round was cancelled"
    )
    engine.start_children(session, row, now)
    return ChangeView(round=name, state=row.state, changed=True)


def retry(session: Session, name: str, *, by: str, now: datetime) -> ChangeView:
    """Runs again what could not be measured; what was measured stays.

    A cancelled round goes on, one that was held up too, a blocked one looks again whether it can start, and rounds
    that were blocked by this one wait again. Changes nothing where there is nothing of that kind. Raises BrokenRound.
    """
    found = stored_round.find(session, name)
    parent = None if found.after_id is None else stored_round.locked(session, found.after_id)
    row = stored_round.locked(session, found.id)
    failed = _to_run_again(session, row)
    if not chains.can_retry(row.state, row.reason, len(failed)):
        return ChangeView(round=name, state=row.state, changed=False)
    was = row.state
    events.append(session, row.id, EventKind.RETRIED, now=now, by=by, jobs=len(failed))
    queue.run_again(failed)
    _take_back_decisions(session, row, failed)
    has_jobs = session.scalar(select(Job.id).where(Job.round_id == row.id).limit(1)) is not None
    never_started = parent if was is RoundState.BLOCKED or not has_jobs else None
    row.state = RoundState.ACTIVE if never_started is None else RoundState.WAITING
    row.reason, row.finished_at = None, None
    _wait_again(session, row, now)
    if never_started is None:
        engine.advance(session, row.id, now=now)
    else:
        engine.start(session, row, never_started, now)
    is_still_blocked = was is row.state is RoundState.BLOCKED
    return ChangeView(round=name, state=row.state, changed=not is_still_blocked)


def _to_run_again(session: Session, row: Round) -> list[Job]:
    """What failed; where variants are ranked, only what the plan still has, and of each task the first stage of it.

    What failed later may no longer be wanted then. If it is, the next retry finds it.
    """
    failed = session.scalars(select(Job).where(*stored_jobs.unmeasured(row.id))).all()
    resolved = stored_round.resolve(row) if failed else None
    if resolved is None or resolved.search.rule.scope is not Scope.STAGE:
        return list(failed)
    planned, _ = stored_plan.current(session, row.id, resolved)
    has = set(planned.jobs)
    wanted = [job for job in failed if JobKey(job.task, job.stage, job.variant, job.seed) in has]
    place = resolved.search.all_stages.index
    first: dict[str, int] = {}
    for job in wanted:
        first[job.task] = min(place(job.stage), first.get(job.task, place(job.stage)))
    return [job for job in wanted if place(job.stage) == first[job.task]]


def _take_back_decisions(session: Session, row: Round, failed: Sequence[Job]) -> None:
    """Those that a run without numbers left open, and those that were taken together with it, or after that."""
    search = stored_round.resolve(row).search
    stages = search.all_stages
    taken_back: list[ColumnElement[bool]] = [Decision.decision == Verdict.UNDECIDED]
    for task in {job.task for job in failed}:
        first = len(search.stages)  # what confirms, all that was promoted together
        if search.rule.scope is Scope.STAGE:
            first = min(stages.index(job.stage) for job in failed if job.task == task)
        taken_back.append(and_(Decision.task == task, Decision.stage.in_(stages[first:])))
    of_round = (Decision.round_id == row.id, Decision.decision != Verdict.NO_OP)
    session.execute(delete(Decision).where(*of_round, or_(*taken_back)))


def _wait_again(session: Session, parent: Round, now: datetime) -> None:
    """Rounds that were blocked because of this one wait for it, and so on down the chain."""
    for child in engine.children(session, parent, RoundState.BLOCKED):
        engine.start_or_block(session, child, parent, now)
        _wait_again(session, child, now)
