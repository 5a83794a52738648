"""Charts as SVG for the pages, each drawn once. Altair is slow to import, so it is only when something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from markupsafe import Markup

from orchestrator.charts.data import NARROW, Curve, Funnel, TaskCurves, TaskDeltas
from orchestrator.views import EvaluationView, JobView

WIDTH = NARROW  # so that charts are legible on a phone, and stand beside their table on a wide screen


@lru_cache(maxsize=512)
def of_deltas(data: TaskDeltas) -> Markup:
    """The delta chart of a task."""
    from orchestrator.charts import deltas
    from orchestrator.charts.rendering import svg

    return Markup(svg(deltas.chart(data, WIDTH)))  # noqa: S704 - written by an XML writer


@lru_cache(maxsize=128)
def of_curves(data: TaskCurves) -> Markup:
    """Learning curves of a task at a stage."""
    from orchestrator.charts import curves
    from orchestrator.charts.rendering import svg

    return Markup(svg(curves.chart(data, WIDTH)))  # noqa: S704


@lru_cache(maxsize=128)
def of_funnel(data: Funnel) -> Markup:
    """The funnel of a round."""
    from orchestrator.charts import funnel
    from orchestrator.charts.rendering import svg

    return Markup(svg(funnel.chart(data, WIDTH)))  # noqa: S704


def curves_of(runs: Sequence[tuple[JobView, Sequence[EvaluationView]]]) -> TaskCurves | None:
    """The curves of jobs of one task and stage; None where none of them has been evaluated."""
    curves = tuple(
        Curve(
            arm=job.config,
            task=job.task,
            stage=job.stage,
            seed=job.seed,
            steps=tuple(one.step for one in evaluations),
            values=tuple(one.val_tok_acc for one in evaluations),
            is_running=job.state == "running",
        )
        for job, evaluations in runs
        if evaluations
    )
    return TaskCurves(curves[0].task, curves[0].stage, curves) if curves else None
