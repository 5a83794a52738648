"""What `fsq status` and `fsq workers` say: views as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from db.glance import Glimpse
from db.states import JobState
from orchestrator.points import interval_text, points

if TYPE_CHECKING:
    from orchestrator.views.shapes import DecisionView, JobView, RoundLine, WorkerView


def rounds_text(rounds: Sequence[RoundLine | Glimpse]) -> str:
    """Every round in a line."""
    if not rounds:
        return (
            "no rounds yet; submit one with `fsq submit ROUND.yaml`, or run it here with `fsq run ROUND.yaml`"
        )
    width = max(len(line.round) for line in rounds)
    return "\n".join(
        f"{line.round:<{width}}  {line.state:<9}  "
        f"jobs {line.jobs[JobState.DONE]} done, {line.jobs[JobState.RUNNING]} running, "
        f"{line.jobs[JobState.QUEUED]} queued"
        + (f"; {_counts(line.decisions)}" if line.decisions else "")
        + (f"; {line.reason}" if line.reason else "")
        for line in rounds
    )


def round_text(line: RoundLine, jobs: Iterable[JobView], decisions: Sequence[DecisionView]) -> str:
    """A round with its jobs and decisions."""
    because = f" ({line.reason})" if line.reason else ""
    lines = [f"{line.round}: {line.state}{because}", *map(_job_text, jobs)]
    if decisions:
        lines.append(_counts(Counter(decision.decision for decision in decisions)))
    lines += map(_decision_text, decisions)
    return "\n".join(lines)


def workers_text(workers: Sequence[WorkerView]) -> str:
    """Every worker in a line."""
    if not workers:
        return "no worker yet; start one with `fsq work`"
    return "\n".join(
        f"{worker.host} {worker.device}  {worker.state}, last seen {worker.seen_at:%Y-%m-%d %H:%M:%S} UTC"
        + (f"; {worker.reason}" if worker.reason else "")
        + (f"; runs {worker.job.round}: {_name(worker.job)}" if worker.job else "")
        for worker in workers
    )


def _counts(decisions: dict[str, int]) -> str:
    return ", ".join(f"{count} {decision}" for decision, count in sorted(decisions.items()))


def _name(job: JobView | DecisionView) -> str:
    return f"{job.task} {job.stage} {job.config} seed {job.seed}"


def _job_text(job: JobView) -> str:
    text = f"  {_name(job)}: {job.outcome or job.state}"
    if job.best_val_tok_acc is not None:
        text += f" {job.best_val_tok_acc:.2%} of the tokens"
    if job.state is JobState.RUNNING and job.step:
        text += f", last evaluated at step {job.step}"
    return text + (f" ({job.reason})" if job.reason else "")


def _decision_text(decision: DecisionView) -> str:
    within = "" if decision.d_acc_ci is None else f" {interval_text(decision.d_acc_ci)}"
    delta = "" if decision.d_acc is None else f" ({points(decision.d_acc)}{within})"
    seeds = f"seed{'s' if len(decision.seeds) > 1 else ''} {', '.join(map(str, decision.seeds))}"
    doubtful = f" [{', '.join(decision.caveats)}]" if decision.caveats else ""
    return (
        f"  {decision.task} {decision.config} {seeds} {decision.stage}: "
        f"{decision.decision}{delta}: {decision.reason}{doubtful}"
    )
