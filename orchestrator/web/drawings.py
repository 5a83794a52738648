"""Charts as SVG for the pages, each drawn once, in a thread of its own.

Drawing takes some tenths of a second. A page waits for its charts only so long; it then says which are missing, and
asks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from markupsafe import Markup

from orchestrator.charts.data import NARROW, Curve, Funnel, TaskCurves, TaskDeltas
from orchestrator.recent import Recent
from orchestrator.views import EvaluationView, JobView

Data = Funnel | TaskCurves | TaskDeltas

WIDTH = NARROW  # so that charts are legible on a phone, and stand beside their table on a wide screen
KEPT = 512
PATIENCE_SECONDS = 0.4


class Drawings:
    """The charts that were asked for lately."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="charts")
        self._kept: Recent[Future[Markup]] = Recent(KEPT)

    def of(self, charts: Iterable[Data], seconds: float = PATIENCE_SECONDS) -> dict[Data, Markup]:
        """Those of these charts that are drawn by then; the others follow."""
        asked = {data: self._kept.get(data, lambda data=data: self._begin(data)) for data in charts}  # type: ignore[misc]
        wait(asked.values(), seconds)
        return {data: drawing.result() for data, drawing in asked.items() if drawing.done()}

    def _begin(self, data: Data) -> Future[Markup]:
        return self._thread.submit(_draw, data)


def _draw(data: Data) -> Markup:
    """Imports Altair here, which is slow to import, and only needed where something is drawn."""
    from orchestrator.charts import curves, deltas, funnel
    from orchestrator.charts.rendering import svg

    match data:
        case Funnel():
            return Markup(svg(funnel.chart(data, WIDTH)))  # noqa: S704  (written by an XML writer)
        case TaskCurves():
            return Markup(svg(curves.chart(data, WIDTH)))  # noqa: S704
        case TaskDeltas():
            return Markup(svg(deltas.chart(data, WIDTH)))  # noqa: S704


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
