"""What the database says of rounds, jobs and workers, as views: reads only, a page at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import Session, aliased

from db import events
from db.events import EventKind
from db.tables import Decision, Evaluation, Job, JobState, Round, RoundState, Worker
from orchestrator import engine, interventions
from orchestrator.errors import NotFound
from orchestrator.evidence import Evidence
from orchestrator.planner import SearchSpec, Verdict
from orchestrator.rules import Scope, UnknownRule, rule_class
from orchestrator.views import (
    DecisionView,
    EvaluationView,
    EventView,
    Funnel,
    JobView,
    NoiseFloor,
    RoundLine,
    RoundView,
    StatusView,
    WorkerState,
    WorkerView,
)
from worker.job import BASELINE, Outcome

AnySelect = Select[*tuple[Any, ...]]
AnyRow = Row[*tuple[Any, ...]]

SILENT_AFTER = timedelta(seconds=60)
Parent = aliased(Round)


class Slice(NamedTuple):
    """Which part of a list is wanted: at most `limit` items after the one with the id `after`."""

    after: int | None = None
    limit: int = 50


class Arms(NamedTuple):
    """How far a round is: an arm (task, variant, seed) that can be measured is judged once at the first stage."""

    total: int | None  # None while variants are yet to come from other rounds, or without the round's rule
    verdicts: Mapping[str, Mapping[str, int]]  # decisions by stage, in their order, and verdict

    @property
    def judged(self) -> int:
        """Arms with a verdict."""
        return self._first - self.undecided

    @property
    def undecided(self) -> int:
        """Arms that could not be measured at the first stage."""
        return self._at_first.get(Verdict.UNDECIDED, 0)

    @property
    def is_unmeasured(self) -> bool:
        """Whether no arm could be measured."""
        return self.undecided > 0 and self.undecided + self._at_first.get(Verdict.NO_OP, 0) == self._first

    @property
    def _first(self) -> int:
        return sum(self._at_first.values())

    @property
    def _at_first(self) -> Mapping[str, int]:
        return next(iter(self.verdicts.values()), {})


class Found(NamedTuple):
    """A part of a list, with the id of its last item where more follow."""

    items: Sequence[Any]
    last: int | None


def rounds(session: Session, part: Slice, state: RoundState | None = None) -> Found:
    """Rounds with their progress, the newest first."""
    query = select(Round.id, *_LINE).outerjoin(Parent, Parent.id == Round.after_id).order_by(Round.id.desc())
    if part.after is not None:
        query = query.where(Round.id < part.after)
    if state is not None:
        query = query.where(Round.state == state)
    rows, last = _cut(session, query, part)
    counts = _Counts.of(session, [row.id for row in rows])
    return Found([RoundLine(**_line(row, counts)) for row in rows], last)


def newer(session: Session, part: Slice, state: RoundState | None = None) -> int | None:
    """`after` of the part of the list of rounds that comes before this one; None for the first part."""
    query = select(Round.id).where(Round.id >= part.after).order_by(Round.id).offset(part.limit).limit(1)
    if state is not None:
        query = query.where(Round.state == state)
    return session.scalar(query)


def arms(session: Session, names: Collection[str]) -> dict[str, Arms]:
    """How many arms of these rounds have been judged, and how, by the rounds' names."""
    columns = (Round.id, Round.name, Round.spec, Round.selected)
    rows = session.execute(select(*columns).where(Round.name.in_(names))).all()
    by = (Decision.round_id, Decision.stage, Decision.decision)
    query = select(*by, func.count()).where(Decision.round_id.in_([row.id for row in rows])).group_by(*by)
    counts = {(round_id, stage, verdict): count for round_id, stage, verdict, count in session.execute(query)}
    return {row.name: _arms(row, counts) for row in rows}


def _arms(row: AnyRow, counts: Mapping[tuple[int, str, str], int]) -> Arms:
    spec, variants = row.spec, row.spec["variants"] if row.selected is None else row.selected
    of_stage = {
        stage["name"]: {
            verdict.value: counts[row.id, stage["name"], verdict]
            for verdict in Verdict
            if (row.id, stage["name"], verdict) in counts
        }
        for stage in spec["stages"]
    }
    are_known = all("settings" in variant for variant in variants)
    return Arms(
        total=_judged_at_first(spec, len(variants)) if are_known else None,
        verdicts={stage: verdicts for stage, verdicts in of_stage.items() if verdicts},
    )


