"""Where the accelerator's time went: by stage, and by what the runs came to."""

from __future__ import annotations

import altair as alt

from orchestrator.charts import style
from orchestrator.charts.data import WIDE, Spending
from orchestrator.durations import duration
from orchestrator.verdicts import Verdict

ROW = 30  # pixels
NAMES, NUMBERS = 60, 90  # pixels before the bars, at least, and after the longest
SUBTITLE = "accelerator time by stage, and what became of the runs it was spent on"
BASELINES, UNMEASURED = "baseline", "unmeasured"
COLOURS = {
    BASELINES: style.GREY,
    **{
        verdict.value: style.VERDICTS[verdict].colour
        for verdict in (Verdict.PRUNED, Verdict.REJECTED, Verdict.PROMOTED, Verdict.CONFIRMED)
    },
    UNMEASURED: style.ORANGE,
}
UNITS = {"hours": 3600, "minutes": 60, "seconds": 1}


def chart(data: Spending, width: int = WIDE, beside: int = 0, *, is_titled: bool = True) -> alt.LayerChart:
    """A bar for each stage in parts, its length in time written at its end.

    The bars begin at least `beside` pixels from the left.
    """
    longest = max(len(stage) for stage in data.stages)
    plot = width - max(NAMES, beside, int(style.CHARACTER_WIDTH * longest) + 20) - NUMBERS
    totals = {stage: sum(one.seconds for one in data.spent if one.stage == stage) for stage in data.stages}
    unit = next((name for name, size in UNITS.items() if max(totals.values()) >= 2 * size), "seconds")
    present = [kind for kind in COLOURS if any(one.on == kind for one in data.spent)]
    rows = [
        {
            "stage": one.stage,
            "on": one.on,
            "time": one.seconds / UNITS[unit],
            "order": present.index(one.on),
            "description": f"{one.stage}, {one.on}: {duration(one.seconds)}",
        }
        for one in data.spent
    ]
    ends = [
        {"stage": stage, "end": total / UNITS[unit], "text": duration(total)}
        for stage, total in totals.items()
    ]
    y = alt.Y(
        "stage:N",
        title=None,
        scale=alt.Scale(domain=list(data.stages)),
        axis=alt.Axis(domain=False, ticks=False),
    )
    colours = alt.Scale(domain=present, range=[COLOURS[kind] for kind in present])
    axis = alt.Axis(title=unit, tickCount=max(3, plot // 80))
    return alt.LayerChart(
        layer=[
            alt.Chart(alt.InlineData(values=rows))
            .mark_bar(height=18)
            .encode(
                y=y,
                x=alt.X("time:Q", stack="zero", axis=axis),
                color=alt.Color(
                    "on:N", scale=colours, legend=alt.Legend(title=None, columns=max(1, plot // 95))
                ),
                order="order:Q",
                description="description:N",
            ),
            alt.Chart(alt.InlineData(values=ends))
            .mark_text(aria=False, align="left", dx=5, color=style.INK, fontSize=style.FONT_SIZE)
            .encode(y=y, x=alt.X("end:Q", axis=axis), text="text:N"),
        ]
    ).properties(
        width=plot,
        height=ROW * len(data.stages),
        title=alt.Title(**style.title(data.name if is_titled else None, [SUBTITLE], width)),
        description=description(data),
    )


def description(data: Spending) -> str:
    """The chart in words."""
    told = ", ".join(f"{one.stage} {one.on} {duration(one.seconds)}" for one in data.spent)
    return f"Accelerator time of {data.name}: {told}."
