"""Rounds on real, tiny inputs, and ways to end their jobs without training."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from db import queue
from db.session import Database
from db.tables import Evaluation, Job, Worker
from orchestrator import engine
from orchestrator.rounds.reading import parse_round
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import JobKey
from tests.claims import take_next
from worker.job import JobResult, Metrics, Outcome, Usage
from worker.preparation import prepare

NOW = datetime(2026, 1, 1, tzinfo=UTC)

USAGE = Usage(device="cpu", kernel="chunked", micro_batch=4, padding_share=0.1, peak_memory_bytes=None)


def round_data(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "round": "r1",
        "model": {"random": {"layers": 3, "dim": 64, "vocab": 256}, "tokenizer": "bytes"},
        "stages": [
            {"name": "quick", "steps": 4, "eval_every": 2},
            {"name": "med", "steps": 8, "eval_every": 2},
        ],
        "tasks": {"s4": {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}},
        "variants": {"l1": {"layer_start": 1}, "l2": {"layer_start": 2}, "noop": {"layer_start": 9}},
    }
    return data | changes


def resolve(tmp_path: Path, **changes: Any) -> ResolvedRound:
    spec, _ = parse_round(yaml.safe_dump(round_data(**changes), sort_keys=False).encode(), "r.yaml")
    return ResolvedRound(spec, prepare(spec.model, spec.tasks, tmp_path / "cache", held_out=spec.held_out()))


def result(accuracy: float, *, steps: int = 4, distinct: int = 4, usage: Usage = USAGE) -> JobResult:
    metrics = Metrics(
        best_val_tok_acc=accuracy,
        best_val_loss=2 - accuracy,
        best_val_seq_acc=accuracy / 2,
        final_val_tok_acc=accuracy,
        best_step=steps,
        steps=steps,
        tokens=100 * steps,
        seconds=float(steps),
        distinct_predictions=distinct,
    )
    return JobResult(outcome=Outcome.OK, metrics=metrics, usage=usage)


def evaluation(job_id: int, metrics: Metrics) -> Evaluation:
    """The one evaluation of a job on ten examples of four answer tokens."""
    right = round(40 * metrics.best_val_tok_acc)
    return Evaluation(
        job_id=job_id,
        step=metrics.best_step,
        seconds=metrics.seconds,
        tokens=metrics.tokens,
        train_loss=metrics.best_val_loss,
        val_loss=metrics.best_val_loss,
        val_tok_acc=metrics.best_val_tok_acc,
        val_seq_acc=right // 4 / 10,
        distinct_predictions=metrics.distinct_predictions,
        correct=[min(4, max(0, right - 4 * example)) for example in range(10)],
    )


class Rig:
    """A database with a worker that ends jobs with results given in advance.

    With `by_example`, each is stored with an evaluation: its right answers come first, four to an example.
    """

    def __init__(self, database: Database, *, by_example: bool = False) -> None:
        self.database = database
        self.by_example = by_example
        with database.write() as session:
            worker = Worker(host="h", pid=1, device="cpu", device_lock="l", started_at=NOW, seen_at=NOW)
            session.add(worker)
            session.flush()
            self.worker_id = worker.id

    def submit(self, resolved: ResolvedRound) -> int:
        with self.database.write() as session:
            return engine.submit(session, resolved, "", by="me", now=NOW).round_id

    def run_next(self, outcome: JobResult, at: datetime = NOW, *, advance: bool = True) -> JobKey | None:
        """Ends the next job with `outcome` and advances its round, if it is to; None when there is none."""
        with self.database.write() as session:
            lease = take_next(session, worker_id=self.worker_id, now=at, lease_for=timedelta(minutes=1))
            if lease is None:
                return None
            job = session.get_one(Job, lease.job_id)
            key = JobKey(job.task, job.stage, job.variant, job.seed)
            if self.by_example and outcome.metrics is not None:
                session.add(evaluation(job.id, outcome.metrics))
            queue.complete(
                session,
                lease,
                now=at,
                outcome=outcome.outcome,
                reason=outcome.reason,
                result=outcome.model_dump(mode="json"),
            )
        if advance:
            with self.database.write() as session:
                engine.advance_job(session, lease.job_id, now=at)
        return key

    def run_all(
        self,
        accuracies: Mapping[tuple[str, str] | tuple[str, str, int], float],
        default: float = 0.2,
        at: datetime = NOW,
    ) -> list[JobKey]:
        """Ends every job; accuracies by (stage, variant), or with the seed."""
        done: list[JobKey] = []
        while True:
            with self.database.read() as session:
                waiting = [job for job in session.query(Job).order_by(Job.id) if job.state == "queued"]
            if not waiting:
                return done
            first = waiting[0]
            of_all = accuracies.get((first.stage, first.variant), default)
            accuracy = accuracies.get((first.stage, first.variant, first.seed), of_all)
            ended = self.run_next(result(accuracy), at)
            assert ended is not None
            done.append(ended)
