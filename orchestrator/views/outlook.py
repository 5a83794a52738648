"""What can be said about a round in progress: its baseline's curves, jobs done, time left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.tables import Evaluation, Job, JobState
from orchestrator import stored_jobs, stored_plan
from orchestrator.planner import Plan
from orchestrator.rounds import stored_round
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rules import Scope
from orchestrator.search import JobKey, SearchSpec
from orchestrator.stored_jobs import StoredJob
from orchestrator.verdicts import Verdict
from orchestrator.views.cost import seconds_left
from worker.job import BASELINE, Metric, accuracy_of


@dataclass(frozen=True)
class Outlook:
    """A round as one of its jobs starts."""

    baseline: Mapping[int, float]  # step -> accuracy of the baseline of the same task, stage and seed
    done: int  # finished jobs of the round
    at_most: int  # jobs of the round if every variant is promoted
    seconds_left: float | None  # of the round, if every variant is promoted; None while no job has finished
    metric: Metric = "best_val_tok_acc"  # the rule's, whose accuracy is shown


def outlook(session: Session, round_name: str, key: JobKey) -> Outlook:
    """The state of a round as its job `key` starts."""
    row = stored_round.find(session, round_name)
    resolved = stored_round.resolve(row)
    jobs = {job.key: job for job in stored_jobs.jobs(session, Job.round_id == row.id)}
    done = [key for key, job in jobs.items() if job.state is JobState.DONE]
    planned, _ = stored_plan.current(session, row.id, resolved)
    remaining = still_possible(resolved, planned, jobs)
    return Outlook(
        baseline=curve(session, jobs.get(key._replace(variant=BASELINE)), resolved.spec.prune.metric),
        done=len(done),
        at_most=len(done) + len(remaining),
        seconds_left=seconds_left(resolved, jobs, remaining),
        metric=resolved.spec.prune.metric,
    )


def curve(session: Session, job: StoredJob | None, metric: Metric) -> dict[int, float]:
    """The accuracy that a metric goes by, by step, of a job, or of the one its result was taken from."""
    if job is None:
        return {}
    query = select(Evaluation.step, getattr(Evaluation, accuracy_of(metric))).where(
        Evaluation.job_id == (job.cached_from_id or job.id)
    )
    return {step: accuracy for step, accuracy in session.execute(query.order_by(Evaluation.step))}  # noqa: C416


def still_possible(resolved: ResolvedRound, planned: Plan, jobs: Mapping[JobKey, StoredJob]) -> list[JobKey]:
    """The jobs that may yet have to run: all that are not done, but for arms that are not promoted."""
    search = resolved.search
    dropped = {
        (decision.key.task, decision.key.variant, seed)
        for decision in planned.decisions
        if decision.verdict is not Verdict.PROMOTED
        for seed in ((decision.key.seed,) if search.rule.scope is Scope.SEED else search.seeds)
    }
    settled = {
        decision.key._replace(seed=seed)
        for decision in planned.decisions
        for seed in search.seeds
        if search.rule.scope is not Scope.SEED
    }
    return [
        key
        for key in resolved.largest_plan()
        if key not in settled
        and not (key in jobs and jobs[key].state is JobState.DONE)
        and (_is_first_baseline(search, key) or _may_be_needed(search, key, dropped))
    ]


def _is_first_baseline(search: SearchSpec, key: JobKey) -> bool:
    return key.variant == BASELINE and key.stage == search.stages[0]


def _may_be_needed(search: SearchSpec, key: JobKey, dropped: set[tuple[str, str, int]]) -> bool:
    """Whether this variant, or for a baseline some variant, has not been dropped; a fresh seed needs any seed."""
    seeds = (key.seed,) if key.seed in search.seeds else search.seeds
    variants = search.arms[1:] if key.variant == BASELINE else (key.variant,)
    return any((key.task, variant, seed) not in dropped for variant in variants for seed in seeds)
