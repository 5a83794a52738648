"""Storing rounds and what the planner derives for them: the thin shell around `planner.plan`.

`advance` may be called at any time, twice, by anyone, after any crash: it comes to the same state.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from db import events, queue, tables
from db.events import EventKind
from db.tables import JobState, RoundState
from orchestrator import chains
from orchestrator.errors import BadRound, Conflict, NotFound, Problem
from orchestrator.planner import Decision, JobKey, Plan, State, Verdict, plan
from orchestrator.results import Standing, standings
from orchestrator.spec import MAX_NAME, ResolvedRound, RoundSpec
from worker.job import BASELINE, MEASURED, JobSpec, Outcome, RoundFacts


@dataclass(frozen=True)
class Submission:
    """A round in the database, and whether this call put it there."""

    round_id: int
    is_new: bool


@dataclass(frozen=True)
class Taken:
    """A decision, and in which round it fell."""

    round: str
    decision: Decision


@dataclass(frozen=True)
class Advance:
    """What one call of `advance` added, in the round and in those that it started."""

    decisions: tuple[Taken, ...]
    closed_trajectories: tuple[str, ...]  # no later stage will continue from these


def submit(session: Session, resolved: ResolvedRound, source: str, *, by: str, now: datetime) -> Submission:
    """Stores a round and its first jobs; the same round again changes nothing.

    Raises Conflict when the name is taken by a round that asks for something else, or whose data differ; NotFound
    when it comes after a round that is not known; BadRound when it takes variants that cannot come.
    """
    name = resolved.spec.round
    existing = session.scalars(select(tables.Round).where(tables.Round.name == name)).first()
    if existing is not None:
        if existing.digest != resolved.digest:
            raise Conflict(
                f"a round named {name!r} exists and differs from this one (its settings, its data or its "
                "checkpoint); give this one another name"
            )
        return Submission(existing.id, is_new=False)
    after = resolved.spec.parent
    parent = _locked(session, after.round) if after else None
    _check_sources(session, resolved.spec)
    row = tables.Round(
        name=name,
        state=RoundState.WAITING if parent else RoundState.ACTIVE,
        after_id=parent and parent.id,
        digest=resolved.digest,
        source=source,
        spec=resolved.spec.model_dump(mode="json"),
        facts=resolved.facts.model_dump(mode="json"),
        created_at=now,
    )
    session.add(row)
    session.flush()
    events.append(session, row.id, EventKind.SUBMITTED, now=now, by=by)
    if parent is None:
        events.append(session, row.id, EventKind.STARTED, now=now)
        advance(session, row.id, now=now)
    else:
        _start(session, row, parent, now)
    return Submission(row.id, is_new=True)


def find(session: Session, name: str) -> tables.Round:
    """The round of this name; raises NotFound."""
    row = session.scalars(select(tables.Round).where(tables.Round.name == name)).first()
    if row is None:
        raise NotFound(f"there is no round named {name!r} (`fsq status` lists them)")
    return row


def _check_sources(session: Session, spec: RoundSpec) -> None:
    """Raises NotFound, or BadRound where a round that variants come from will not have ended or lacks the stage."""
    for selection in spec.selections:
        source = find(session, selection.source)
        stages = [stage["name"] for stage in source.spec["stages"]]
        if selection.by is not None and selection.by not in stages:
            problem = f"the round {source.name} has no stage {selection.by!r}; it has {', '.join(stages)}"
        elif spec.parent and spec.parent.round != source.name and source.state not in chains.ENDED:
            problem = f"the round {source.name} has not ended; only the one named in `after` is waited for"
        else:
            continue
        raise BadRound(spec.round, [Problem("variants", None, problem)])


def _locked(session: Session, name: str) -> tables.Round:
    """The round of this name as it is now, held until the transaction ends; raises NotFound."""
    return session.get_one(tables.Round, find(session, name).id, with_for_update=True, populate_existing=True)


def resolve(row: tables.Round) -> ResolvedRound:
    """The round as it was submitted, with the variants that it has taken from others since."""
    return _resolved(json.dumps(_spec_json(row)), json.dumps(row.facts))


@lru_cache(maxsize=64)
def _resolved(spec: str, facts: str) -> ResolvedRound:
    """Validating a large round takes longer than all else that is done with it."""
    return ResolvedRound(RoundSpec.model_validate_json(spec), RoundFacts.model_validate_json(facts))


def _spec_json(row: tables.Round) -> dict[str, Any]:
    return row.spec if row.selected is None else row.spec | {"variants": row.selected}


def advance(session: Session, round_id: int, *, now: datetime) -> Advance:
    """Stores the decisions and jobs that follow from what has finished, in the caller's transaction."""
    row = session.get_one(tables.Round, round_id, with_for_update=True)
    if row.state is not RoundState.ACTIVE:
        return Advance((), ())
    resolved = resolve(row)
    while True:
        planned, standings = current_plan(session, row, resolved)
        missing = [key for key in planned.jobs if key not in standings]
        new = [_new_job(session, row.id, resolved.job(key), key, now) for key in missing]
        session.add_all(new)
        session.flush()
        _tell_of_cached(session, new, now)
        if all(job.state is not JobState.DONE for job in new):
            break
    decisions = _store_new(session, row, planned, now)
    taken = tuple(Taken(row.name, decision) for decision in decisions)
    advanced = Advance(taken, tuple(_closed(resolved, planned, decisions)))
    if planned.state is State.FINISHED:
        row.state, row.finished_at = RoundState.FINISHED, now
        events.append(session, row.id, EventKind.FINISHED, now=now)
        return _start_children(session, row, now, advanced)
    return advanced


