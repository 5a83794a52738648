"""The records of a round: one flat object for every finished job and every decision, in the round's order.

The predecessor's keys keep their names and meaning (docs/records.md); accuracies and deltas are fractions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from sqlalchemy.orm import Session

from db import tables
from db.tables import JobState
from orchestrator import caveats, engine
from orchestrator.caveats import Caveat
from orchestrator.planner import Decision, JobKey, difference
from orchestrator.spec import ResolvedRound
from worker.job import BASELINE, Metrics, Usage

Record = dict[str, Any]


def records(session: Session, row: tables.Round) -> Iterator[Record]:
    """Every record there is so far; reads only."""
    resolved = engine.resolve(row)
    jobs = {engine.job_key(job): job for job in row.jobs}
    decided = {(d.task, d.stage, d.variant, d.seed): d for d in row.decisions}
    planned = engine.current_plan(resolved, jobs)
    writer = _Writer(resolved, jobs)
    for step in planned.steps:
        if isinstance(step, Decision):
            if step.key in decided:
                yield writer.decision(step.key, decided[step.key])
        elif step in jobs and jobs[step].state is JobState.DONE:
            yield writer.job(step, jobs[step])


def to_jsonl(record: Record) -> str:
    """A record as one line, without the line's end."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class _Writer:
    """Turns stored rows of one round into records."""

    resolved: ResolvedRound
    jobs: Mapping[JobKey, tables.Job]

    def job(self, key: JobKey, job: tables.Job) -> Record:
        metrics, usage = engine.metrics_of(job), _usage_of(job)
        baseline = None if key.variant == BASELINE else self._metrics(key._replace(variant=BASELINE))
        val = self.resolved.facts.tasks[key.task].val
        failed = metrics is None
        return self._head(key) | {
            "stage": key.stage,
            "status": job.outcome,
            "best_val_loss": metrics and metrics.best_val_loss,
            "best_val_tok_acc": metrics and metrics.best_val_tok_acc,
            "run_dir": f"runs/{self.resolved.spec.round}/{key.task}/{key.stage}/{key.variant}/seed{key.seed}",
            "error": job.reason if failed else None,
            "reason": None,
            "d_acc": _delta(metrics, baseline, "best_val_tok_acc"),
            "d_loss": _delta(metrics, baseline, "best_val_loss"),
            "d_acc_ci": None,
            "baseline_val_tok_acc": baseline and baseline.best_val_tok_acc,
            "final_val_tok_acc": metrics and metrics.final_val_tok_acc,
            "best_val_seq_acc": metrics and metrics.best_val_seq_acc,
            "n_val": val.kept,
            "n_val_tokens": val.n_tokens,
            "steps": metrics and metrics.steps,
            "tokens": metrics and metrics.tokens,
            "seconds": metrics and round(metrics.seconds, 3),
            "peak_memory_bytes": usage and usage.peak_memory_bytes,
            "micro_batch": usage and usage.micro_batch,
            "padding_share": usage and usage.padding_share,
            "fingerprint": job.fingerprint,
            "cached_from": _source_name(job),
            "caveats": self._caveats(key, metrics, usage, baseline),
            "started_at": _time(job.started_at),
            "finished_at": _time(job.finished_at),
            "device": usage and usage.device,
            "kernel": usage and usage.kernel,
            "version": version("fsq"),
        }

    def decision(self, key: JobKey, decision: tables.Decision) -> Record:
        metrics, baseline = self._metrics(key), self._metrics(key._replace(variant=BASELINE))
        job = self.jobs.get(key)
        usage = _usage_of(job) if job else None
        return self._head(key) | {
            "stage": "decision",
            "decided_stage": key.stage,
            "status": decision.decision,
            "reason": decision.reason,
            "best_val_tok_acc": metrics and metrics.best_val_tok_acc,
            "baseline_val_tok_acc": baseline and baseline.best_val_tok_acc,
            "metric": self.resolved.spec.prune.metric,
            "d_acc": decision.d_acc,
            "d_loss": decision.d_loss,
            "d_acc_ci": None,
            "caveats": self._caveats(key, metrics, usage, baseline),
            "finished_at": _time(decision.created_at),
            "version": version("fsq"),
        }

    def _head(self, key: JobKey) -> Record:
        return {
            "round": self.resolved.spec.round,
            "task": key.task,
            "stage": key.stage,
            "config": key.variant,
            "variant_of": None if key.variant == BASELINE else BASELINE,
            "seed": key.seed,
            "mode": "no_fs" if self.resolved.canonical.get(key.variant) is None else "prompt_fs",
            "bsz": self.resolved.spec.tasks[key.task].batch_size,
        }

    def _metrics(self, key: JobKey) -> Metrics | None:
        job = self.jobs.get(key)
        return engine.metrics_of(job) if job else None

    def _caveats(
        self, key: JobKey, metrics: Metrics | None, usage: Usage | None, baseline: Metrics | None
    ) -> list[Caveat]:
        if metrics is None or usage is None:
            return []
        report = self.resolved.facts.tasks[key.task]
        found = [*caveats.of_data(report)]
        found += caveats.of_run(usage, metrics, self.resolved.spec.tasks[key.task].batch_size)
        found += caveats.of_baseline(baseline or metrics, report)
        if baseline is not None:
            found += caveats.of_protocol(self.resolved, key.task)
            found += caveats.of_pair(metrics, baseline)
            found += caveats.of_selection(self.resolved, key.stage)
        return sorted(found)


def _usage_of(job: tables.Job) -> Usage | None:
    stored = (job.result or {}).get("usage")
    return Usage.from_json(stored) if stored else None


def _delta(metrics: Metrics | None, baseline: Metrics | None, name: str) -> float | None:
    if metrics is None or baseline is None:
        return None
    return difference(getattr(metrics, name), getattr(baseline, name))


def _source_name(job: tables.Job) -> str | None:
    """Where a cached result was measured: round/task/stage/variant/seed."""
    source = job.cached_from
    if source is None:
        return None
    return f"{source.round.name}/{source.task}/{source.stage}/{source.variant}/seed{source.seed}"


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat(timespec="milliseconds")
