"""What `fsq status` says: all rounds in a line each, or one round with its jobs and decisions."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.session import Database
from db.tables import Decision, Evaluation, Job, JobState, Round
from orchestrator import engine
from orchestrator.planner import points

View = dict[str, Any]


def of_all(session: Session) -> View:
    """Every round with how far it is, the newest last."""
    jobs = session.execute(select(Job.round_id, Job.state, func.count()).group_by(Job.round_id, Job.state))
    decisions = session.execute(
        select(Decision.round_id, Decision.decision, func.count()).group_by(
            Decision.round_id, Decision.decision
        )
    )
    by_state = {(round_id, state): count for round_id, state, count in jobs}
    by_decision: dict[int, dict[str, int]] = {}
    for round_id, decision, count in decisions:
        by_decision.setdefault(round_id, {})[decision] = count
    return {
        "rounds": [
            {
                "round": row.name,
                "state": row.state,
                "reason": row.reason,
                "jobs": {state.value: by_state.get((row.id, state), 0) for state in JobState},
                "decisions": by_decision.get(row.id, {}),
                "created_at": row.created_at.isoformat(),
            }
            for row in session.scalars(select(Round).order_by(Round.id))
        ]
    }


def of_round(session: Session, name: str) -> View:
    """One round's jobs and decisions; raises NotFound."""
    row = engine.find(session, name)
    return {
        "round": row.name,
        "state": row.state,
        "reason": row.reason,
        "created_at": row.created_at.isoformat(),
        "finished_at": row.finished_at and row.finished_at.isoformat(),
        "jobs": [_job(session, job) for job in row.jobs],
        "decisions": [
            {
                "task": d.task,
                "config": d.variant,
                "seed": d.seed,
                "stage": d.stage,
                "decision": d.decision,
                "d_acc": d.d_acc,
                "reason": d.reason,
            }
            for d in row.decisions
        ],
    }


def _job(session: Session, job: Job) -> View:
    metrics = engine.metrics_of(job)
    view: View = {
        "task": job.task,
        "stage": job.stage,
        "config": job.variant,
        "seed": job.seed,
        "state": job.state,
        "outcome": job.outcome,
        "reason": job.reason,
        "attempts": job.attempts,
        "best_val_tok_acc": metrics and metrics.best_val_tok_acc,
    }
    if job.state is JobState.RUNNING:
        view["step"] = session.scalar(select(func.max(Evaluation.step)).where(Evaluation.job_id == job.id))
    return view


def as_text(view: View) -> str:
    """A view for people."""
    return _rounds_text(view["rounds"]) if "rounds" in view else _round_text(view)


def _rounds_text(rounds: list[View]) -> str:
    if not rounds:
        return (
            "no rounds yet; submit one with `fsq submit ROUND.yaml`, or run it here with `fsq run ROUND.yaml`"
        )
    width = max(len(row["round"]) for row in rounds)
    return "\n".join(
        f"{row['round']:<{width}}  {row['state']:<9}  "
        f"jobs {row['jobs']['done']} done, {row['jobs']['running']} running, {row['jobs']['queued']} queued"
        + (f"; {_counts(row['decisions'])}" if row["decisions"] else "")
        + (f"; {row['reason']}" if row["reason"] else "")
        for row in rounds
    )


def _counts(decisions: dict[str, int]) -> str:
    return ", ".join(f"{count} {decision}" for decision, count in sorted(decisions.items()))


def _round_text(view: View) -> str:
    because = f" ({view['reason']})" if view["reason"] else ""
    lines = [f"{view['round']}: {view['state']}{because}"]
    lines += [_job_text(job) for job in view["jobs"]]
    if view["decisions"]:
        lines.append(_counts(dict(Counter(d["decision"] for d in view["decisions"]))))
    for d in view["decisions"]:
        delta = "" if d["d_acc"] is None else f" ({points(d['d_acc'])})"
        lines.append(
            f"  {d['task']} {d['config']} seed {d['seed']} {d['stage']}: {d['decision']}{delta}: {d['reason']}"
        )
    return "\n".join(lines)


def _job_text(job: View) -> str:
    state = job["outcome"] or job["state"]
    accuracy = job["best_val_tok_acc"]
    text = f"  {job['task']} {job['stage']} {job['config']} seed {job['seed']}: {state}"
    if accuracy is not None:
        text += f" {accuracy:.2%}"
    if job["state"] == JobState.RUNNING and job["step"]:
        text += f", last evaluated at step {job['step']}"
    return text + (f" ({job['reason']})" if job["reason"] else "")


def watch(database: Database, name: str | None) -> None:
    """Shows a view and refreshes it every second until interrupted; raises NotFound."""
    with Live(console=Console(), refresh_per_second=2) as live:
        while True:
            with database.read() as session:
                view = of_round(session, name) if name else of_all(session)
            live.update(Text(as_text(view)))
            time.sleep(1)
