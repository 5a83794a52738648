"""One stage against the next: whether what was gained first was still there later."""

from __future__ import annotations

import altair as alt

from orchestrator.charts import style
from orchestrator.charts.data import WIDE, Pair, StagePairs
from orchestrator.points import points

HEIGHT = 260  # pixels of the plot
GUTTER = 76  # pixels of axis and margins beside it
SPACE = 0.08
HELD, REVERSED = "still above the baseline", "reversed"
LOOKS = {HELD: style.Look(style.BLUE, "circle"), REVERSED: style.Look(style.VERMILION, "cross")}


def chart(data: StagePairs, width: int = WIDE, beside: int = 0, *, is_titled: bool = True) -> alt.LayerChart:
    """A mark for each run, with lines at zero and where both stages agree.

    The plot begins at least `beside` pixels from the left.
    """
    plot = width - max(GUTTER, beside)
    (left, right), (low, high) = (
        _domain([one.first for one in data.pairs]),
        _domain([one.then for one in data.pairs]),
    )
    x = alt.X(
        "x:Q",
        title=f"delta at {data.first} (percentage points)",
        scale=alt.Scale(domain=[left, right], nice=False),
        axis=alt.Axis(tickCount=max(3, plot // 60)),
    )
    y = alt.Y("y:Q", title=f"delta at {data.then}", scale=alt.Scale(domain=[low, high], nice=False))
    rows = [
        {
            "x": 100 * one.first,
            "y": 100 * one.then,
            "kind": HELD if one.then > 0 else REVERSED,
            "description": _described(data, one),
        }
        for one in data.pairs
    ]
    present = [kind for kind in LOOKS if any(row["kind"] == kind for row in rows)]
    colours = alt.Scale(domain=present, range=[LOOKS[kind].colour for kind in present])
    shapes = alt.Scale(domain=present, range=[LOOKS[kind].shape for kind in present])
    legend = alt.Legend(title=None)
    from_, to = max(left, low), min(right, high)
    diagonal = [{"x": from_, "y": from_}, {"x": to, "y": to}]
    line = alt.Chart(alt.InlineData(values=[{"x": 0, "y": 0}]))
    return alt.LayerChart(
        layer=[
            line.mark_rule(color=style.INK, strokeWidth=1.2, aria=False).encode(x=x),
            line.mark_rule(color=style.INK, strokeWidth=1.2, aria=False).encode(y=y),
            alt.Chart(alt.InlineData(values=diagonal))
            .mark_line(color=style.GREY, strokeDash=[5, 3], strokeWidth=1, aria=False)
            .encode(x=x, y=y),
            alt.Chart(alt.InlineData(values=rows))
            .mark_point(filled=True, size=70, opacity=0.85)
            .encode(
                x=x,
                y=y,
                color=alt.Color("kind:N", scale=colours, legend=legend),
                shape=alt.Shape("kind:N", scale=shapes, legend=legend),
                description="description:N",
            ),
        ]
    ).properties(
        width=plot,
        height=HEIGHT,
        title=alt.Title(**style.title(title(data) if is_titled else None, [tally(data)], width)),
        description=description(data),
    )


def title(data: StagePairs) -> str:
    return f"{data.first} against {data.then}"


def tally(data: StagePairs) -> str:
    """How many gains were none later."""
    gains = [one for one in data.pairs if one.first > 0]
    back = sum(one.is_reversed for one in gains)
    share = f" ({back / len(gains):.0%})" if gains else ""
    return f"{back} of {len(gains)} gains at {data.first} were none at {data.then}{share}; dashed: no change"


def description(data: StagePairs) -> str:
    """The chart in words."""
    told = "; ".join(_described(data, one) for one in data.pairs if one.is_reversed)
    return f"Deltas at {data.first} and {data.then} of {len(data.pairs)} runs. {tally(data)}." + (
        f" Reversed: {told}." if told else ""
    )


def _described(data: StagePairs, one: Pair) -> str:
    return (
        f"{one.round} {one.task} {one.variant} seed {one.seed}: "
        f"{points(one.first)} at {data.first}, {points(one.then)} at {data.then}"
    )


def _domain(values: list[float]) -> tuple[float, float]:
    """Zero and all values, in percentage points, with some space."""
    low, high = 100 * min([0.0, *values]), 100 * max([0.0, *values])
    space = SPACE * max(high - low, 1.0)
    return low - space, high + space
