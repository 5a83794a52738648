"""How far runs of the baseline lie apart, by all that this database holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.tables import Job, JobState
from orchestrator.rounds.consistency import CONTROL_ARM
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import JobKey
from orchestrator.statistics.variants import Spread, pooled_spread
from worker.job import BASELINE

MOST_RUNS = 5000  # of the baseline that the spread is taken from, the latest


def spreads(session: Session, resolved: ResolvedRound) -> dict[tuple[str, str], Spread]:
    """The spread between runs of the baseline, by task and stage, pooled over all rounds on the same examples.

    Runs are of one group when they differ in nothing but the seed, and are of one version of results; groups of the
    same model, examples and budget that differ in their optimizer, or their version, are pooled.
    """
    search = resolved.search
    like = {
        (task, stage): resolved.job(JobKey(task, stage, BASELINE, 0)).model_dump(mode="json")
        for task in search.tasks
        for stage in search.all_stages
    }
    runs = _baseline_runs(session, {payload["examples_digest"] for payload in like.values()})
    found = {
        place: pooled_spread(_groups(payload, runs, search.rule.metric)) for place, payload in like.items()
    }
    return {place: spread for place, spread in found.items() if spread is not None}


Run = tuple[str, Mapping[str, Any], Mapping[str, Any] | None]  # fingerprint, payload, result


def _baseline_runs(session: Session, digests: set[str]) -> list[Run]:
    """The runs on any of these examples that were trained without Future-Seed."""
    query = (
        select(Job.fingerprint, Job.payload, Job.result)
        .where(
            Job.variant.in_([BASELINE, CONTROL_ARM]),
            Job.state == JobState.DONE,
            Job.payload["examples_digest"].as_string().in_(digests),
        )
        .order_by(Job.id.desc())
        .limit(MOST_RUNS)
    )
    return [
        (fingerprint, payload, result)
        for fingerprint, payload, result in session.execute(query)
        if payload["future_seed"] is None
    ]


def _groups(like: Mapping[str, Any], runs: Iterable[Run], metric: str) -> list[list[float]]:
    """The scores of runs of the same model, examples and budget, those alike but for the seed together."""
    groups: dict[str, dict[str, float]] = {}  # by protocol, then by fingerprint
    for fingerprint, payload, result in runs:
        score = ((result or {}).get("metrics") or {}).get(metric)
        if score is not None and all(trained(payload)[name] == trained(like)[name] for name in _SAME):
            protocol = json.dumps([trained(payload), (result or {}).get("result_version")], sort_keys=True)
            groups.setdefault(protocol, {})[fingerprint] = score
    return [list(scores.values()) for scores in groups.values()]


_SAME = ("examples", "model", "budget")


def trained(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What determines a run beside its seed, its Future-Seed settings and the version of results.

    From its job's payload; `JobSpec` has all of it in what it calls its trajectory.
    """
    return {
        "examples": payload["examples_digest"],
        "model": (payload["model_facts"]["digest"], payload["model"]["dtype"]),
        "budget": payload["budget"],
        "batch_size": payload["task"]["batch_size"],
        "optimizer": payload["optimizer"],
    }
