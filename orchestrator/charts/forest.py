"""The forest plot: the pooled delta of each variant and stage with its interval, the numbers beside it."""

from __future__ import annotations

from statistics import median
from typing import Any

import altair as alt

from orchestrator.charts import style
from orchestrator.charts.data import WIDE, Forest, Pooled
from orchestrator.points import interval_text, points
from orchestrator.statistics.examples import is_clear

LINE = 13  # pixels of a line of text
NAMES, NUMBERS = 0.34, 185  # share of the width, and pixels, at most beside the plot
REACH = 2  # the longest interval shown whole, in the median one; a longer one is cut
LEAST = 0.3  # percentage points to either side that are always shown
SUBTITLE = "token accuracy, variant minus baseline of its stage, 95 % intervals"


def chart(data: Forest, width: int = WIDE, beside: int = 0, *, is_titled: bool = True) -> alt.LayerChart:
    """A row for each delta: a square in its interval, grey where that is not known or not clear of zero (`is_clear`).

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
        height=len(names) * (LINE * (max(name.count("\n") for name in names) + 1) + 9),
        title=alt.Title(
            **style.title(data.task if is_titled else None, [_subtitle(data, reach)], width), offset=8
        ),
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
    is_shown = one.interval is not None and is_clear(one.interval, one.p_value)
    return {
        "name": name,
        "delta": 100 * one.delta,
        "low": None if low is None else max(-reach, 100 * low),
        "high": None if high is None else min(reach, 100 * high),
        "colour": (style.BLUE if one.delta > 0 else style.VERMILION) if is_shown else style.GREY,
        "numbers": _numbers(one),
        "description": _described(one),
    }


def _reach(data: Forest) -> float:
    """How far the axis goes to both sides, in percentage points."""
    largest = max([LEAST, *(100 * abs(one.delta) for one in data.deltas)])
    ends = [_end(one) for one in data.deltas if one.interval is not None]
    return 1.05 * max(largest, min(REACH * median(ends), max(ends)) if ends else 0.0)


def _end(one: Pooled) -> float:
    """How far from zero an interval goes, in percentage points."""
    return 100 * max((abs(end) for end in one.interval or ()), default=0.0)


def _subtitle(data: Forest, reach: float) -> str:
    return f"{SUBTITLE}{' (cut at the edge)' if any(_end(one) > reach for one in data.deltas) else ''}"