def _start_children(session: Session, row: tables.Round, now: datetime, advanced: Advance) -> Advance:
    """Starts or blocks the rounds that wait for one that has ended; adds what follows to `advanced`."""
    session.flush()
    waiting = select(tables.Round).where(
        tables.Round.after_id == row.id, tables.Round.state == RoundState.WAITING
    )
    for child in session.scalars(waiting.order_by(tables.Round.id)).all():
        followed = _start(session, child, row, now)
        advanced = Advance(
            advanced.decisions + followed.decisions,
            advanced.closed_trajectories + followed.closed_trajectories,
        )
    return advanced


def _start(session: Session, row: tables.Round, parent: tables.Round, now: datetime) -> Advance:
    """Starts, blocks or leaves waiting a round that comes after another."""
    spec = RoundSpec.from_json(row.spec)
    assert spec.parent is not None  # noqa: S101  (it has one)
    begun = chains.start(_parent(parent), spec.parent.when)
    if begun.state is RoundState.ACTIVE and spec.selections:
        variants = with_selected(session, spec).named
        row.selected = [variant.model_dump(mode="json") for variant in variants]
        if not variants:
            begun = chains.Start(RoundState.BLOCKED, _nothing_selected(spec))
    row.state, row.reason = begun.state, begun.reason
    if begun.state is RoundState.ACTIVE:
        events.append(session, row.id, EventKind.STARTED, now=now)
        return advance(session, row.id, now=now)
    if begun.state is RoundState.BLOCKED:
        row.finished_at = now
        events.append(session, row.id, EventKind.BLOCKED, now=now, reason=begun.reason)
        return _start_children(session, row, now, Advance((), ()))
    return Advance((), ())


def unended_sources(session: Session, spec: RoundSpec) -> list[str]:
    """The rounds that variants will come from and that have not ended; raises NotFound."""
    sources = {selection.source: find(session, selection.source) for selection in spec.selections}
    return [name for name, source in sources.items() if source.state not in chains.ENDED]


def with_selected(session: Session, spec: RoundSpec) -> RoundSpec:
    """The round with the variants that its selections come to; the source rounds have ended. Raises NotFound.

    A variant that is there already is not added again; one of the same name that differs gets the source's name too.
    """
    variants = {variant.name: variant for variant in spec.named}
    for selection in spec.selections:
        source = find(session, selection.source)
        offered = {variant.name: variant for variant in resolve(source).spec.named}
        for name in chains.choose(_decided(source, selection.by), selection.where, selection.top):
            taken = offered[name]
            if variants.setdefault(name, taken) != taken:
                new_name = f"{name}.{source.name}"[:MAX_NAME]
                variants[new_name] = taken.model_copy(update={"name": new_name})
    return spec.model_copy(update={"variants": tuple(variants.values())})


