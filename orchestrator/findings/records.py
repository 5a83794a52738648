"""The records of a round: one flat object for every finished job and every decision, in the round's order.

The predecessor's keys keep their names and meaning (docs/records.md); accuracies and deltas are fractions.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import tables
from db.session import Database
from db.tables import Job, JobState
from orchestrator import stored_plan
from orchestrator.evidence import Evidence, SeedEvidence
from orchestrator.findings import caveats, past_runs, round_statistics
from orchestrator.findings.caveats import Caveat
from orchestrator.findings.round_statistics import Arm, RoundStatistics
from orchestrator.planner import Plan
from orchestrator.points import difference
from orchestrator.rounds import stored_round
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import Decision, JobKey, SearchSpec
from orchestrator.stored_jobs import Standing, StoredJob, jobs
from orchestrator.verdicts import Verdict
from worker.job import BASELINE, RESULT_VERSION, RUNS, Metric, Metrics, Outcome, run_name, version

Record = dict[str, Any]
_EVERY_LINE = """
    round task stage config mode status bsz best_val_loss best_val_tok_acc run_dir error reason seed variant_of d_acc
    d_loss d_acc_ci baseline_val_tok_acc final_val_tok_acc best_val_seq_acc n_val n_val_tokens steps tokens seconds
    peak_memory_bytes micro_batch fingerprint cached_from caveats started_at finished_at device kernel version
