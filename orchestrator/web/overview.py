"""Everything that a round's page shows, worked out once for each event of the round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from db import tables
from db.session import Database
from db.tables import JobState
from orchestrator.charts.data import Curve, Funnel, TaskCurves
from orchestrator.findings.caveats import Caveat
from orchestrator.lru import LruCache
from orchestrator.rounds import stored_round
from orchestrator.rounds.variants import Selection
from orchestrator.views import lookup, progress
from orchestrator.views.lookup import Slice
from orchestrator.views.progress import Arms
from orchestrator.views.shapes import EventView, JobView, RoundView
from orchestrator.web import shown_decisions
from orchestrator.web.drawings import Data, curves_of
from orchestrator.web.shown_decisions import TaskDecisions
from worker.job import BASELINE

EVENTS = 50
CHARTED = 12  # tasks with a chart on the page; the others' are a link away
RUNNING = 4  # jobs at once that are shown; a round with `parallel` may have more


@dataclass(frozen=True)
class Run:
    """A job with its learning curve beside its baseline's."""

    job: JobView
    baseline: JobView | None  # None for a baseline itself
    curves: TaskCurves | None  # None before the first evaluation

    @property
    def best(self) -> float | None:
        """The job's best accuracy so far."""
        own = self._own
        return max(own.values) if own else self.job.best_val_tok_acc

    @property
    def latest(self) -> tuple[int, float, float | None] | None:
        """The job's last evaluation: its step, its accuracy, and the baseline's at the same step."""
        own = self._own
        if own is None:
            return None
        beside = self._curve_of(BASELINE) if self.baseline else None
        reference = dict(zip(beside.steps, beside.values, strict=True)) if beside else {}
        return own.steps[-1], own.values[-1], reference.get(own.steps[-1])

    @property
    def _own(self) -> Curve | None:
        return self._curve_of(self.job.config)

    def _curve_of(self, arm: str) -> Curve | None:
        curves = self.curves.curves if self.curves else ()
        return next((curve for curve in curves if curve.arm == arm), None)


@dataclass(frozen=True)
class Overview:
    """A round as its page shows it."""

    view: RoundView
    arms: Arms
    owner: str | None
    unmeasured: int
    outcomes: Mapping[str, int]  # of the jobs that have ended
    selections: Sequence[Selection]  # variants that are not known yet
    running: Sequence[Run]
    tasks: Mapping[str, TaskDecisions]  # those on which something is decided
    events: Sequence[EventView]  # the newest first

    @property
    def charts(self) -> list[Data]:
        """Everything that is to be drawn, the first on the page first."""
        curves = [run.curves for run in self.running if run.curves]
        funnel = [] if self.selections else [self.funnel]
        return [*curves, *funnel, *(self.tasks[task].chart for task in self.charted)]

    @property
    def charted(self) -> list[str]:
        """The tasks whose chart is on the page."""
        return list(self.tasks)[:CHARTED]

    @property
    def funnel(self) -> Funnel:
        return Funnel.of(self.view, self.outcomes, self.arms.verdicts)

    @property
    def shows_all(self) -> bool:
        """Whether every decision is on the page."""
        return all(len(task.shown) == task.total for task in self.tasks.values())

    @property
    def doubts(self) -> dict[Caveat, list[tuple[TaskDecisions, Sequence[str]]]]:
        """Each caveat with the tasks and variants that it touches."""
        touched: dict[Caveat, list[tuple[TaskDecisions, Sequence[str]]]] = {}
        for task in self.tasks.values():
            for caveat, variants in task.doubts.items():
                touched.setdefault(caveat, []).append((task, variants))
        return dict(sorted(touched.items()))


class Overviews:
    """The overviews of the rounds of one database; those asked for lately are kept until something happens."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rounds: LruCache[Overview] = LruCache(128)
        self._tasks: LruCache[TaskDecisions] = LruCache(512)

    def of(self, name: str) -> Overview:
        """The overview of a round; raises NotFound."""
        with self._database.read() as session:
            row = stored_round.find(session, name)
            return self._rounds.get((row.id, row.n_events), lambda: self._work_out(session, row))

    def _work_out(self, session: Session, row: tables.Round) -> Overview:
        newest = lookup.events_since(session, row.id, row.n_events - EVENTS, EVENTS)
        running = lookup.jobs(session, row.name, Slice(limit=RUNNING), JobState.RUNNING).items
        return Overview(
            view=progress.round_(session, row.name),
            arms=progress.arms(session, [row.name])[row.name],
            owner=lookup.submitted_by(session, row.name),
            unmeasured=progress.unmeasured(session, row.id),
            outcomes=progress.outcomes(session, row.id),
            selections=stored_round.resolve(row).spec.selections,
            running=[run(session, job) for job in running],
            tasks=self._decisions(session, row),
            events=newest[::-1],
        )

    def _decisions(self, session: Session, row: tables.Round) -> dict[str, TaskDecisions]:
        decided = shown_decisions.progress(session, row.id)
        resolved = stored_round.resolve(row)
        return {
            task: self._tasks.get(
                (row.id, decided[task]),
                lambda task=task: shown_decisions.of_task(session, row.id, resolved, task),  # type: ignore[misc]
            )
            for task in resolved.search.tasks
            if task in decided
        }


def run(session: Session, job: JobView) -> Run:
    """A job with what belongs beside it."""
    baseline = None if job.config == BASELINE else progress.baseline(session, job)
    shown = [one for one in (baseline, job) if one is not None]
    return Run(job, baseline, curves_of([(one, lookup.evaluations(session, one.id)) for one in shown]))