def _judged_at_first(spec: Mapping[str, Any], n_variants: int) -> int | None:
    """How many decisions there will be on the first stage of a round; None where its rule is not installed here."""
    try:
        is_per_seed = rule_class(spec["prune"]["rule"]).scope is Scope.SEED
    except UnknownRule:
        return None
    arms = n_variants + (spec.get("control") is not None)
    return len(spec["tasks"]) * arms * (len(spec["seeds"]) if is_per_seed else 1)


def outcomes(session: Session, round_id: int) -> dict[str, int]:
    """How many jobs of a round have ended how."""
    query = select(Job.outcome, func.count()).where(Job.round_id == round_id, Job.state == JobState.DONE)
    return {str(outcome): count for outcome, count in session.execute(query.group_by(Job.outcome))}


def round_(session: Session, name: str) -> RoundView:
    """One round; raises NotFound."""
    row = engine.find(session, name)
    resolved = engine.resolve(row)
    parent = session.scalar(select(Round.name).where(Round.id == row.after_id))
    counts = _Counts.of(session, [row.id])
    search = resolved.search
    return RoundView(
        round=row.name,
        state=row.state,
        reason=row.reason,
        after=parent,
        created_at=row.created_at,
        finished_at=row.finished_at,
        jobs=counts.jobs(row.id),
        decisions=counts.decisions(row.id),
        tasks=search.tasks,
        variants=search.variants,
        no_ops=tuple(name for name in search.variants if name in search.no_ops),
        stages=search.all_stages,
        confirm_stage=None if search.confirmation is None else search.confirmation.stage,
        seeds=search.seeds,
        rule=resolved.spec.prune.rule,
        min_delta=resolved.spec.prune.min_delta,
        metric=resolved.spec.prune.metric,
        funnel=_funnel(session, row.id, search, counts, knows_its_variants=not resolved.spec.selections),
        noise_floor=_noise_floor(session, row.id, search),
        n_events=row.n_events,
    )


def _noise_floor(session: Session, round_id: int, search: SearchSpec) -> NoiseFloor | None:
    if search.control is None:
        return None
    of_it = (Decision.round_id == round_id, Decision.variant == search.control)
    at_first = select(Decision.decision).where(*of_it, Decision.stage == search.stages[0])
    verdicts = [verdict for verdict in session.scalars(at_first) if verdict != Verdict.UNDECIDED]
    return NoiseFloor(judged=len(verdicts), promoted=verdicts.count(Verdict.PROMOTED))


def _funnel(
    session: Session, round_id: int, search: SearchSpec, counts: _Counts, *, knows_its_variants: bool
) -> Funnel:
    decided = counts.decisions(round_id)
    cached = select(func.count()).where(
        Job.round_id == round_id, Job.state == JobState.DONE, Job.outcome == Outcome.CACHED
    )
    promoted = select(func.count()).where(
        Decision.round_id == round_id,
        Decision.decision == Verdict.PROMOTED,
        Decision.stage == search.stages[-1],
    )
    return Funnel(
        planned=search.most_jobs if knows_its_variants else None,
        done=counts.jobs(round_id)[JobState.DONE],
        cached=session.scalars(cached).one(),
        pruned=decided.get(Verdict.PRUNED, 0),
        rejected=decided.get(Verdict.REJECTED, 0),
        promoted=session.scalars(promoted).one(),
        confirmed=decided.get(Verdict.CONFIRMED, 0),
    )


def submitted_by(session: Session, name: str) -> str | None:
    """Who submitted a round, where that was recorded; raises NotFound."""
    first = events.since(session, engine.find(session, name).id, 0, limit=1)
    return first[0].data.get("by") if first and first[0].kind is EventKind.SUBMITTED else None


def jobs(session: Session, name: str, part: Slice, state: JobState | None = None) -> Found:
    """The jobs of a round in the order in which they were made; raises NotFound."""
    round_id = engine.find(session, name).id
    query = _jobs().where(Job.round_id == round_id, Job.id > (part.after or 0)).order_by(Job.id)
    if state is not None:
        query = query.where(Job.state == state)
    rows, last = _cut(session, query, part)
    return Found([JobView(**row._mapping) for row in rows], last)