def _decided(source: tables.Round, by: str | None) -> list[chains.Decided]:
    stage = by or source.spec["stages"][-1]["name"]
    return [
        chains.Decided(decision.variant, Verdict(decision.decision), decision.d_acc)
        for decision in source.decisions
        if decision.stage == stage
    ]


def _nothing_selected(spec: RoundSpec) -> str:
    sources = ", ".join(dict.fromkeys(selection.source for selection in spec.selections))
    return f"round {sources} has no variant of the kind asked for"


def _parent(row: tables.Round) -> chains.Parent:
    last = row.spec["stages"][-1]["name"]
    verdicts = [(decision.stage, Verdict(decision.decision)) for decision in row.decisions]
    trained = [verdict for _, verdict in verdicts if verdict is not Verdict.NO_OP]
    return chains.Parent(
        name=row.name,
        state=row.state,
        promoted=sum(stage == last and verdict is Verdict.PROMOTED for stage, verdict in verdicts),
        measured=not trained or any(verdict is not Verdict.UNDECIDED for verdict in trained),
    )


def advance_job(session: Session, job_id: int, *, now: datetime) -> Advance:
    """Advances the round of a job."""
    return advance(session, session.get_one(tables.Job, job_id).round_id, now=now)


def advance_all(session: Session, *, now: datetime) -> None:
    """Advances every round that is not over: what a crash between a completion and its decision left undone."""
    for row in session.scalars(
        select(tables.Round).where(tables.Round.state == RoundState.ACTIVE).order_by(tables.Round.id)
    ):
        advance(session, row.id, now=now)


def live_trajectories(session: Session) -> set[str]:
    """Trajectories of the rounds that are not over: a later stage may continue from them."""
    query = select(tables.Job).join(tables.Round).where(tables.Round.state == RoundState.ACTIVE)
    return {JobSpec.from_json(job.payload).trajectory for job in session.scalars(query)}


def job_key(job: tables.Job) -> JobKey:
    """What names a stored job within its round."""
    return JobKey(job.task, job.stage, job.variant, job.seed)


def current_plan(
    session: Session, row: tables.Round, resolved: ResolvedRound
) -> tuple[Plan, Mapping[JobKey, Standing]]:
    """What follows from the jobs that have finished, and where every job stands."""
    found = standings(session, row.id, resolved.spec.prune.metric)
    finished = {key: stands.measurement for key, stands in found.items() if stands.measurement is not None}
    return plan(resolved.search, finished), found


def _new_job(session: Session, round_id: int, spec: JobSpec, key: JobKey, now: datetime) -> tables.Job:
    """A queued job, or a finished one where an equal job's result is known."""
    job = tables.Job(
        **key._asdict(),
        round_id=round_id,
        fingerprint=spec.fingerprint,
        payload=spec.model_dump(mode="json"),
        state=JobState.QUEUED,
        not_before=now,
        created_at=now,
    )
    known = queue.known_result(session, spec.fingerprint, MEASURED)
    if known is not None:
        job.state, job.outcome, job.finished_at = JobState.DONE, Outcome.CACHED, now
        job.result, job.reason, job.cached_from_id = known.result, known.reason, known.id
    return job


def _tell_of_cached(session: Session, jobs: Sequence[tables.Job], now: datetime) -> None:
    for job in jobs:
        if job.state is JobState.DONE:
            ended = {"outcome": job.outcome, "reason": job.reason}
            events.append(session, job.round_id, EventKind.JOB_ENDED, now=now, job_id=job.id, **ended)


