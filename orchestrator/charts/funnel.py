"""The funnel of a round: how many jobs were planned, saved and run, and what became of its arms."""

from __future__ import annotations

import altair as alt

from orchestrator.charts import style
from orchestrator.charts.data import WIDE, Funnel

ROW = 26  # pixels
NAMES, NUMBERS = 92, 46  # pixels before the bars and after the longest
SUBTITLE = "jobs: planned, cached, run, unmeasured; arms: where they ended"


def chart(data: Funnel, width: int = WIDE, beside: int = 0, *, is_titled: bool = True) -> alt.LayerChart:
    """A bar for each count, with the number written at its end.

    The bars begin at least `beside` pixels from the left.
    """
    counts = _counts(data)
    colours: dict[str, str] = {verdict: look.colour for verdict, look in style.VERDICTS.items()}
    plot = width - max(NAMES, beside) - NUMBERS
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
        width=plot,
        height=ROW * len(rows),
        title=alt.Title(**style.title(data.round if is_titled else None, [SUBTITLE], width)),
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
        "unmeasured": data.unmeasured,
        "pruned": data.pruned,
        "rejected": data.rejected,
        "promoted": data.promoted,
        "confirmed": data.confirmed,
    }
