"""Several charts as one, below each other."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from orchestrator.charts import curves, deltas
from orchestrator.charts.data import WIDE, TaskCurves, TaskDeltas


def chart(heading: str, parts: Sequence[TaskDeltas | TaskCurves], width: int = WIDE) -> alt.VConcatChart:
    """The charts in the order given, their plots aligned; the description is the heading and then each chart's."""
    gutter = max((deltas.gutter(part, width) for part in parts if isinstance(part, TaskDeltas)), default=0)
    drawn, words = [], [heading]
    for part in parts:
        if isinstance(part, TaskDeltas):
            drawn.append(deltas.chart(part, width, gutter))
            words.append(deltas.description(part))
        else:
            drawn.append(curves.chart(part, width, gutter))
            words.append(curves.description(part))
    stacked = alt.VConcatChart(vconcat=drawn, spacing=36, description=" ".join(words))
    whole: alt.VConcatChart = stacked.resolve_scale(
        color="independent", fill="independent", shape="independent"
    )
    return whole
