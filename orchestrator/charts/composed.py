"""Several charts as one, below each other."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from orchestrator.charts import curves, deltas, funnel, style
from orchestrator.charts.data import WIDE, Funnel, TaskCurves, TaskDeltas

Part = Funnel | TaskDeltas | TaskCurves


def chart(name: str, parts: Sequence[Part], width: int = WIDE) -> alt.VConcatChart:
    """The charts in the order given, their plots aligned, under a name; the description is that of each."""
    gutter = max((deltas.gutter(part, width) for part in parts if isinstance(part, TaskDeltas)), default=0)
    drawn, words = [], []
    for part in parts:
        match part:
            case Funnel():
                drawn.append(funnel.chart(part, width, gutter, is_titled=False))
                words.append(funnel.description(part))
            case TaskDeltas():
                drawn.append(deltas.chart(part, width, gutter))
                words.append(deltas.description(part))
            case TaskCurves():
                drawn.append(curves.chart(part, width, gutter))
                words.append(curves.description(part))
    stacked = alt.VConcatChart(
        vconcat=drawn,
        spacing=36,
        title=alt.Title(style.title_lines(name, width), fontSize=15, offset=12),
        description=" ".join(words),
    )
    whole: alt.VConcatChart = stacked.resolve_scale(
        color="independent", fill="independent", shape="independent"
    )
    return whole
