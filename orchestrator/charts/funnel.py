"""The funnel of a round: how many jobs were planned, saved and run, and what became of the variants."""

from __future__ import annotations

import altair as alt

from orchestrator.charts import style
from orchestrator.charts.data import WIDE, Funnel
from orchestrator.planner import Verdict

ROW = 26  # pixels


def chart(data: Funnel, width: int = WIDE) -> alt.LayerChart:
    """A bar for each count, with the number written at its end."""
    counts = _counts(data)
    colours = {name: style.VERDICTS[Verdict(name)].colour for name in ("pruned", "promoted", "confirmed")}
    rows = [
        {"step": name, "count": count, "colour": colours.get(name, style.GREY)}
        for name, count in counts.items()
    ]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y(
            "step:N",
            title=None,
            scale=alt.Scale(domain=list(counts)),
            axis=alt.Axis(domain=False, ticks=False),
        ),
        x=alt.X("count:Q", axis=None, scale=alt.Scale(domain=[0, max(1, *counts.values())])),
    )
    return alt.LayerChart(
        layer=[
            base.mark_bar(height=16).encode(color=alt.Color("colour:N", scale=None)),
            base.mark_text(aria=False, align="left", dx=5, color=style.INK, fontSize=style.FONT_SIZE).encode(
                text="count:Q"
            ),
        ]
    ).properties(
        width=width - 130,  # names before, the longest bar's number after
        height=ROW * len(rows),
        title=alt.Title(
            style.title_lines(data.round, width),
            subtitle="jobs planned, cached and run; decisions taken (counts)",
        ),
        description=description(data),
    )


def description(data: Funnel) -> str:
    """The chart in words."""
    return f"Round {data.round}: {', '.join(f'{count} {name}' for name, count in _counts(data).items())}."


def _counts(data: Funnel) -> dict[str, int]:
    return {
        "planned": data.planned,
        "cached": data.cached,
        "run": data.run,
        "pruned": data.pruned,
        "promoted": data.promoted,
        "confirmed": data.confirmed,
    }