def _store_new(session: Session, row: tables.Round, planned: Plan, now: datetime) -> tuple[Decision, ...]:
    keys = (tables.Decision.task, tables.Decision.stage, tables.Decision.variant, tables.Decision.seed)
    stored = {
        JobKey(*key) for key in session.execute(select(*keys).where(tables.Decision.round_id == row.id))
    }
    new = tuple(decision for decision in planned.decisions if decision.key not in stored)
    session.add_all(
        tables.Decision(
            **decision.key._asdict(),
            round_id=row.id,
            decision=decision.verdict,
            reason=decision.reason,
            d_acc=decision.d_acc,
            d_loss=decision.d_loss,
            created_at=now,
        )
        for decision in new
    )
    for decision in new:
        task, stage, variant, seed = decision.key
        named: dict[str, Any] = {"task": task, "stage": stage, "config": variant, "seed": seed}
        verdict: dict[str, Any] = {
            "decision": decision.verdict,
            "reason": decision.reason,
            "d_acc": decision.d_acc,
        }
        events.append(session, row.id, EventKind.DECIDED, now=now, **named, **verdict)
    return new


def _closed(resolved: ResolvedRound, planned: Plan, new: Sequence[Decision]) -> Iterable[str]:
    """Trajectories that no later stage continues, now that these decisions have fallen."""
    last = resolved.search.stages[-1]
    for decision in new:
        key = decision.key
        goes_on = decision.verdict is Verdict.PROMOTED and key.stage != last
        if not goes_on and decision.verdict is not Verdict.NO_OP:
            yield resolved.job(key).trajectory
        if (key.task, key.seed) not in planned.open_chains:
            yield resolved.job(key._replace(variant=BASELINE)).trajectory


def retry(session: Session, name: str, *, by: str, now: datetime) -> bool:
    """Runs again what could not be measured; what was measured stays. False when there is nothing of that kind.

    A cancelled round goes on, and rounds that were blocked by this one wait again.
    """
    row = _locked(session, name)
    failed = select(tables.Job).where(
        tables.Job.round_id == row.id,
        tables.Job.state == JobState.DONE,
        tables.Job.outcome.not_in([*MEASURED, Outcome.CACHED]),
    )
    jobs = session.scalars(failed).all()
    if not jobs and row.state is not RoundState.CANCELLED:
        return False
    events.append(session, row.id, EventKind.RETRIED, now=now, by=by, jobs=len(jobs))
    for job in jobs:
        job.state, job.outcome, job.reason, job.result = JobState.QUEUED, None, None, None
        job.attempts, job.not_before, job.finished_at = 0, now, None
    undecided = (tables.Decision.round_id == row.id, tables.Decision.decision == Verdict.UNDECIDED)
    session.execute(delete(tables.Decision).where(*undecided))
    row.state, row.reason, row.finished_at = RoundState.ACTIVE, None, None
    session.flush()
    _wait_again(session, row)
    if row.after_id is not None and not row.jobs:  # cancelled while it waited
        _start(session, row, session.get_one(tables.Round, row.after_id), now)
    else:
        advance(session, row.id, now=now)
    return True


def _wait_again(session: Session, parent: tables.Round) -> None:
    """Rounds that were blocked because of this one wait for it, and so on down the chain."""
    blocked = (tables.Round.after_id == parent.id, tables.Round.state == RoundState.BLOCKED)
    for child in session.scalars(select(tables.Round).where(*blocked).order_by(tables.Round.id)).all():
        child.state, child.reason, child.finished_at = (
            RoundState.WAITING,
            f"waits for round {parent.name}",
            None,
        )
        session.flush()
        _wait_again(session, child)


def cancel(session: Session, name: str, *, by: str, now: datetime) -> bool:
    """Ends a round: nothing more is started, what is decided stays. False when it had ended already."""
    row = _locked(session, name)
    if row.state in chains.ENDED:
        return False
    row.state, row.reason, row.finished_at = RoundState.CANCELLED, None, now
    events.append(session, row.id, EventKind.CANCELLED, now=now, by=by)
    unfinished = select(tables.Job).where(tables.Job.round_id == row.id, tables.Job.state != JobState.DONE)
    for job in session.scalars(unfinished):
        job.state, job.outcome, job.reason = JobState.DONE, Outcome.CANCELLED, "the round was cancelled"
        job.lease_expires_at, job.finished_at = None, now
        job.result = {"outcome": Outcome.CANCELLED}
    _start_children(session, row, now, Advance((), ()))
    return True