"""
EVERY_LINE = tuple(_EVERY_LINE.split())
"""The keys that all records have, null where one has nothing to say."""
UNKNOWN_RESULTS = 0  # the version of results that are not those of this one, and do not say which
BATCH = 500  # runs read in one transaction
RECORDED: Metric = "best_val_tok_acc"  # whose deltas stand on the lines of jobs


def is_decision(record: Record) -> bool:
    """Whether a record is of a decision; all others are of jobs."""
    return bool(record["stage"] == "decision")


def has_failures(records: Iterable[Record]) -> bool:
    """Whether something could not be measured."""
    return any(
        record["status"] == Verdict.UNDECIDED if is_decision(record) else Outcome(record["status"]).is_failure
        for record in records
    )


def key_of(record: Record) -> JobKey:
    """What names a job, or the first of those that a decision rests on."""
    stage = record.get("decided_stage") or record["stage"]
    return JobKey(record["task"], stage, record["config"], record["seed"])


def records(database: Database, name: str) -> Iterator[Record]:
    """Every record there is so far; raises NotFound.

    Reads in many short transactions: what has ended stays as it is, and a slow reader holds nobody up.
    """
    with database.read() as session:
        row = stored_round.find(session, name)
        resolved = stored_round.resolve(row)
        planned, standings = stored_plan.current(session, row.id, resolved)
        baselines = jobs(session, Job.round_id == row.id, Job.variant == BASELINE, Job.state == JobState.DONE)
        decided = _decided(session, row.id)
        rests_on = {key: found.evidence for key, found in decided.items() if found.evidence is not None}
        scores = {key: one.measurement for key, one in standings.items() if one.measurement is not None}
        spreads = past_runs.spreads(session, resolved)
        writer = _Writer(
            resolved,
            {job.key: job for job in baselines},
            rests_on,
            round_statistics.of_round(resolved.search, rests_on.items(), scores, spreads),
        )
    told = _in_order(resolved.search, planned, standings, decided)
    for batch in _batches(told, writer):
        yield from _batch(database, batch, standings, decided, writer)


class _Told(NamedTuple):
    """What a record tells of: a job, or the decision on it."""

    key: JobKey
    is_decision: bool


def _in_order(
    search: SearchSpec, planned: Plan, jobs_made: Collection[JobKey], decided: Collection[JobKey]
) -> Iterator[_Told]:
    """What the plan has, then what it does not reach, or no longer wants, since something is tried again."""
    steps = [
        _Told(step.key, is_decision=True) if isinstance(step, Decision) else _Told(step, is_decision=False)
        for step in planned.steps
    ]
    places = [
        {name: n for n, name in enumerate(names)}
        for names in (search.tasks, search.all_stages, search.variants)
    ]

    def place(told: _Told) -> tuple[int, ...]:
        task, stage, variant, seed = told.key
        tasks, stages, variants = places
        return tasks[task], stages[stage], seed, variants.get(variant, -1), told.is_decision

    made = {_Told(key, is_decision=False) for key in jobs_made} | {
        _Told(key, is_decision=True) for key in decided
    }
    return chain(steps, sorted(made.difference(steps), key=place))


class _Decided(NamedTuple):
    """Where a decision is stored, and what it rests on."""

    id: int
    evidence: Evidence | None


def _decided(session: Session, round_id: int) -> dict[JobKey, _Decided]:
    """The decisions of a round."""
    row = tables.Decision
    query = select(row.id, row.task, row.stage, row.variant, row.seed, row.evidence)
    return {
        JobKey(task, stage, variant, seed): _Decided(id_, Evidence.from_json(stored) if stored else None)
        for id_, task, stage, variant, seed, stored in session.execute(query.where(row.round_id == round_id))
    }


def _batches(told: Iterable[_Told], writer: _Writer) -> Iterator[list[_Told]]:
    """Parts for which at most BATCH runs are read, or those of one decision."""
    batch: list[_Told] = []
    size = 0
    for one in told:
        runs = len(writer.runs(one.key)) if one.is_decision else 1
        if batch and size + runs > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += runs
    if batch:
        yield batch


def _batch(
    database: Database,
    told: Sequence[_Told],
    standings: Mapping[JobKey, Standing],
    decided: Mapping[JobKey, _Decided],
    writer: _Writer,
) -> Iterator[Record]:
    keys = {run for key, is_decision in told for run in (writer.runs(key) if is_decision else [key])}
    job_ids = {standings[key].job_id for key in keys if key in standings}
    decision_ids = {decided[key].id for key, is_decision in told if is_decision and key in decided}
    with database.read() as session:
        ended = {job.key: job for job in jobs(session, Job.id.in_(job_ids), Job.state == JobState.DONE)}
        sources = _source_names(session, [job.cached_from_id for job in ended.values()])
        taken = session.scalars(select(tables.Decision).where(tables.Decision.id.in_(decision_ids)))
        decisions = {decision.id: decision for decision in taken}
    for key, is_decision in told:
        if is_decision:
            found = decisions.get(decided[key].id) if key in decided else None
            if found is not None and _key(found) == key:  # else a retry has taken it back meanwhile
                yield writer.decision(key, found, ended)
        elif key in ended:
            yield writer.job(ended[key], sources)


def _key(row: tables.Decision) -> JobKey:
    return JobKey(row.task, row.stage, row.variant, row.seed)


def by_metric(metric: str, record: Record, baseline: float | None, verdict: Record | None) -> Record:
    """A job's record with its delta by the rule's metric; the interval is known where it was decided by itself.

    baseline: what the baseline of its stage and seed has by that metric; verdict: the decision on the run.
    """
    if metric == RECORDED:
        return record
    if record["d_acc"] is None or baseline is None:
        return record | {"d_acc": None, "d_acc_ci": None}
    own = verdict if verdict and verdict["seeds"] == [record["seed"]] else {}
    return record | {"d_acc": difference(record[metric], baseline), "d_acc_ci": own.get("d_acc_ci")}


def to_jsonl(record: Record) -> str:
    """A record as one line, without the line's end."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class _Writer:
    """Turns stored rows of one round into records."""

    resolved: ResolvedRound
    baselines: Mapping[JobKey, StoredJob]
    evidence: Mapping[JobKey, Evidence]  # on decisions
    statistics: RoundStatistics

    @cached_property
    def _decided_with(self) -> dict[JobKey, Evidence]:
        """What the decision on each run rests on, by itself or with others."""
        return {
            key._replace(seed=seed): found for key, found in self.evidence.items() for seed in found.by_seed
        }

    def _of_run(self, key: JobKey) -> SeedEvidence | None:
        """What is known of a run's delta."""
        decided = self._decided_with.get(key)
        return None if decided is None else decided.by_seed[key.seed]

    @cached_property
    def _protocols(self) -> dict[tuple[str, str, str, int], str]:
        return {}

    def _protocol(self, job: StoredJob) -> str:
        """What a run shares with those of other seeds; found once for all of them."""
        key, result_version = job.key, job.result_version
        if result_version is None:  # one of now, unless its name says otherwise
            is_of_now = self.resolved.job(key).fingerprint == job.fingerprint
            result_version = RESULT_VERSION if is_of_now else UNKNOWN_RESULTS
        arm = key.task, key.stage, key.variant, result_version
        if arm not in self._protocols:
            self._protocols[arm] = self.resolved.job(key).protocol(result_version)
        return self._protocols[arm]

    def job(self, job: StoredJob, sources: Mapping[int, str]) -> Record:
        key, metrics, usage = job.key, job.metrics, job.usage
        partial = job.partial
        trained = metrics or partial  # what was spent, whatever came of it
        baseline = self._baseline(key)
        rests_on = self._of_run(key) if self._metric == RECORDED else None
        failed = metrics is None
        source = sources.get(job.cached_from_id or 0)
        return self._head(key) | {
            "stage": key.stage,
            "status": job.outcome,
            "best_val_loss": metrics and metrics.best_val_loss,
            "best_val_tok_acc": metrics and metrics.best_val_tok_acc,
            "run_dir": f"{RUNS}/{source or run_name(self.resolved.spec.round, *key)}",
            "error": job.reason if failed else None,
            "reason": None,
            "d_acc": _delta(metrics, baseline, "best_val_tok_acc"),
            "d_loss": _delta(metrics, baseline, "best_val_loss"),
            "d_acc_ci": rests_on and _listed(rests_on.d_acc_ci),
            "protocol": self._protocol(job),
            "d_acc_se": rests_on and rests_on.standard_error,
            "p_value": rests_on and rests_on.p_value,
            "baseline_val_tok_acc": baseline and baseline.best_val_tok_acc,
            "final_val_tok_acc": metrics and metrics.final_val_tok_acc,
            "best_val_seq_acc": metrics and metrics.best_val_seq_acc,
            "best_step": metrics and metrics.best_step,
            "steps": trained and trained.steps,
            "stopped_at": partial and partial.steps,
            "tokens": trained and trained.tokens,
            "seconds": trained and round(trained.seconds, 3),
            "peak_memory_bytes": usage and usage.peak_memory_bytes,
            "micro_batch": usage and usage.micro_batch,
            "padding_share": usage and usage.padding_share,
            "fingerprint": job.fingerprint,
            "cached_from": source,
            "caveats": self._caveats(key, [job], self._on_run(key), RECORDED),
            "started_at": _time(job.started_at),
            "finished_at": _time(job.finished_at),
            "device": usage and usage.device,
            "kernel": usage and usage.kernel,
            "version": job.version or version("fsq"),
        }

    def runs(self, key: JobKey) -> list[JobKey]:
        """Those that a decision rests on."""
        found = self.evidence.get(key)
        return [key._replace(seed=seed) for seed in found.by_seed] if found else [key]

    def decision(self, key: JobKey, decision: tables.Decision, ended: Mapping[JobKey, StoredJob]) -> Record:
        job = ended.get(key)
        metrics = job.metrics if job else None
        baseline, rests_on = self._baseline(key), self.evidence.get(key)
        return self._head(key) | {
            "stage": "decision",
            "decided_stage": key.stage,
            "status": decision.decision,
            "reason": decision.reason,
            "best_val_tok_acc": metrics and metrics.best_val_tok_acc,
            "baseline_val_tok_acc": baseline and baseline.best_val_tok_acc,
            "metric": self._metric,
            "d_acc": decision.d_acc,
            "d_loss": decision.d_loss,
            "d_acc_ci": rests_on and _listed(rests_on.d_acc_ci),
            "p_value": rests_on and rests_on.p_value,
            "seeds": list(rests_on.by_seed) if rests_on else [key.seed],
            **self.statistics.of(key),
            "caveats": self._caveats(key, [ended[run] for run in self.runs(key) if run in ended], rests_on),
            "finished_at": _time(decision.created_at),
            "version": version("fsq"),
        }

    def _head(self, key: JobKey) -> Record:
        val = self.resolved.report(key.task, key.stage).val
        return dict.fromkeys(EVERY_LINE) | {
            "round": self.resolved.spec.round,
            "task": key.task,
            "stage": key.stage,
            "config": key.variant,
            "variant_of": None if key.variant == BASELINE else BASELINE,
            "seed": key.seed,
            "mode": "no_fs" if self.resolved.canonical.get(key.variant) is None else "prompt_fs",
            "bsz": self.resolved.spec.tasks[key.task].examples_a_step,
            "n_val": val.kept,
            "n_val_tokens": val.n_tokens,
        }

    def _baseline(self, key: JobKey) -> Metrics | None:
        """The numbers that a variant is measured against; None for a baseline itself."""
        job = caveats.baseline_of(key, self.baselines)
        return None if job is None else job.metrics

    @property
    def _metric(self) -> str:
        return self.resolved.spec.prune.metric

    def _on_run(self, key: JobKey) -> Evidence | None:
        """What a single run's delta rests on, among the seeds that were decided together.

        The delta of a job's line is of the best token accuracy, whatever was decided by.
        """
        one = self._of_run(key)
        if one is None:
            return None
        together = self._decided_with[key].seeds
        if self._metric != RECORDED:
            return Evidence(seeds=together)
        return Evidence(d_acc_ci=one.d_acc_ci, p_value=one.p_value, seeds=together)

    def _caveats(
        self,
        key: JobKey,
        jobs: Sequence[StoredJob],
        evidence: Evidence | None,
        metric: Metric | None = None,
    ) -> list[Caveat]:
        seeds = self.statistics.counts.get(Arm(key.task, key.stage, key.variant))
        return caveats.of_jobs(
            self.resolved, jobs, self.baselines, evidence=evidence, seeds=seeds, metric=metric
        )


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _delta(metrics: Metrics | None, baseline: Metrics | None, name: str) -> float | None:
    if metrics is None or baseline is None:
        return None
    return difference(getattr(metrics, name), getattr(baseline, name))


def _source_names(session: Session, ids: Iterable[int | None]) -> dict[int, str]:
    """Where cached results were measured, by the ids of those jobs: round/task/stage/variant/seed."""
    query = select(Job.id, tables.Round.name, Job.task, Job.stage, Job.variant, Job.seed).join(tables.Round)
    return {
        id_: run_name(name, task, stage, variant, seed)
        for id_, name, task, stage, variant, seed in session.execute(query.where(Job.id.in_(set(ids))))
    }


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat(timespec="milliseconds")
