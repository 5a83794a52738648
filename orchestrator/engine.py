"""Storing rounds and what the planner derives for them: the thin shell around `planner.plan`.

`advance` may be called at any time, twice, by anyone, after any crash: it comes to the same state.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from socket import gethostname
from typing import Any, NamedTuple

from sqlalchemy import Row, Text, bindparam, cast, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import events, tables
from db.events import EventKind
from db.statements import IS_PARALLEL
from db.tables import JOBS, ROUNDS, JobState, RoundState
from orchestrator import early_stop, stored_plan
from orchestrator.errors import BrokenRound
from orchestrator.evidence import Evidence
from orchestrator.planner import Plan, State
from orchestrator.rounds import chains, selections
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rounds.spec import RoundSpec
from orchestrator.rounds.stored_round import (
    as_broken_round,
    find,
    locked,
    on_candidates,
    resolved_from,
    submitted,
)
from orchestrator.rules import Scope
from orchestrator.search import Decision, JobKey, Lane, SearchSpec
from orchestrator.stored_jobs import Standing
from orchestrator.verdicts import Verdict
from worker.job import BASELINE, JobSpec


@dataclass(frozen=True)
class Submission:
    """A round in the database, and whether this call put it there."""

    round_id: int
    is_new: bool


@dataclass(frozen=True)
class Taken:
    """A decision, in which round it fell, and its evidence."""

    round: str
    decision: Decision
    evidence: Evidence | None = None  # what its delta rests on


@dataclass(frozen=True)
class Advance:
    """What one call of `advance` added, in the round and in those that it started."""

    decisions: tuple[Taken, ...]
    closed_trajectories: tuple[str, ...]  # no later stage will continue from these
    broken: BrokenRound | None = None  # why nothing more follows
    is_whole: bool = True  # whether that is all that follows: the rest takes other transactions

    def __add__(self, other: Advance) -> Advance:
        return Advance(
            self.decisions + other.decisions,
            self.closed_trajectories + other.closed_trajectories,
            self.broken or other.broken,
            self.is_whole and other.is_whole,
        )


NOTHING = Advance((), ())
LONGEST_PORTION = 2.0  # seconds that one transaction spends on what follows: others wait for it
FORESEEING = 0.3  # the share of it for looking up what is known already: storing that takes the rest
DECIDING = (
    1.0  # the least for decisions, as a share of what reading and planning took, which large rounds do anew
)
_BEGAN = (
    "fsq_began"  # in what is known of a session: since when, for a round and those that it starts, together
)

# built once: a job's end takes these
_TO_END = (JobState.QUEUED, JobState.RUNNING)
_UNFINISHED = (
    select(JOBS.c.id).where(JOBS.c.round_id == bindparam("round")).where(JOBS.c.state.in_(_TO_END)).limit(1)
)
_ROUND = select(
    *(ROUNDS.c[name] for name in ("id", "name", "state", "reason", "is_behind")),
    *(cast(ROUNDS.c[name], Text) for name in ("spec", "selected", "facts")),
).with_for_update(key_share=True, of=ROUNDS)
_LOCKED = _ROUND.where(ROUNDS.c.id == bindparam("round"))
_OF_ROUND = update(ROUNDS).where(ROUNDS.c.id == bindparam("round"))
_OTHER = JOBS.alias("other")
_OTHER_UNFINISHED = (
    select(_OTHER.c.id).where(_OTHER.c.round_id == JOBS.c.round_id).where(_OTHER.c.state.in_(_TO_END))
)
_IN_OTHER_TASK = _OTHER_UNFINISHED.where(_OTHER.c.task != JOBS.c.task).exists()
_IN_OTHER_SEED = _OTHER_UNFINISHED.where(_OTHER.c.task == JOBS.c.task, _OTHER.c.seed != JOBS.c.seed).exists()
# Whoever ends or requeues a job has locked its round by that: the others are as they stand now. Whether the round is
# parallel is asked last, as it is in the whole of its text.
_LOCKED_OF_JOB = (
    _ROUND.add_columns(
        JOBS.c.task,
        JOBS.c.seed,
        (_IN_OTHER_TASK & ~IS_PARALLEL).label("other_task"),
        (_IN_OTHER_SEED & ~IS_PARALLEL).label("other_seed"),
    )
    .join(JOBS)
    .where(JOBS.c.id == bindparam("job"))
)


def submit(session: Session, resolved: ResolvedRound, source: str, *, by: str, now: datetime) -> Submission:
    """Stores a round and its first jobs; the same round again changes nothing.

    Raises Conflict when the name is taken by a round that asks for something else, or whose data differ; NotFound
    when it comes after a round that is not known; BadRound when it takes variants that cannot come.
    """
    name = resolved.spec.round
    if (existing := submitted(session, resolved)) is not None:
        return Submission(existing, is_new=False)
    after = resolved.spec.parent
    parent = locked(session, find(session, after.round).id) if after else None
    selections.check(session, resolved.spec)
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
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # somebody else has just submitted a round of this name
        return submit(session, resolved, source, by=by, now=now)
    events.append(session, row.id, EventKind.SUBMITTED, now=now, by=by)
    if parent is None:
        events.append(session, row.id, EventKind.STARTED, now=now)
        advance(session, row.id, now=now)
    else:
        start(session, row, parent, now)
    return Submission(row.id, is_new=True)


def advance(session: Session, round_id: int, *, now: datetime) -> Advance:
    """Stores the decisions and jobs that follow from what has finished, in the caller's transaction.

    Where they are too many for one, the first of them: whoever calls it again goes on from there. Raises BrokenRound.
    """
    return _advance(session, session.execute(_LOCKED, {"round": round_id}).one(), now=now)


def advance_job(session: Session, job_id: int, *, now: datetime) -> Advance:
    """Advances the round of a job that has ended, or is queued again, in this transaction.

    Only the job's lane is looked at, until that is over: what it means for the others is seen then. Where the round
    turns out broken by that, what has followed by then stands. Raises BrokenRound where the lane itself is.
    """
    row = session.execute(_LOCKED_OF_JOB, {"job": job_id}).one()
    ended = EndedJob(row.task, row.seed, row.other_task, row.other_seed)
    return _advance(session, row, now=now, ended=ended)


class EndedJob(NamedTuple):
    """A job whose attempt has ended, and where others of its round have yet to end, if one may run at a time."""

    task: str
    seed: int
    other_task: bool
    other_seed: bool  # of the same task


def _lane(search: SearchSpec, ended: EndedJob) -> Lane | None:
    """The lane of a job; None where one outside is unfinished, after a retry: whose turn it is depends on all."""
    lane = search.lane_of(ended.task, ended.seed)
    is_elsewhere = ended.other_task or (ended.other_seed and lane.seed is not None)
    return None if is_elsewhere else lane


def _advance(session: Session, row: Row[Any], *, now: datetime, ended: EndedJob | None = None) -> Advance:
    """Advances a round by its locked row; `ended` is the job that has, None if any may have."""
    if row.state is not RoundState.ACTIVE:
        return NOTHING
    round_id, resolved = row.id, resolved_from(row.name, row.spec, row.selected, row.facts)
    lane = None if ended is None or row.is_behind else _lane(resolved.search, ended)
    began = time.monotonic()
    until = session.info.setdefault(_BEGAN, began) + LONGEST_PORTION
    planned, standings, are_all = _add_jobs(session, round_id, resolved, lane, until, now)
    planned_at = time.monotonic()
    until = max(until, planned_at + DECIDING * (planned_at - began))
    due = stored_plan.unstored(session, round_id, planned, lane) if are_all else ()
    rest_on = stored_plan.with_evidence(session, resolved, due, standings, until)
    stored_plan.add_decisions(session, round_id, rest_on, now)
    taken = tuple(Taken(row.name, decision, evidence) for decision, evidence in rest_on)
    decisions = [one.decision for one in taken]
    advanced = Advance(taken, tuple(_closed(resolved, planned, decisions, ended, standings)))
    if row.reason is not None:
        _give_reason(session, round_id, None, now)
    is_whole = are_all and len(taken) == len(due)
    if row.is_behind is is_whole:
        session.execute(_OF_ROUND, {"round": round_id, "is_behind": not is_whole})
    if not is_whole:
        return replace(advanced, is_whole=False)
    if planned.state is State.FINISHED and lane is not None:
        try:
            return advanced + advance(session, round_id, now=now)
        except BrokenRound as error:
            return replace(advanced, broken=error)
    if planned.state is State.FINISHED:
        ended_round = locked(session, round_id)
        ended_round.state, ended_round.finished_at = RoundState.FINISHED, now
        events.append(session, round_id, EventKind.FINISHED, now=now)
        return advanced + start_children(session, ended_round, now)
    return advanced


def _add_jobs(
    session: Session, round_id: int, resolved: ResolvedRound, lane: Lane | None, until: float, now: datetime
) -> tuple[Plan, dict[JobKey, Standing], bool]:
    """Stores the jobs that are missing: the plan, where its jobs stand, and whether there was time for all of them.

    What a job leads to whose equal's result is known is planned before the job is stored, many at a time.
    """
    standings = stored_plan.standings(session, round_id, resolved, lane)
    known = stored_plan.Known(session, round_id, resolved, FORESEEING * LONGEST_PORTION)
    while True:
        planned = stored_plan.planned(resolved, standings, lane, known.foresee)
        missing = [key for key in planned.jobs if key not in standings]
        foreseen = {key: known.spec(key) for key in missing if key in known.foreseen}
        standings |= stored_plan.add_jobs(session, round_id, foreseen, known, now)
        specs = {
            key: _with_bounds(session, resolved, key, known.spec(key), standings)
            for key in missing
            if key not in foreseen
        }
        new = stored_plan.add_jobs(session, round_id, specs, known, now)
        standings |= new
        if all(stands.measurement is None for stands in new.values()):
            return planned, standings, True
        if time.monotonic() > until or (known.foreseen and known.is_over):
            return planned, standings, False


def hold_up(session: Session, error: BrokenRound, *, now: datetime) -> None:
    """Notes why a round decides nothing more, once nothing of it is left to run; advancing it takes the note away."""
    round_id = session.scalar(select(tables.Round.id).where(tables.Round.name == error.round))
    if round_id is None:
        return
    row, reason = locked(session, round_id), f"on {gethostname()}: {error}"
    is_at_rest = session.execute(_UNFINISHED, {"round": round_id}).first() is None
    if row.state is RoundState.ACTIVE and is_at_rest and row.reason != reason:
        _give_reason(session, round_id, reason, now)


def is_held_up(session: Session) -> bool:
    """Whether some round is."""
    held_up = select(tables.Round.id).where(
        tables.Round.state == RoundState.ACTIVE, tables.Round.reason.is_not(None)
    )
    return session.scalars(held_up.limit(1)).first() is not None


def _give_reason(session: Session, round_id: int, reason: str | None, now: datetime) -> None:
    events.append(session, round_id, EventKind.HELD_UP, now=now, reason=reason)
    session.execute(_OF_ROUND, {"round": round_id, "reason": reason})


def start_children(session: Session, row: tables.Round, now: datetime) -> Advance:
    """Starts or blocks the rounds that wait for one that has ended, which is locked."""
    followed = NOTHING
    for child in children(session, row, RoundState.WAITING):
        followed += start_or_block(session, child, row, now)
    return followed


def start_or_block(session: Session, row: tables.Round, parent: tables.Round, now: datetime) -> Advance:
    """As `start`; blocks a round that cannot be read here, which is no reason for its parent not to end."""
    try:
        with events.savepoint(session):
            return start(session, row, parent, now)
    except BrokenRound as error:
        session.refresh(row)
        row.state, row.reason, row.finished_at = RoundState.BLOCKED, str(error), now
        events.append(session, row.id, EventKind.BLOCKED, now=now, reason=row.reason)
        return start_children(session, row, now)


def children(session: Session, row: tables.Round, state: RoundState) -> list[tables.Round]:
    """The rounds in a state that come after one which is locked, locked too."""
    session.flush()
    query = select(tables.Round.id).where(tables.Round.after_id == row.id, tables.Round.state == state)
    found = [locked(session, id_) for id_ in session.scalars(query.order_by(tables.Round.id)).all()]
    return [child for child in found if child.state is state]


def start(session: Session, row: tables.Round, parent: tables.Round, now: datetime) -> Advance:
    """Starts, blocks or leaves waiting a round that comes after another; both are locked."""
    with as_broken_round(row.name):
        spec = RoundSpec.from_json(row.spec)
    assert spec.parent is not None  # noqa: S101  (it has one)
    begun = chains.start(_parent(parent), spec.parent.when)
    if begun.state is RoundState.ACTIVE and spec.selections:
        begun = selections.take_over(session, row, spec)
    row.state, row.reason = begun.state, begun.reason
    row.finished_at = now if begun.state is RoundState.BLOCKED else None
    events.append(session, row.id, _BEGUN[begun.state], now=now, reason=begun.reason)
    if begun.state is RoundState.ACTIVE:
        return advance(session, row.id, now=now)
    return start_children(session, row, now) if begun.state is RoundState.BLOCKED else NOTHING


_BEGUN = {
    RoundState.ACTIVE: EventKind.STARTED,
    RoundState.WAITING: EventKind.WAITING,
    RoundState.BLOCKED: EventKind.BLOCKED,
}


_PASSED = {Verdict.PROMOTED, Verdict.CONFIRMED}


def _parent(row: tables.Round) -> chains.Parent:
    last = row.spec["stages"][-1]["name"]
    verdicts = [(decision.stage, Verdict(decision.decision)) for decision in on_candidates(row)]
    trained = [verdict for _, verdict in verdicts if verdict is not Verdict.NO_OP]
    return chains.Parent(
        name=row.name,
        state=row.state,
        promoted=sum(stage == last and verdict in _PASSED for stage, verdict in verdicts),
        measured=not trained or any(verdict is not Verdict.UNDECIDED for verdict in trained),
    )


def active_rounds(session: Session) -> list[int]:
    """The rounds that are not over: a crash between a completion and its decision may have left something undone."""
    active = select(tables.Round.id).where(tables.Round.state == RoundState.ACTIVE).order_by(tables.Round.id)
    return list(session.scalars(active))


def live_trajectories(session: Session, trajectories: Collection[str]) -> set[str]:
    """Those of these trajectories that belong to rounds that are not over: a later stage may continue from them."""
    of_these = tables.Job.trajectory.in_(trajectories)
    query = select(tables.Job.trajectory).join(tables.Round)
    found = session.scalars(query.where(of_these, tables.Round.state == RoundState.ACTIVE))
    return {trajectory for trajectory in found if trajectory is not None}


def _with_bounds(
    session: Session, resolved: ResolvedRound, key: JobKey, spec: JobSpec, found: Mapping[JobKey, Standing]
) -> JobSpec:
    """A job that is missing; a variant's knows where it need not go on."""
    baseline = found.get(key._replace(variant=BASELINE))
    return early_stop.with_bounds(session, resolved, key, spec, baseline and baseline.job_id)


