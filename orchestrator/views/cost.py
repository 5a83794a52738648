"""How many seconds jobs will take, by those that ran before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from statistics import median
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.tables import Job, JobState
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import JobKey
from orchestrator.stored_jobs import StoredJob
from worker.job import Budget, JobSpec, Outcome

PACED_BY = 100  # jobs of a kind, the last ones: a machine is faster at one time than at another


class Pace(NamedTuple):
    """How long earlier jobs took."""

    baseline: float  # seconds a step, evaluations included
    variant: float  # the same, of a run with Future-Seed
    job: float  # seconds from its claim to its end that were not training


def pace_of(session: Session, spec: JobSpec) -> Pace | None:
    """Median pace of the last jobs of the same model on the same examples; None when there are none.

    Where only baselines have been measured, or only variants, the others are taken to be as fast.
    """
    alike = (
        select(Job.result, Job.started_at, Job.finished_at)
        .where(
            Job.state == JobState.DONE,
            Job.outcome == Outcome.OK,
            Job.payload["examples_digest"].as_string() == spec.examples_digest,
            Job.payload[("model_facts", "digest")].as_string() == spec.model_facts.digest,
        )
        .order_by(Job.id.desc())
        .limit(PACED_BY)
    )
    is_baseline = Job.payload["future_seed"].as_string().is_(None)
    baselines, variants = (session.execute(alike.where(kind)).all() for kind in (is_baseline, ~is_baseline))
    if not baselines and not variants:
        return None
    starts = [
        max(0.0, (finished - started).total_seconds() - result["metrics"]["seconds"])
        for result, started, finished in (*baselines, *variants)
        if not result["usage"]["continued_from"]
    ]
    return Pace(
        baseline=_seconds_a_step(baselines or variants),
        variant=_seconds_a_step(variants or baselines),
        job=median(starts or [0.0]),
    )


def _seconds_a_step(runs: Iterable[Any]) -> float:
    return float(median(run.result["metrics"]["seconds"] / run.result["metrics"]["steps"] for run in runs))


def seconds_of(
    resolved: ResolvedRound, wanted: Mapping[JobKey, JobSpec], ran: Collection[JobKey], pace: Pace | None
) -> float | None:
    """Seconds of these jobs, after those that ran; None where the pace is not known and the budget does not say."""
    if pace is None and any(stage.seconds is None for stage in resolved.spec.stages):
        return None if wanted else 0.0
    pace = pace or Pace(float("inf"), float("inf"), 0.0)
    return sum(
        pace.job
        + job_seconds(
            resolved,
            key,
            pace.baseline if job.future_seed is None else pace.variant,
            lambda before: before in wanted or before in ran,
        )
        for key, job in wanted.items()
    )


def seconds_left(
    resolved: ResolvedRound, jobs: Mapping[JobKey, StoredJob], keys: list[JobKey]
) -> float | None:
    """An estimate from the measured seconds per step of the same task, or of any; None before the first."""
    pace: dict[str, list[float]] = {}
    for key, job in jobs.items():
        metrics = job.metrics
        if metrics is not None:
            pace.setdefault(key.task, []).append(metrics.seconds / metrics.steps)
    if not pace:
        return None
    anywhere = median(value for values in pace.values() for value in values)
    total, wanted = 0.0, set(keys)
    for key in keys:
        per_step = median(pace[key.task]) if key.task in pace else anywhere
        total += job_seconds(
            resolved, key, per_step, lambda before: before in wanted or _has_run(before, jobs)
        )
    return total


def _has_run(key: JobKey, jobs: Mapping[JobKey, StoredJob]) -> bool:
    return key in jobs and jobs[key].cached_from_id is None


def job_seconds(
    resolved: ResolvedRound, key: JobKey, per_step: float, has_run: Callable[[JobKey], bool]
) -> float:
    """A later stage costs the difference to the one that it continues, where that will have run in this round.

    What was answered from another round has rarely left a snapshot.
    """
    seconds = _budget_seconds(resolved.spec.stage(key.stage), per_step)
    before = resolved.spec.stage_it_continues(key.stage)
    if before is not None and has_run(key._replace(stage=before.name)):
        seconds -= _budget_seconds(before, per_step)
    return max(0.0, seconds)


def _budget_seconds(budget: Budget, per_step: float) -> float:
    limits = [budget.seconds] if budget.seconds is not None else []
    return min([*limits, budget.steps * per_step] if budget.steps is not None else limits)
