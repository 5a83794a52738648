"""The forest plot: the pooled delta of each variant and stage with its interval, the numbers beside it."""

from __future__ import annotations

from typing import Any

import altair as alt

from orchestrator.charts import style
from orchestrator.charts.data import WIDE, Forest, Pooled
from orchestrator.points import interval_text, points

LINE = 13  # pixels of a line of text
NAMES, NUMBERS = 0.34, 185  # share of the width, and pixels, at most beside the plot
REACH = 3  # the longest interval shown whole, in the largest delta; a longer one is cut
LEAST = 0.3  # percentage points to either side that are always shown
SUBTITLE = (
    "token accuracy, variant minus baseline of its stage, with 95 % intervals (cut where they leave the plot)"
)


def chart(data: Forest, width: int = WIDE, beside: int = 0, *, is_titled: bool = True) -> alt.LayerChart:
    """A row for each delta: a square in its interval, grey where that holds zero or is not known.

    The plot begins at least `beside` pixels from the left.
    """
    characters = int(NAMES * width / style.CHARACTER_WIDTH)
    names = ["\n".join(style.wrapped(f"{one.variant}, {one.stage}", characters)) for one in data.deltas]
    gutter = int(
        style.CHARACTER_WIDTH * max((len(line) for name in names for line in name.split("\n")), default=0)
    )
    plot = width - max(gutter + 28, beside) - NUMBERS
    reach = _reach(data)
    rows = [_row(one, name, reach) for one, name in zip(data.deltas, names, strict=True)]
    y = alt.Y(
        "name:N",
        title=None,
        sort=None,
        scale=alt.Scale(domain=names),
        axis=alt.Axis(domain=False, ticks=False, labelExpr="split(datum.label, '\\n')", labelLimit=width),
    )
    scale = alt.Scale(domain=[-reach, reach], nice=False)
    axis = alt.Axis(format="+.2~f", tickCount=max(3, plot // 60), title="delta (percentage points)")
    colour = alt.Color("colour:N", scale=None)
    base = alt.Chart(alt.InlineData(values=rows)).encode(y=y)
    text = base.mark_text(aria=False, align="left", color=style.INK, fontSize=style.FONT_SIZE)
    return alt.LayerChart(
        layer=[
            alt.Chart(alt.InlineData(values=[{"x": 0}]))
            .mark_rule(color=style.INK, strokeWidth=1.5, aria=False)
            .encode(x=alt.X("x:Q", scale=scale, axis=axis)),
            base.transform_filter("isValid(datum.low)")
            .mark_rule(strokeWidth=2, aria=False)
            .encode(x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", color=colour),
            base.mark_point(shape="square", filled=True, size=60, opacity=1).encode(
                x=alt.X("delta:Q", scale=scale, axis=axis), color=colour, description="description:N"
            ),
            text.encode(x=alt.value(plot + 10), text="numbers:N"),
        ]
    ).properties(
        width=plot,
        height=sum(LINE * (name.count("\n") + 1) + 9 for name in names),
        title=alt.Title(**style.title(data.task if is_titled else None, [SUBTITLE], width), offset=8),
        description=description(data),
    )


def description(data: Forest) -> str:
    """The chart in words."""
    told = "; ".join(_described(one) for one in data.deltas)
    return f"Pooled change of token accuracy on task {data.task}, variant minus baseline. {told}."


def _described(one: Pooled) -> str:
    return f"{one.variant} at {one.stage} {_numbers(one)}"


def _numbers(one: Pooled) -> str:
    interval = "" if one.interval is None else f" {interval_text(one.interval).removesuffix(' pp')}"
    return f"{points(one.delta)}{interval}  {one.pattern}"


def _row(one: Pooled, name: str, reach: float) -> dict[str, Any]:
    low, high = one.interval or (None, None)
    is_clear = low is not None and high is not None and not low <= 0 <= high
    return {
        "name": name,
        "delta": 100 * one.delta,
        "low": None if low is None else max(-reach, 100 * low),
        "high": None if high is None else min(reach, 100 * high),
        "colour": (style.BLUE if one.delta > 0 else style.VERMILION) if is_clear else style.GREY,
        "numbers": _numbers(one),
        "description": _described(one),
    }


def _reach(data: Forest) -> float:
    """How far the axis goes to both sides, in percentage points."""
    largest = max([LEAST, *(100 * abs(one.delta) for one in data.deltas)])
    ends = [100 * abs(end) for one in data.deltas for end in one.interval or ()]
    return 1.05 * max(largest, min(REACH * largest, max(ends, default=0.0)))
