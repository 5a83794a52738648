"""Which runs may be stopped early, and at what: bounds from the whole runs that this database holds.

Runs that carried bounds are left out, those that were not stopped too: what is left of a search that stops early is
no sample of what it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.tables import Evaluation, Job, JobState
from orchestrator.findings.past_runs import trained
from orchestrator.points import ROUNDING
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import JobKey
from orchestrator.statistics.early_stop import Curve, allowance, largest_lag, least
from worker.job import RESULT_VERSION, Bound, Budget, EarlyStop, JobSpec, Metric, Outcome, accuracy_of, so_far

MOST_RUNS = 1000  # of the past, the latest


def with_bounds(
    session: Session, resolved: ResolvedRound, key: JobKey, spec: JobSpec, baseline_id: int | None
) -> JobSpec:
    """A job with the bounds that its round asks for, where it may have some; its baseline has been measured.

    The baseline, the control arm and the runs that confirm have none; nobody has any before `min_runs` pairs of whole
    runs, or where the seconds end the baseline before its steps.
    """
    asked = resolved.spec.early_stop
    if asked is None or baseline_id is None or not _may_stop(resolved, key):
        return spec
    metric, min_delta = resolved.spec.prune.metric, resolved.spec.prune.min_delta
    source = select(func.coalesce(Job.cached_from_id, Job.id)).where(Job.id == baseline_id).scalar_subquery()
    whole = next(iter(_curves(session, Evaluation.job_id == source, metric).values()), {})
    needed = ceil(1 / asked.error_rate - ROUNDING) - 1  # for one in so many to be exceeded
    pairs = past_pairs(session, spec, metric, max(asked.min_runs, needed))
    if len(pairs) < asked.min_runs or not _is_whole(whole, spec.budget):
        return spec
    passed = _steps_before(resolved, key.stage)
    baseline = _later(whole, passed)
    if len(baseline) < 2:
        return spec
    lags = [largest_lag(_later(one, passed), _later(other, passed)) for one, other in pairs]
    allowed = allowance(lags, asked.error_rate)
    if allowed is None:
        return spec
    early_stop = EarlyStop(
        metric=metric,
        min_delta=min_delta,
        error_rate=asked.error_rate,
        pairs=len(pairs),
        bounds=tuple(
            Bound(step=step, least=value - ROUNDING, baseline=baseline[step])
            for step, value in least(baseline, min_delta, allowed).items()
        ),
    )
    return spec.model_copy(update={"early_stop": early_stop})


def _may_stop(resolved: ResolvedRound, key: JobKey) -> bool:
    return key.variant in resolved.search.candidates and not resolved.confirms(key.stage)


def _steps_before(resolved: ResolvedRound, stage: str) -> int:
    """Steps of the stage that this one goes on from: that has looked, and promoted what got there."""
    before = resolved.spec.stage_it_follows(stage)
    return 0 if before is None else before.steps or 0


def _later(curve: Curve, step: int) -> Curve:
    return {later: score for later, score in curve.items() if later > step}


class Past(NamedTuple):
    """A variant's whole run and the baseline's of the same seed."""

    variant: Curve
    baseline: Curve


def past_pairs(session: Session, spec: JobSpec, metric: Metric, enough: int) -> list[Past]:
    """Pairs of whole runs on the same examples, model, budget and optimizer that are a sample of what a job may see.

    All variants of a seed are held against one baseline, and share its luck. Pairs of the job's own seed share it
    with the job; where there are not enough of them, each seed gives one pair.
    """
    like = trained(spec.model_dump(mode="json"))
    baselines: dict[int, int] = {}  # by seed, the job
    variants: dict[str, tuple[int, int]] = {}  # by fingerprint, seed and job
    for id_, fingerprint, payload in _whole_runs(session, spec.examples_digest):
        if payload.get("early_stop") is not None or trained(payload) != like:
            continue
        if payload["future_seed"] is None:
            baselines.setdefault(payload["seed"], id_)
        else:
            variants.setdefault(fingerprint, (payload["seed"], id_))
    paired = [
        (seed, id_, baselines[seed])
        for _, (seed, id_) in sorted(variants.items())  # by fingerprint, which no outcome is in
        if seed in baselines
    ]
    needed = {id_ for _, *pair in paired for id_ in pair}
    curves = _curves(session, Evaluation.job_id.in_(needed), metric)
    whole = {id_: curve for id_, curve in curves.items() if _is_whole(curve, spec.budget)}
    found: dict[int, list[Past]] = {}  # by seed
    for seed, variant, baseline in paired:
        if variant in whole and baseline in whole:
            found.setdefault(seed, []).append(Past(whole[variant], whole[baseline]))
    own = found.get(spec.seed, [])
    return own if len(own) >= enough else [pairs[0] for pairs in found.values()]


def _whole_runs(session: Session, examples_digest: str) -> list[tuple[int, str, Mapping[str, Any]]]:
    query = (
        select(Job.id, Job.fingerprint, Job.payload)
        .where(
            Job.state == JobState.DONE,
            Job.outcome == Outcome.OK,
            Job.payload["examples_digest"].as_string() == examples_digest,
            Job.result["result_version"].as_integer() == RESULT_VERSION,
        )
        .order_by(Job.id.desc())
        .limit(MOST_RUNS)
    )
    return [(id_, fingerprint, payload) for id_, fingerprint, payload in session.execute(query)]


def _curves(session: Session, which: Any, metric: Metric) -> dict[int, dict[int, float]]:
    """By job, what it would have scored by each step that was evaluated."""
    accuracy = getattr(Evaluation, accuracy_of(metric))
    query = select(Evaluation.job_id, Evaluation.step, accuracy).where(which)
    found: dict[int, dict[int, float]] = {}
    for id_, step, value in session.execute(query.order_by(Evaluation.job_id, Evaluation.step)):
        found.setdefault(id_, {})[step] = value
    return {
        id_: dict(zip(curve, so_far(metric, [*curve.values()]), strict=True)) for id_, curve in found.items()
    }


def _is_whole(curve: Curve, budget: Budget) -> bool:
    """Whether a curve has all evaluations of a budget in steps."""
    assert budget.steps is not None  # noqa: S101  (a round with another budget is refused)
    if len(curve) != ceil(budget.steps / budget.eval_every):
        return False
    return set(curve) == {*range(budget.eval_every, budget.steps, budget.eval_every), budget.steps}
