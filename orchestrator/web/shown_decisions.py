"""What a round has found on each of its tasks: the decisions worth showing first, and what makes them doubtful."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlalchemy.orm import Session

from db import tables
from db.tables import Job
from orchestrator.charts.data import Delta, TaskDeltas
from orchestrator.evidence import Evidence
from orchestrator.findings.caveats import Caveat
from orchestrator.findings.doubts import Doubts, on_task
from orchestrator.rounds import stored_round
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import JobKey
from orchestrator.statistics.seeds import sign_pattern
from orchestrator.verdicts import AGAINST, Verdict
from orchestrator.views.shapes import JobView

Conditions = Sequence[ColumnElement[bool]]
Decided = tuple[tables.Decision, int | None]  # with the id of its job

SHOWN = 60  # decisions of a task; beyond it only the variants that did best


@dataclass(frozen=True)
class ShownDecision:
    """A decision, the job that it is about and what is to be kept in mind."""

    key: JobKey
    verdict: Verdict
    reason: str
    d_acc: float | None
    d_loss: float | None
    evidence: Evidence | None  # what d_acc rests on
    job_id: int | None  # None: none was run
    caveats: Sequence[Caveat]

    @property
    def d_acc_ci(self) -> tuple[float, float] | None:
        """The 95 % interval of d_acc."""
        return None if self.evidence is None else self.evidence.d_acc_ci

    def rests_on(self, seed: int) -> bool:
        """Whether this seed is among those that it rests on."""
        return self.evidence is not None and seed in self.evidence.by_seed

    @property
    def seeds(self) -> str:
        """The seed; or how many, and how many of them are above, at and below the baseline."""
        if self.evidence is None or len(self.evidence.seeds) < 2:
            return str(self.key.seed)
        deltas = [one.d_acc for one in self.evidence.seeds]
        return f"{len(deltas)} seeds, {sign_pattern(deltas)}"


@dataclass(frozen=True)
class TaskDecisions:
    """The decisions of a task, or those on its best variants where there are many."""

    task: str
    shown: Sequence[ShownDecision]
    total: int  # decisions
    chart: TaskDeltas
    doubts: Mapping[Caveat, Sequence[str]]  # the variants that each touches, of those shown


@dataclass(frozen=True)
class Progress:
    """How much is decided on a task; changes whenever its decisions do."""

    task: str
    total: int
    undecided: int
    latest: str


def progress(session: Session, round_id: int) -> dict[str, Progress]:
    """The tasks of a round on which something is decided."""
    decision = tables.Decision
    query = (
        select(
            decision.task,
            func.count(),
            func.sum(case((decision.decision == Verdict.UNDECIDED, 1), else_=0)),
            func.max(decision.created_at),
        )
        .where(decision.round_id == round_id)
        .group_by(decision.task)
    )
    return {
        task: Progress(task, total, undecided, str(at))
        for task, total, undecided, at in session.execute(query)
    }


def of_task(session: Session, round_id: int, resolved: ResolvedRound, task: str) -> TaskDecisions:
    """What is decided on a task so far."""
    standings = _standings(session, round_id, resolved, task)
    shown = _best(standings)
    doubts = on_task(session, round_id, resolved, task, shown)
    decided = _decided(session, _on(round_id, task, shown))
    found = [_shown(decision, job, doubts) for decision, job in decided]
    return TaskDecisions(
        task=task,
        shown=found,
        total=sum(stands.decisions for stands in standings.values()),
        chart=_chart(resolved, task, found),
        doubts=_by_caveat(resolved, found),
    )


def on_job(session: Session, job: JobView) -> ShownDecision | None:
    """The decision that a job led to; None for a baseline, and before there is one."""
    row = stored_round.find(session, job.round)
    decision = tables.Decision
    decided = _decided(session, [*_on(row.id, job.task, [job.config]), decision.stage == job.stage])
    doubts = on_task(session, row.id, stored_round.resolve(row), job.task, [job.config])
    found = (_shown(*one, doubts) for one in decided)
    return next((one for one in found if one.key.seed == job.seed or one.rests_on(job.seed)), None)


def _on(round_id: int, task: str, variants: Sequence[str]) -> Conditions:
    decision = tables.Decision
    return (decision.round_id == round_id, decision.task == task, decision.variant.in_(variants))


class _Stands(NamedTuple):
    """Where a variant stands on a task; the greater, the further it came and the better it did."""

    is_variant: bool  # not the control arm
    has_passed: bool  # some seed, at the last stage that selects or the one that confirms
    reached: int  # stages
    is_whole: bool  # it was measured, and no run diverged or was stopped: what is left would flatter it
    mean: float  # delta there
    decisions: int


def _standings(session: Session, round_id: int, resolved: ResolvedRound, task: str) -> dict[str, _Stands]:
    """Each variant of a task on which something is decided."""
    decision, search = tables.Decision, resolved.search
    passed = or_(
        decision.decision == Verdict.CONFIRMED,
        and_(decision.decision == Verdict.PROMOTED, decision.stage == search.stages[-1]),
    )
    unnumbered = and_(decision.d_acc.is_(None), decision.decision.in_(AGAINST))
    query = (
        select(
            decision.variant,
            decision.stage,
            func.avg(decision.d_acc),
            func.count(),
            func.max(case((passed, 1), else_=0)),
            func.max(case((unnumbered, 1), else_=0)),
        )
        .where(decision.round_id == round_id, decision.task == task)
        .group_by(decision.variant, decision.stage)
    )
    found: dict[str, _Stands] = {}
    for variant, stage, mean, count, has_passed, is_unnumbered in session.execute(query):
        here = _Stands(
            variant != search.control,
            bool(has_passed),
            search.all_stages.index(stage),
            mean is not None and not is_unnumbered,
            -math.inf if mean is None else mean,
            count,
        )
        found[variant] = _together(found[variant], here) if variant in found else here
    return found


def _together(one: _Stands, other: _Stands) -> _Stands:
    """Two stages of a variant."""
    further = max(one, other, key=lambda stands: stands.reached)
    return further._replace(
        has_passed=one.has_passed or other.has_passed,
        is_whole=one.is_whole and other.is_whole,
        decisions=one.decisions + other.decisions,
    )


def _best(standings: Mapping[str, _Stands]) -> list[str]:
    """As many variants as can be shown, those that came furthest and did best there first; at least one."""
    chosen: list[str] = []
    room = SHOWN
    for variant in sorted(standings, key=lambda name: standings[name][:-1], reverse=True):
        room -= standings[variant].decisions
        if chosen and room < 0:
            break
        chosen.append(variant)
    return chosen


def _decided(session: Session, conditions: Conditions) -> list[Decided]:
    decision = tables.Decision
    same = [
        getattr(Job, name) == getattr(decision, name)
        for name in ("round_id", "task", "stage", "variant", "seed")
    ]
    query = select(decision, Job.id).outerjoin(Job, and_(*same)).where(*conditions).order_by(decision.id)
    return [(found, job_id) for found, job_id in session.execute(query)]


def _shown(decision: tables.Decision, job_id: int | None, doubts: Doubts) -> ShownDecision:
    key = JobKey(decision.task, decision.stage, decision.variant, decision.seed)
    rests_on = Evidence.from_json(decision.evidence) if decision.evidence else None
    return ShownDecision(
        key,
        Verdict(decision.decision),
        decision.reason,
        decision.d_acc,
        decision.d_loss,
        rests_on,
        job_id,
        doubts.on(key, rests_on),
    )


def _by_caveat(resolved: ResolvedRound, found: Sequence[ShownDecision]) -> dict[Caveat, list[str]]:
    """The variants that each caveat touches, in the round's order."""
    touched: dict[Caveat, set[str]] = {}
    for one in found:
        for caveat in one.caveats:
            touched.setdefault(caveat, set()).add(one.key.variant)
    return {
        caveat: [name for name in resolved.search.variants if name in touched[caveat]]
        for caveat in sorted(touched)
    }


def _chart(resolved: ResolvedRound, task: str, found: Sequence[ShownDecision]) -> TaskDeltas:
    named = {one.key.variant for one in found}
    return TaskDeltas(
        task=task,
        variants=tuple(name for name in resolved.search.variants if name in named),
        stages=resolved.search.all_stages,
        deltas=tuple(
            Delta(
                one.key.variant,
                one.key.stage,
                one.key.seed,
                one.verdict,
                d_acc=one.d_acc,
                interval=one.d_acc_ci,
                reason=one.reason,
            )
            for one in found
        ),
        min_delta=resolved.spec.prune.min_delta,
        metric=resolved.spec.prune.metric,
    )
