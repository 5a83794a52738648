"""A round's plan as the database has it: what follows from its jobs, and that as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from db import events, queue
from db.events import EventKind
from db.tables import AT_ONCE, DECISIONS, JOBS
from orchestrator import evidence, stored_jobs
from orchestrator.evidence import Evidence, Pair
from orchestrator.planner import Plan, plan
from orchestrator.points import difference
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rounds.stored_round import as_broken_round
from orchestrator.search import Decision, JobKey, Lane
from orchestrator.stored_jobs import Standing
from worker.job import BASELINE, CONCLUSIVE, REUSABLE, JobSpec, Outcome

_DECIDED = select(*(DECISIONS.c[name] for name in JobKey._fields))
_ADD_JOBS = insert(JOBS).returning(JOBS.c.id, sort_by_parameter_order=True)  # each id is its job's
_ADD_DECISIONS = insert(DECISIONS)


def current(
    session: Session, round_id: int, resolved: ResolvedRound, lane: Lane | None = None
) -> tuple[Plan, Mapping[JobKey, Standing]]:
    """What follows from the jobs that have finished, and where every job stands; of all, or of one lane.

    Raises BrokenRound.
    """
    found = stored_jobs.standings(session, round_id, resolved.spec.prune.metric, lane)
    search = resolved.search if lane is None else resolved.search.of_lane(lane)
    if judged := [key for key in found if _is_judged_by_example(resolved, key)]:
        found = stored_jobs.with_outcomes(found, stored_jobs.examined(session, resolved, found, judged))
    finished = {key: stands.measurement for key, stands in found.items() if stands.measurement is not None}
    with as_broken_round(resolved.spec.round):
        return plan(search, finished), found


def _is_judged_by_example(resolved: ResolvedRound, key: JobKey) -> bool:
    """Whether decisions look at what a job got right of each example."""
    return resolved.spec.prune.needs_examples or resolved.confirms(key.stage)


def evidence_on(
    session: Session,
    resolved: ResolvedRound,
    decisions: Sequence[Decision],
    found: Mapping[JobKey, Standing],
) -> dict[JobKey, Evidence]:
    """What these decisions rest on, of those that have a delta."""
    measured = [decision for decision in decisions if decision.d_acc is not None]
    keys = {key for decision in measured for pair in pairs(decision) for key in pair}
    told = stored_jobs.examined(session, resolved, found, keys)
    return {
        decision.key: evidence.of_pairs([_pair(*pair, found, told) for pair in pairs(decision)])
        for decision in measured
    }


def pairs(decision: Decision) -> list[tuple[JobKey, JobKey]]:
    """The runs that a decision rests on: the variant's and the baseline's of each seed."""
    keys = [decision.key._replace(seed=seed) for seed in decision.seeds or (decision.key.seed,)]
    return [(key, key._replace(variant=BASELINE)) for key in keys]


def _pair(
    variant: JobKey,
    baseline: JobKey,
    found: Mapping[JobKey, Standing],
    told: Mapping[JobKey, stored_jobs.Examined],
) -> Pair:
    one, other = found[variant].measurement, found[baseline].measurement
    assert one is not None and other is not None  # noqa: S101, PT018  (a decision rests on them)
    assert one.score is not None and other.score is not None  # noqa: S101, PT018
    both = variant in told and baseline in told
    return Pair(
        seed=variant.seed,
        delta=difference(one.score, other.score),
        variant=told[variant].outcomes if both else None,
        baseline=told[baseline].outcomes if both else None,
        fingerprints=(told[variant].fingerprint, told[baseline].fingerprint) if both else ("", ""),
    )


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
    answers = queue.Answers(REUSABLE, here=round_id, outcomes_here=CONCLUSIVE)
    for job_id, spec in zip(session.scalars(_ADD_JOBS, rows).all(), specs.values(), strict=True):
        known = queue.known_result(session, spec.fingerprint, answers)
        if known is not None:
            queue.end_new(session, round_id, job_id, known, now=now, outcome=Outcome.CACHED)
            are_known = True
    return are_known


def unstored(session: Session, round_id: int, planned: Plan, lane: Lane | None) -> tuple[Decision, ...]:
    """The decisions that have not been stored."""
    query, which = stored_jobs.in_lane(_DECIDED, DECISIONS, round_id, lane)
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
        found = rests_on.get(decision.key)
        rows.append(
            {
                **decision.key._asdict(),
                **verdict,
                "round_id": round_id,
                "d_loss": decision.d_loss,
                "evidence": None if found is None else found.model_dump(mode="json"),
                "created_at": now,
            }
        )
        told = {"task": task, "stage": stage, "config": variant, "seed": seed, **verdict}
        events.append(session, round_id, EventKind.DECIDED, now=now, **told)
    session.execute(_ADD_DECISIONS, rows)