def job(session: Session, job_id: int) -> JobView:
    """One job; raises NotFound."""
    row = session.execute(_jobs().where(Job.id == job_id)).first()
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return JobView(**row._mapping)


def baseline(session: Session, of: JobView) -> JobView | None:
    """The job that a variant's job is measured against, once there is one."""
    same = (Round.name == of.round, Job.task == of.task, Job.stage == of.stage, Job.seed == of.seed)
    row = session.execute(_jobs().where(*same, Job.variant == BASELINE)).first()
    return None if row is None else JobView(**row._mapping)


def unmeasured(session: Session, round_id: int) -> int:
    """How many jobs of a round have ended without a result: what a retry would run again."""
    failed = select(func.count()).select_from(Job).where(*interventions.unmeasured(round_id))
    return session.scalars(failed).one()


def evaluations(session: Session, job_id: int) -> list[EvaluationView]:
    """The learning curve of a job, or of the one whose result it has; raises NotFound."""
    source = job(session, job_id).cached_from or job_id
    columns = [getattr(Evaluation, name) for name in EvaluationView.model_fields]
    query = select(*columns).where(Evaluation.job_id == source).order_by(Evaluation.step)
    return [EvaluationView(**row._mapping) for row in session.execute(query)]


def decisions(session: Session, name: str, part: Slice, task: str | None = None) -> Found:
    """The decisions of a round, or of one of its tasks, as they were taken; raises NotFound."""
    round_id = engine.find(session, name).id
    query = (
        select(Decision.id, *_DECISION)
        .where(Decision.round_id == round_id, Decision.id > (part.after or 0))
        .order_by(Decision.id)
    )
    if task is not None:
        query = query.where(Decision.task == task)
    rows, last = _cut(session, query, part)
    return Found([_decision_view(row) for row in rows], last)


def _decision_view(row: AnyRow) -> DecisionView:
    columns = _without_id(row)
    stored = columns.pop("evidence")
    rests_on = Evidence.from_json(stored) if stored else None
    return DecisionView(
        **columns,
        d_acc_ci=None if rests_on is None else rests_on.d_acc_ci,
        p_value=None if rests_on is None else rests_on.p_value,
        seeds=tuple(rests_on.by_seed) if rests_on else (columns["seed"],),
    )


def events_since(session: Session, round_id: int, number: int, limit: int = 500) -> list[EventView]:
    """What happened in a round after the event of this number."""
    return [
        EventView(number=event.number, at=event.at, kind=event.kind, job=event.job_id, data=event.data)
        for event in events.since(session, round_id, number, limit)
    ]


def workers(
    session: Session, now: datetime, *, limit: int = 100, ids: Collection[int] | None = None
) -> list[WorkerView]:
    """The workers, or those of these ids; those first that were seen last."""
    query = select(Worker).order_by(Worker.seen_at.desc(), Worker.id.desc()).limit(limit)
    rows = session.scalars(query if ids is None else query.where(Worker.id.in_(ids))).all()
    running = _jobs().where(Job.state == JobState.RUNNING, Job.worker_id.in_([row.id for row in rows]))
    busy = {row.worker: JobView(**row._mapping) for row in session.execute(running)}
    return [
        WorkerView(
            id=row.id,
            host=row.host,
            pid=row.pid,
            device=row.device,
            state=_worker_state(row.stopped_at, row.seen_at, row.paused, now),
            started_at=row.started_at,
            seen_at=row.seen_at,
            stopped_at=row.stopped_at,
            reason=row.paused,
            job=busy.get(row.id),
        )
        for row in rows
    ]


def status(session: Session, now: datetime) -> StatusView:
    """The whole service in a few numbers."""
    of_jobs = _count(session, Job.state)
    of_workers = dict.fromkeys(WorkerState, 0)
    for stopped_at, seen_at, paused in session.execute(
        select(Worker.stopped_at, Worker.seen_at, Worker.paused)
    ):
        of_workers[_worker_state(stopped_at, seen_at, paused, now)] += 1
    return StatusView(
        version=version("fsq"),
        rounds=rounds_by_state(session),
        jobs={state: of_jobs.get(state, 0) for state in JobState},
        workers=of_workers,
    )


