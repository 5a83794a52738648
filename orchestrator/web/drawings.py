"""Charts as SVG for the pages, each drawn once, in a thread of its own.

Drawing takes some tenths of a second. A page waits for its charts only so long; it then says which are missing, and
asks again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock

import structlog
from markupsafe import Markup

from orchestrator.charts.data import NARROW, Curve, Funnel, TaskCurves, TaskDeltas
from orchestrator.views.shapes import EvaluationView, JobView

Data = Funnel | TaskCurves | TaskDeltas
Drawing = Future[Markup | None]  # None: it could not be drawn

WIDTH = NARROW  # so that charts are legible on a phone, and stand beside their table on a wide screen
KEPT = 512
AT_ONCE = 64  # charts that wait for their turn; a page that wants more asks again
PATIENCE_SECONDS = 0.4

log = structlog.get_logger("fsq.web")


class Drawings:
    """The charts that were asked for lately, and those that wait for their turn."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="charts")
        self._lock = Lock()
        self._kept: OrderedDict[Data, Drawing] = OrderedDict()

    def of(self, charts: Sequence[Data], seconds: float = PATIENCE_SECONDS) -> dict[Data, Markup | None]:
        """Those of these charts that are drawn by then, None for one that cannot be; the others follow."""
        with self._lock:
            asked = {data: drawing for data in charts if (drawing := self._ask(data)) is not None}
        wait(asked.values(), seconds)
        ended = {data: drawing.result() for data, drawing in asked.items() if drawing.done()}
        if len(ended) == len(set(charts)):
            self._forget([data for data, chart in ended.items() if chart is None])
        return ended

    def _ask(self, data: Data) -> Drawing | None:
        if data in self._kept:
            self._kept.move_to_end(data)
            return self._kept[data]
        done = [known for known, drawing in self._kept.items() if drawing.done()]
        if len(self._kept) - len(done) >= AT_ONCE:
            return None
        if len(self._kept) >= KEPT:
            del self._kept[done[0]]
        self._kept[data] = self._thread.submit(_attempt, data)
        return self._kept[data]

    def _forget(self, failed: Sequence[Data]) -> None:
        """Only once the page is complete: it would ask for them again at once."""
        with self._lock:
            for data in failed:
                self._kept.pop(data, None)


def _attempt(data: Data) -> Markup | None:
    """One chart that cannot be drawn costs nothing but itself."""
    try:
        return _draw(data)
    except Exception:
        log.exception("a chart cannot be drawn", kind=type(data).__name__)
        return None


def _draw(data: Data) -> Markup:
    """Imports Altair here, which is slow to import, and only needed where something is drawn."""

    from orchestrator.charts import composed, rendering

    with rendering.unchecked():
        chart = composed.part(data, WIDTH, is_titled=False)
        return Markup(rendering.svg(chart))  # noqa: S704  (written by an XML writer)


def curves_of(runs: Sequence[tuple[JobView, Sequence[EvaluationView]]]) -> TaskCurves | None:
    """The curves of jobs of one task and stage; None where none of them has been evaluated."""
    curves = tuple(Curve.of(job, evaluations) for job, evaluations in runs if evaluations)
    return TaskCurves(curves[0].task, curves[0].stage, curves) if curves else None
