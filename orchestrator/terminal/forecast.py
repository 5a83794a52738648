"""What `fsq plan` says: a forecast as text."""

from __future__ import annotations

from orchestrator.durations import duration
from orchestrator.findings.caveats import EXPLANATIONS
from orchestrator.points import points
from orchestrator.terminal.build_report import report_lines
from orchestrator.views.forecast import Forecast, TaskForecast


def as_text(view: Forecast) -> str:
    """A forecast for people."""
    lines = [f"{view.round}: {view.n_layer} layers, {view.n_params:,} parameters"]
    lines += [f"  cannot be submitted: {view.conflict}"] if view.conflict else []
    lines += [f"  cannot be submitted yet: there is no round named {view.missing!r}"] if view.missing else []
    lines += [f"  variants of {source} come once it has ended, not counted here" for source in view.waits_for]
    lines += [f"  no-op on this model: {name} (decided at once, never trained)" for name in view.no_ops]
    lines += [f"  {name} computes the same as {first}: run once" for name, first in view.same_as.items()]
    lines += [f"  warning: {warning}" for warning in view.warnings]
    for task in view.tasks:
        lines += _task_text(task, view.min_delta)
    return "\n".join(lines)


def _task_text(task: TaskForecast, min_delta: float) -> list[str]:
    lines = [f"{task.task}:", *(f"  {line}" for line in report_lines(task.examples))]
    lines.append(f"  resolution one step is {points(task.resolution)}, the threshold {points(min_delta)}")
    for stage, jobs in task.stages.items():
        certain = "" if jobs.certain else "at most "
        known = f", {jobs.known} of which need no training" if jobs.known else ""
        lines.append(f"  {stage:<10} {certain}{jobs.jobs} jobs{known}")
    lines.append(f"  time       {_time(task.seconds_certain)}, at most {_time(task.seconds_at_most)}")
    lines += [f"  caveat     {caveat}: {EXPLANATIONS[caveat]}" for caveat in task.caveats]
    return lines


def _time(seconds: float | None) -> str:
    return "not known (nothing measured yet)" if seconds is None else duration(seconds)