def rounds_by_state(session: Session) -> dict[RoundState, int]:
    """How many rounds there are in each state."""
    found = _count(session, Round.state)
    return {state: found.get(state, 0) for state in RoundState}


def stamp(session: Session) -> str:
    """Changes whenever anything happens in any round: what a list of rounds can be cached under."""
    query = select(func.count(), func.coalesce(func.sum(Round.n_events), 0)).select_from(Round)
    return ".".join(map(str, session.execute(query).one()))


def _worker_state(
    stopped_at: datetime | None, seen_at: datetime, paused: str | None, now: datetime
) -> WorkerState:
    if stopped_at is not None:
        return WorkerState.STOPPED
    if now - seen_at > SILENT_AFTER:
        return WorkerState.SILENT
    return WorkerState.ALIVE if paused is None else WorkerState.PAUSED


_LINE = (
    Round.name.label("round"),
    Round.state,
    Round.reason,
    Parent.name.label("after"),
    Round.created_at,
    Round.finished_at,
)
_DECISION = (
    Decision.task,
    Decision.stage,
    Decision.variant.label("config"),
    Decision.seed,
    Decision.decision,
    Decision.d_acc,
    Decision.d_loss,
    Decision.evidence,
    Decision.reason,
    Decision.created_at.label("decided_at"),
)


def _jobs() -> AnySelect:
    """Jobs with the columns of JobView."""
    last_step = (
        select(func.max(Evaluation.step))
        .where(Evaluation.job_id == func.coalesce(Job.cached_from_id, Job.id))
        .scalar_subquery()
    )
    return select(
        Job.id,
        Round.name.label("round"),
        Job.task,
        Job.stage,
        Job.variant.label("config"),
        Job.seed,
        Job.state,
        Job.outcome,
        Job.reason,
        Job.attempts,
        Job.result["metrics"]["best_val_tok_acc"].as_float().label("best_val_tok_acc"),
        last_step.label("step"),
        Job.fingerprint,
        Job.cached_from_id.label("cached_from"),
        Job.worker_id.label("worker"),
        Job.created_at,
        Job.started_at,
        Job.finished_at,
    ).join(Round)


def _cut(session: Session, query: AnySelect, part: Slice) -> tuple[Sequence[AnyRow], int | None]:
    """At most `limit` rows, and the id of the last one if there are more."""
    rows = session.execute(query.limit(part.limit + 1)).all()
    if len(rows) <= part.limit:
        return rows, None
    kept = rows[: part.limit]
    return kept, kept[-1].id


def _without_id(row: AnyRow) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name != "id"}


def _line(row: AnyRow, counts: _Counts) -> dict[str, Any]:
    return _without_id(row) | {"jobs": counts.jobs(row.id), "decisions": counts.decisions(row.id)}


def _count(session: Session, column: Any) -> dict[Any, int]:
    return {value: count for value, count in session.execute(select(column, func.count()).group_by(column))}  # noqa: C416


class _Counts(NamedTuple):
    """Jobs by state and decisions by verdict, of some rounds."""

    by_state: Mapping[tuple[int, JobState], int]
    by_verdict: Mapping[tuple[int, str], int]

    @classmethod
    def of(cls, session: Session, round_ids: Sequence[int]) -> _Counts:
        def count(of_round: Any, what: Any) -> dict[tuple[int, Any], int]:
            query = (
                select(of_round, what, func.count()).where(of_round.in_(round_ids)).group_by(of_round, what)
            )
            return {(round_id, value): number for round_id, value, number in session.execute(query)}

        return cls(count(Job.round_id, Job.state), count(Decision.round_id, Decision.decision))

    def jobs(self, round_id: int) -> dict[JobState, int]:
        return {state: self.by_state.get((round_id, state), 0) for state in JobState}

    def decisions(self, round_id: int) -> dict[str, int]:
        return {
            verdict.value: self.by_verdict[round_id, verdict]
            for verdict in Verdict
            if (round_id, verdict) in self.by_verdict
        }