def _closed(
    resolved: ResolvedRound,
    planned: Plan,
    new: Sequence[Decision],
    ended: EndedJob | None,
    known: Collection[JobKey],
) -> Iterable[str]:
    """Trajectories of these jobs that nothing continues, now that decisions have fallen and a job has ended."""
    lane_of = resolved.search.lane_of
    of_variant: dict[tuple[str, str], list[JobKey]] = {}
    for key in known if new else ():
        of_variant.setdefault((key.task, key.variant), []).append(key)
    closed = {key for decision in new for key in _over(resolved, decision, of_variant)}
    touched = {lane_of(decision.key.task, decision.key.seed) for decision in new}
    touched |= set() if ended is None else {lane_of(ended.task, ended.seed)}
    over = touched - set(planned.open_lanes)
    closed |= {key for key in known if key.variant == BASELINE and lane_of(key.task, key.seed) in over}
    return dict.fromkeys(resolved.job(key).trajectory for key in sorted(closed))


def _over(
    resolved: ResolvedRound, decision: Decision, known: Mapping[tuple[str, str], Sequence[JobKey]]
) -> Iterable[JobKey]:
    """The jobs of a variant that nothing goes on with after a decision: those of its stage, or all up to it.

    known: the jobs there are by task and variant.
    """
    task, stage, variant, seed = decision.key
    stages, confirms = resolved.search.stages, resolved.confirms(stage)
    if decision.verdict is Verdict.NO_OP:
        return
    if confirms:
        over = [stage]
    elif decision.verdict is Verdict.PROMOTED:
        over = [stage] if stage in resolved.spec.not_continued(stages) else []
    else:
        over = list(stages[: stages.index(stage) + 1])
    is_alone = resolved.search.rule.scope is Scope.SEED and not confirms
    for key in known.get((task, variant), ()):
        if key.stage in over and (not is_alone or key.seed == seed):
            yield key
