"""How far a round is and what it found, by what it asked for, as views: reads only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.statements import AnyRow
from db.tables import Decision, Job, JobState, Round
from orchestrator import stored_jobs
from orchestrator.errors import BrokenRound
from orchestrator.evidence import Evidence
from orchestrator.findings import doubts
from orchestrator.findings.doubts import Doubts
from orchestrator.rounds import stored_round
from orchestrator.rounds.stored_round import find
from orchestrator.rules import Scope, UnknownRule, rule_class
from orchestrator.search import JobKey, SearchSpec
from orchestrator.verdicts import Verdict
from orchestrator.views.lookup import Counts, Found, Slice, cut, job_columns, without_id
from orchestrator.views.shapes import DecisionView, Funnel, JobView, NoiseFloor, RoundView
from worker.job import BASELINE, Outcome


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
    row = find(session, name)
    resolved = stored_round.resolve(row)
    parent = session.scalar(select(Round.name).where(Round.id == row.after_id))
    counts = Counts.of(session, [row.id])
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
    session: Session, round_id: int, search: SearchSpec, counts: Counts, *, knows_its_variants: bool
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


def baseline(session: Session, of: JobView) -> JobView | None:
    """The job that a variant's job is measured against, once there is one."""
    same = (Round.name == of.round, Job.task == of.task, Job.stage == of.stage, Job.seed == of.seed)
    row = session.execute(job_columns().where(*same, Job.variant == BASELINE)).first()
    return None if row is None else JobView(**row._mapping)


def unmeasured(session: Session, round_id: int) -> int:
    """How many jobs of a round have ended without a result: what a retry would run again."""
    failed = select(func.count()).select_from(Job).where(*stored_jobs.unmeasured(round_id))
    return session.scalars(failed).one()


def decisions(session: Session, name: str, part: Slice, task: str | None = None) -> Found:
    """The decisions of a round, or of one of its tasks, as they were taken; raises NotFound."""
    of_round = find(session, name)
    query = (
        select(Decision.id, *_DECISION)
        .where(Decision.round_id == of_round.id, Decision.id > (part.after or 0))
        .order_by(Decision.id)
    )
    if task is not None:
        query = query.where(Decision.task == task)
    rows, last = cut(session, query, part)
    found = _doubts(session, of_round, rows)
    return Found([_decision_view(row, found.get(row.task)) for row in rows], last)


def _doubts(session: Session, of_round: Round, rows: Sequence[AnyRow]) -> dict[str, Doubts]:
    """On the tasks of these decisions; on none where the round cannot be read here."""
    try:
        resolved = stored_round.resolve(of_round)
    except BrokenRound:
        return {}
    found = {}
    for task in {row.task for row in rows}:
        here = [row for row in rows if row.task == task]
        seeds = {seed for row in here for seed in _seeds(row)}
        variants = {row.config for row in here}
        found[task] = doubts.on_task(session, of_round.id, resolved, task, variants, seeds)
    return found


def _seeds(row: AnyRow) -> tuple[int, ...]:
    """Those that a decision rests on."""
    return tuple(Evidence.from_json(row.evidence).by_seed) if row.evidence else (row.seed,)


def _decision_view(row: AnyRow, found: Doubts | None) -> DecisionView:
    columns = without_id(row)
    stored = columns.pop("evidence")
    rests_on = Evidence.from_json(stored) if stored else None
    key = JobKey(row.task, row.stage, row.config, row.seed)
    return DecisionView(
        **columns,
        d_acc_ci=None if rests_on is None else rests_on.d_acc_ci,
        p_value=None if rests_on is None else rests_on.p_value,
        seeds=tuple(rests_on.by_seed) if rests_on else (columns["seed"],),
        caveats=None if found is None else tuple(found.on(key, rests_on)),
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
