"""The charts of a report: what they show, in the order in which they stand below each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from orchestrator.charts.data import (
    WIDE,
    Curve,
    Forest,
    Funnel,
    Pair,
    Pooled,
    Spending,
    Spent,
    StagePairs,
    TaskCurves,
)
from orchestrator.charts.of_round import funnel_of
from orchestrator.errors import BadInput
from orchestrator.findings.records import Record, key_of
from orchestrator.reports.effects import Effect, Report, stages_of
from orchestrator.reports.gathering import RoundResults
from orchestrator.search import JobKey
from orchestrator.verdicts import Verdict
from worker.job import BASELINE, Outcome

if TYPE_CHECKING:
    import altair as alt

UNMEASURED = "unmeasured"


def chart(report: Report, curves: Sequence[Curve], width: int = WIDE) -> alt.VConcatChart:
    """Everything below each other; raises BadInput where nothing was decided yet."""
    from orchestrator.charts import composed

    tasks = [part for on_task in of_tasks(report, curves).values() for part in on_task]
    if not tasks:
        raise BadInput("there is nothing to draw yet: no variant was measured")
    return composed.chart(name_of(report.rounds), [*of_search(report), *tasks], width)


def of_search(report: Report) -> list[Funnel | Spending | StagePairs]:
    """The funnel of all rounds, their accelerator time, and each stage against the next."""
    parts: list[Funnel | Spending | StagePairs] = [funnel(report.rounds)]
    time = spending(report.rounds)
    parts += [time] if time.spent else []
    return [*parts, *stage_pairs(report.rounds)]


def of_tasks(report: Report, curves: Sequence[Curve]) -> dict[str, list[Forest | TaskCurves]]:
    """Of each task that was measured its forest plot, and the learning curves of the last stage that has some."""
    found: dict[str, list[Forest | TaskCurves]] = {}
    for task, effects in report.tasks.items():
        parts: list[Forest | TaskCurves] = []
        if deltas := tuple(_pooled(effects)):
            parts.append(Forest(task, deltas))
        if shown := task_curves(task, curves, stages_of(report.rounds)):
            parts.append(shown)
        if parts:
            found[task] = parts
    return found


def name_of(rounds: Sequence[RoundResults]) -> str:
    return rounds[0].view.round if len(rounds) == 1 else f"{len(rounds)} rounds"


def _pooled(effects: Sequence[Effect]) -> Iterator[Pooled]:
    for one in effects:
        if one.across is not None:
            yield Pooled(
                one.marked_name, one.stage, one.across.mean, one.interval, one.across.pattern, one.p_value
            )


def task_curves(task: str, curves: Sequence[Curve], stages: Sequence[str]) -> TaskCurves | None:
    """Curves of the runs that were evaluated at the same steps as most: the mean of others would mislead."""
    mine = [curve for curve in curves if curve.task == task and curve.steps]
    if not mine:
        return None
    stage = max((curve.stage for curve in mine), key=stages.index)
    at_stage = [curve for curve in mine if curve.stage == stage]
    steps = Counter(curve.steps for curve in at_stage).most_common(1)[0][0]
    shown = sorted(
        (curve for curve in at_stage if curve.steps == steps), key=lambda curve: curve.arm != BASELINE
    )
    is_banded = len({curve.arm for curve in shown}) < len(shown)
    return TaskCurves(task=task, stage=stage, curves=tuple(shown), is_banded=is_banded)


def stage_pairs(rounds: Sequence[RoundResults]) -> list[StagePairs]:
    """Each stage against the next, where a variant was measured at both; of equal runs one."""
    found: dict[tuple[str, str], dict[tuple[str, str], Pair]] = {}
    for one in rounds:
        deltas = {key_of(record): record for record in one.jobs if record["d_acc"] is not None}
        for first, then in pairwise(one.view.stages):
            for (task, stage, variant, seed), record in deltas.items():
                later = deltas.get(JobKey(task, then, variant, seed))
                if stage == first and variant != one.control and later is not None:
                    pair = Pair(one.view.round, task, variant, seed, record["d_acc"], later["d_acc"])
                    prints = record["fingerprint"], later["fingerprint"]
                    found.setdefault((first, then), {}).setdefault(prints, pair)
    return [StagePairs(first, then, tuple(pairs.values())) for (first, then), pairs in found.items()]


def funnel(rounds: Sequence[RoundResults]) -> Funnel:
    """The funnels of all rounds that have started, added up."""
    funnels = [funnel_of(one.view, one.records) for one in rounds if one.view.funnel.planned is not None]
    return Funnel(
        round=name_of(rounds),
        planned=sum(one.planned for one in funnels),
        cached=sum(one.cached for one in funnels),
        run=sum(one.run for one in funnels),
        unmeasured=sum(one.unmeasured for one in funnels),
        pruned=sum(one.pruned for one in funnels),
        rejected=sum(one.rejected for one in funnels),
        promoted=sum(one.promoted for one in funnels),
        confirmed=sum(one.confirmed for one in funnels),
    )


def spending(rounds: Sequence[RoundResults]) -> Spending:
    """The time from each job's start to its end; cached jobs took none."""
    spent: Counter[tuple[str, str]] = Counter()
    for one in rounds:
        for record in one.jobs:
            seconds = held_seconds(record)
            if seconds > 0:
                spent[record["stage"], _use(record, one.verdicts)] += seconds  # type: ignore[assignment]
    stages = [stage for stage in stages_of(rounds) if any(stage == where for where, _ in spent)]
    return Spending(
        name=name_of(rounds),
        stages=tuple(stages),
        spent=tuple(Spent(stage, on, seconds) for (stage, on), seconds in spent.items()),
    )


def held_seconds(record: Record) -> float:
    """How long a job held the accelerator."""
    if record["status"] == Outcome.CACHED or not (record["started_at"] and record["finished_at"]):
        return 0.0
    begin, end = (datetime.fromisoformat(record[name]) for name in ("started_at", "finished_at"))
    return (end - begin).total_seconds()


def _use(record: Record, verdicts: Mapping[JobKey, Record]) -> str:
    """What a job came to: a baseline, a verdict, or nothing that can be told."""
    if record["variant_of"] is None:
        return UNMEASURED if record["best_val_tok_acc"] is None else BASELINE
    decided = verdicts.get(key_of(record))
    return UNMEASURED if decided is None or decided["status"] == Verdict.UNDECIDED else decided["status"]
