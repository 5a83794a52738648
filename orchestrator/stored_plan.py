"""What follows from a plan, as rows: its jobs and its decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from db import events, queue
from db.events import EventKind
from db.tables import AT_ONCE, DECISIONS, JOBS
from orchestrator import results
from orchestrator.evidence import Evidence
from orchestrator.planner import Decision, JobKey, Lane, Plan
from worker.job import MEASURED, JobSpec, Outcome

_DECIDED = select(*(DECISIONS.c[name] for name in JobKey._fields))
_ADD_JOBS = insert(JOBS).returning(JOBS.c.id, sort_by_parameter_order=True)  # each id is its job's
_ADD_DECISIONS = insert(DECISIONS)


def add_jobs(session: Session, round_id: int, specs: Mapping[JobKey, JobSpec], now: datetime) -> bool:
    """Stores new jobs; an equal one's known result ends a job at once. Returns whether there are such."""
    if not specs:
        return False
    rows = [
        {
            **key._asdict(),
            "round_id": round_id,
            "fingerprint": spec.fingerprint,
            "trajectory": spec.trajectory,
            "payload": spec.model_dump(mode="json"),
            "not_before": AT_ONCE,
            "created_at": now,
        }
        for key, spec in specs.items()
    ]
    are_known = False
    for job_id, spec in zip(session.scalars(_ADD_JOBS, rows).all(), specs.values(), strict=True):
        known = queue.known_result(session, spec.fingerprint, MEASURED)
        if known is not None:
            queue.end_new(session, round_id, job_id, known, now=now, outcome=Outcome.CACHED)
            are_known = True
    return are_known


def unstored(session: Session, round_id: int, planned: Plan, lane: Lane | None) -> tuple[Decision, ...]:
    """The decisions that have not been stored."""
    query, which = results.in_lane(_DECIDED, DECISIONS, round_id, lane)
    stored = {JobKey(*key) for key in session.execute(query, which)}
    return tuple(decision for decision in planned.decisions if decision.key not in stored)


def add_decisions(
    session: Session,
    round_id: int,
    decisions: Sequence[Decision],
    rests_on: Mapping[JobKey, Evidence],
    now: datetime,
) -> None:
    """Stores decisions with what they rest on."""
    if not decisions:
        return
    rows = []
    for decision in decisions:
        task, stage, variant, seed = decision.key
        verdict: dict[str, Any] = {
            "decision": decision.verdict,
            "reason": decision.reason,
            "d_acc": decision.d_acc,
        }
        evidence = rests_on.get(decision.key)
        rows.append(
            {
                **decision.key._asdict(),
                **verdict,
                "round_id": round_id,
                "d_loss": decision.d_loss,
                "evidence": None if evidence is None else evidence.model_dump(mode="json"),
                "created_at": now,
            }
        )
        told = {"task": task, "stage": stage, "config": variant, "seed": seed, **verdict}
        events.append(session, round_id, EventKind.DECIDED, now=now, **told)
    session.execute(_ADD_DECISIONS, rows)
