"""Several charts as one, below each other."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from orchestrator.charts import curves, deltas, forest, funnel, spending, stages, style
from orchestrator.charts.data import WIDE, Forest, Funnel, Spending, StagePairs, TaskCurves, TaskDeltas

Part = Funnel | Spending | Forest | TaskDeltas | TaskCurves | StagePairs


def chart(name: str, parts: Sequence[Part], width: int = WIDE) -> alt.VConcatChart:
    """The charts in the order given, their plots aligned, under a name; the description is that of each."""
    gutter = max((deltas.gutter(one, width) for one in parts if isinstance(one, TaskDeltas)), default=0)
    drawn = [part(one, width, gutter, is_titled=not isinstance(one, Funnel | Spending)) for one in parts]
    stacked = alt.VConcatChart(
        vconcat=drawn,
        spacing=36,
        title=alt.Title(style.title_lines(name, width), fontSize=15, offset=12),
        description=" ".join(one.description for one in drawn),
    )
    whole: alt.VConcatChart = stacked.resolve_scale(
        color="independent", fill="independent", shape="independent"
    )
    return whole


def part(data: Part, width: int = WIDE, beside: int = 0, *, is_titled: bool = True) -> alt.LayerChart:
    """One chart, of whatever it shows."""
    match data:
        case Funnel():
            return funnel.chart(data, width, beside, is_titled=is_titled)
        case Spending():
            return spending.chart(data, width, beside, is_titled=is_titled)
        case Forest():
            return forest.chart(data, width, beside, is_titled=is_titled)
        case TaskDeltas():
            return deltas.chart(data, width, beside, is_titled=is_titled)
        case TaskCurves():
            return curves.chart(data, width, beside, is_titled=is_titled)
        case StagePairs():
            return stages.chart(data, width, beside, is_titled=is_titled)
