"""The chart of a whole round, from its records and learning curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.charts.data import WIDE, Curve, Delta, Funnel, TaskCurves, TaskDeltas
from orchestrator.errors import BadInput
from orchestrator.findings.records import Record, is_decision
from orchestrator.verdicts import Verdict
from orchestrator.views.shapes import JobView, RoundView
from worker.job import BASELINE

if TYPE_CHECKING:
    import altair as alt


def chart(
    found: RoundView,
    records: Sequence[Record],
    curves: Sequence[Curve],
    *,
    width: int = WIDE,
) -> alt.VConcatChart:
    """The funnel, then for each task its deltas and, below, the curves of the last stage reached.

    Raises BadInput when there is nothing to show yet.
    """
    from orchestrator.charts import composed

    parts: list[Funnel | TaskDeltas | TaskCurves] = []
    for task in dict.fromkeys([*(record["task"] for record in records), *(curve.task for curve in curves)]):
        deltas, of_task = deltas_of(task, records, found.min_delta), curves_of(task, records, curves)
        parts += [deltas] if deltas.deltas else []
        parts += [of_task] if of_task else []
    if not parts:
        raise BadInput(f"round {found.round} has no decisions and no evaluations to plot yet")
    return composed.chart(found.round, [funnel_of(found, records), *parts], width)


def funnel_of(found: RoundView, records: Sequence[Record]) -> Funnel:
    """How far the round has come."""
    outcomes = Counter(record["status"] for record in records if not is_decision(record))
    verdicts: dict[str, Counter[str]] = {}
    for record in records:
        if is_decision(record):
            verdicts.setdefault(record["decided_stage"], Counter())[record["status"]] += 1
    return Funnel.of(found, outcomes, verdicts)


def deltas_of(task: str, records: Sequence[Record], min_delta: float) -> TaskDeltas:
    """What was decided on a task."""
    decisions = [record for record in records if record["task"] == task and is_decision(record)]
    return TaskDeltas(
        task=task,
        variants=tuple(dict.fromkeys(record["config"] for record in decisions)),
        stages=stages_of(task, records),
        deltas=tuple(_delta(record) for record in decisions),
        min_delta=min_delta,
        metric=decisions[0]["metric"] if decisions else "best_val_tok_acc",
    )


def curves_of(task: str, records: Sequence[Record], curves: Sequence[Curve]) -> TaskCurves | None:
    """A task's curves at the last stage that has some; with several seeds as bands."""
    mine = [curve for curve in curves if curve.task == task and curve.steps]
    if not mine:
        return None
    order = list(dict.fromkeys([*stages_of(task, records), *(curve.stage for curve in mine)]))
    last = max((curve.stage for curve in mine), key=order.index)
    shown = sorted((curve for curve in mine if curve.stage == last), key=lambda curve: curve.arm != BASELINE)
    return TaskCurves(
        task=task,
        stage=last,
        curves=tuple(shown),
        is_banded=len({curve.seed for curve in shown}) > 1,
    )


def last_reached(stages: Sequence[str], jobs: Sequence[JobView]) -> list[JobView]:
    """The jobs that have a curve, of each task's last stage that has one."""
    begun = [job for job in jobs if job.step is not None]
    last = {
        task: max((job.stage for job in begun if job.task == task), key=stages.index)
        for task in {job.task for job in begun}
    }
    return [job for job in begun if job.stage == last[job.task]]


def stages_of(task: str, records: Sequence[Record]) -> tuple[str, ...]:
    """A task's stages in their order: none is reached before the one before it."""
    mine = [record for record in records if record["task"] == task]
    stages: list[str] = [record.get("decided_stage") or record["stage"] for record in mine]
    return tuple(dict.fromkeys(stages))


def _delta(record: Record) -> Delta:
    interval = record["d_acc_ci"]
    return Delta(
        variant=record["config"],
        stage=record["decided_stage"],
        seed=record["seed"],
        verdict=Verdict(record["status"]),
        d_acc=record["d_acc"],
        interval=None if interval is None else (interval[0], interval[1]),
        reason=record["reason"],
    )
