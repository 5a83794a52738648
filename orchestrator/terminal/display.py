"""What `fsq run` and `fsq work` show while they work: a live panel on a terminal, plain lines elsewhere.

Both are told the same by the worker (`worker.running.Listener`) and by the engine (`decided`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.durations import duration
from orchestrator.findings.records import RECORDED
from orchestrator.points import difference, interval_text, points
from orchestrator.verdicts import Verdict
from worker.job import (
    BASELINE,
    Budget,
    Evaluation,
    JobResult,
    Metric,
    accuracy_of,
    is_of_last_evaluation,
    is_of_whole_answers,
)

if TYPE_CHECKING:
    from orchestrator.engine import Taken
    from orchestrator.views.outlook import Outlook
    from worker.running import RunningJob

COLOURS = {
    Verdict.PROMOTED: "green",
    Verdict.CONFIRMED: "bold green",
    Verdict.PRUNED: "yellow",
    Verdict.REJECTED: "yellow",
    Verdict.NO_OP: "cyan",
    Verdict.UNDECIDED: "red",
}
BARS = "▁▂▃▄▅▆▇█"


AskOutlook = Callable[["RunningJob"], "Outlook"]


class Display(Protocol):
    """A listener that also hears of decisions, and is closed at the end."""

    def started(self, job: RunningJob) -> None: ...
    def progressed(self, job: RunningJob, step: int, seconds: float, loss: float) -> None: ...
    def evaluated(self, job: RunningJob, evaluation: Evaluation) -> None: ...
    def ended(self, job: RunningJob, result: JobResult, will_retry: bool) -> None: ...
    def troubled(self, message: str) -> None: ...
    def decided(self, taken: Sequence[Taken]) -> None: ...
    def interrupted(self, message: str) -> None: ...
    def close(self) -> None: ...


def display_for(console: Console, outlook: AskOutlook) -> Display:
    """The display that suits where the output goes."""
    return LiveDisplay(console, outlook) if console.is_terminal else PlainDisplay(console, outlook)


def refresh(text: Callable[[], str]) -> NoReturn:
    """Shows a text and asks for it again every second, until interrupted."""
    with Live(console=Console(), refresh_per_second=2) as live:
        while True:
            live.update(Text(text()))
            time.sleep(1)


class PlainDisplay:
    """One line for each thing that happens."""

    def __init__(self, console: Console, outlook: AskOutlook) -> None:
        self._console = console
        self._outlook = outlook
        self._now: Outlook | None = None
        self._steps = 0  # of the running job in this process
        self._inherited: Evaluation | None = None  # the last one that came with a snapshot

    def started(self, job: RunningJob) -> None:
        self._now = self._outlook(job)
        self._steps = 0
        again = f" (attempt {job.attempt})" if job.attempt > 1 else ""
        left = f", at most {duration(self._now.seconds_left)} left" if self._now.seconds_left else ""
        self._line(f"{job}{again}: started ({self._now.done} of at most {self._now.at_most} jobs done{left})")

    def progressed(self, job: RunningJob, step: int, seconds: float, loss: float) -> None:
        """Too often for plain lines; but the first step shows what was taken over from an earlier stage."""
        if not self._steps and self._inherited is not None:
            self._line(
                f"  continued from step {self._inherited.step}, {_accuracy(self._inherited, self._metric)}"
            )
        self._steps, self._inherited = step, None

    def evaluated(self, job: RunningJob, evaluation: Evaluation) -> None:
        if not self._steps:
            self._inherited = evaluation
            return
        self._line(f"  step {evaluation.step:>5}  {_curve_point(job, evaluation, self._now)}")

    def ended(self, job: RunningJob, result: JobResult, will_retry: bool) -> None:
        self._line(f"{job}: {_ending(result, will_retry, self._metric)}")

    def troubled(self, message: str) -> None:
        self._line(message)

    def decided(self, taken: Sequence[Taken]) -> None:
        for each in taken:
            self._line(_verdict(each))

    def interrupted(self, message: str) -> None:
        print(message, file=sys.stderr)

    def close(self) -> None:
        """Nothing to put away."""

    @property
    def _metric(self) -> Metric:
        return RECORDED if self._now is None else self._now.metric

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass
class _Panel:
    """What the live panel shows of the running job."""

    job: RunningJob
    outlook: Outlook
    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    curve: dict[int, float] = field(default_factory=dict)

    def __rich__(self) -> Group:
        done = budget_share(self.job.spec.budget, self.step, self.seconds)
        left = duration(self.seconds / done - self.seconds) if done else "?"
        head = Text.assemble(
            ("● ", "green"),
            (f"{self.job.round}  {self.job}", "bold"),
            f"  step {self.step}{_of(self.job.spec.budget)}  loss {self.loss:.3f}",
        )
        bar = Table.grid(padding=(0, 1))
        round_left = self.outlook.seconds_left
        round_text = f"round: {self.outlook.done} of at most {self.outlook.at_most} jobs"
        round_text += f", at most {duration(round_left)} left" if round_left else ""
        bar.add_row(ProgressBar(total=1.0, completed=done, width=30), f"{left} left in the budget")
        return Group(head, bar, *self._curves(), Text(round_text, style="dim"))

    def _curves(self) -> list[Text]:
        if not self.curve:
            return []
        values = [*self.curve.values(), *self.outlook.baseline.values()]
        low, high = min(values), max(values)
        name = self.job.variant
        lines = [
            Text(f"{name:>24} {sparkline(self.curve.values(), low, high)} {[*self.curve.values()][-1]:.2%}")
        ]
        if name != BASELINE and self.outlook.baseline:
            same = [accuracy for step, accuracy in self.outlook.baseline.items() if step <= max(self.curve)]
            if same:
                lines.append(Text(f"{BASELINE:>24} {sparkline(same, low, high)} {same[-1]:.2%}", style="dim"))
        return lines


class LiveDisplay:
    """A panel with the running job; decisions and endings scroll by above it."""

    def __init__(self, console: Console, outlook: AskOutlook) -> None:
        self._outlook = outlook
        self._panel: _Panel | None = None
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def started(self, job: RunningJob) -> None:
        self._panel = _Panel(job, self._outlook(job))
        self._live.update(self._panel)

    def progressed(self, job: RunningJob, step: int, seconds: float, loss: float) -> None:
        if self._panel is not None:
            self._panel.step, self._panel.seconds, self._panel.loss = step, seconds, loss

    def evaluated(self, job: RunningJob, evaluation: Evaluation) -> None:
        if self._panel is not None:
            accuracy = getattr(evaluation, accuracy_of(self._panel.outlook.metric))
            self._panel.curve[evaluation.step] = accuracy

    def ended(self, job: RunningJob, result: JobResult, will_retry: bool) -> None:
        metric = RECORDED if self._panel is None else self._panel.outlook.metric
        self._print(Text(f"{job}: {_ending(result, will_retry, metric)}"))

    def troubled(self, message: str) -> None:
        self._print(Text(message, style="red"))

    def decided(self, taken: Sequence[Taken]) -> None:
        for each in taken:
            self._print(Text(_verdict(each), style=COLOURS[each.decision.verdict]))

    def interrupted(self, message: str) -> None:
        print(message, file=sys.stderr)

    def close(self) -> None:
        self._live.stop()

    def _print(self, text: Text) -> None:
        self._live.console.print(text, soft_wrap=True)


def budget_share(budget: Budget, step: int, seconds: float) -> float:
    """How much of a budget is spent, 0 to 1: of its steps or its seconds, whichever is further."""
    shares = [
        step / budget.steps if budget.steps else 0.0,
        seconds / budget.seconds if budget.seconds else 0.0,
    ]
    return min(1.0, max(shares))


def sparkline(values: Iterable[float], low: float, high: float) -> str:
    """Values as a row of bars between `low` and `high`."""
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def _of(budget: Budget) -> str:
    return f"/{budget.steps}" if budget.steps else ""


def _curve_point(job: RunningJob, evaluation: Evaluation, outlook: Outlook | None) -> str:
    metric = RECORDED if outlook is None else outlook.metric
    text = f"loss {evaluation.val_loss:.4f}  {_accuracy(evaluation, metric)}"
    baseline = outlook.baseline.get(evaluation.step) if outlook and job.variant != BASELINE else None
    if baseline is None:
        return text
    delta = difference(getattr(evaluation, accuracy_of(metric)), baseline)
    return f"{text}  baseline {baseline:.2%}  ({points(delta)})"


def _accuracy(evaluation: Evaluation, metric: Metric) -> str:
    """What the rule goes by: tokens, if nothing else is said."""
    name = "acc of whole answers" if is_of_whole_answers(metric) else "acc"
    return f"{name} {getattr(evaluation, accuracy_of(metric)):.2%}"


def _ending(result: JobResult, will_retry: bool, metric: Metric) -> str:
    if result.metrics is None:
        return f"{result.outcome}: {result.reason}{' (will be tried again)' if will_retry else ''}"
    metrics = result.metrics
    which = "last" if is_of_last_evaluation(metric) else "best"
    of_answers = " of whole answers" if is_of_whole_answers(metric) else ""
    best = f"{which} {getattr(metrics, metric):.2%}{of_answers} at step {metrics.step_of(metric)}"
    text = f"{best}, {metrics.steps} steps"
    continued = result.usage.continued_from if result.usage else 0
    return f"{text} in {duration(metrics.seconds)}" + (
        f", continued from step {continued}" if continued else ""
    )


def _verdict(taken: Taken) -> str:
    decision, interval = taken.decision, taken.evidence and taken.evidence.d_acc_ci
    key = decision.key
    seeds = ", ".join(map(str, decision.seeds or (key.seed,)))
    within = f" (95 % {interval_text(interval)})" if interval else ""
    return (
        f"=> {key.task} {key.variant} seed{'s' if decision.seeds else ''} {seeds} {decision.verdict} at {key.stage}: "
        f"{decision.reason}{within}"
    )
