"""Learning curves: how the arms of one task do at one stage while they train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import altair as alt

from orchestrator.charts import style
from orchestrator.charts.data import WIDE, Curve, TaskCurves
from worker.job import BASELINE

HEIGHT = 220  # pixels of the plot
GUTTER = 76  # pixels of axis and margins beside it
Row = dict[str, Any]

TITLE = "token accuracy (%)"


def chart(data: TaskCurves, width: int = WIDE, beside: int = 0, *, is_titled: bool = True) -> alt.LayerChart:
    """A line for each run; undermost the baseline, then arms without a colour of their own, on top the running.

    The plot begins at least `beside` pixels from the left.
    """
    plot = width - max(GUTTER, beside)
    named = _named(data)
    rows = [row for curve in data.curves for row in _rows(data, curve, named)]
    looks = {
        BASELINE: style.Look(style.GREY, "circle"),
        _others(data, named): style.Look("#9fb3c8", "circle"),
        **dict(zip(named.values(), style.ARMS, strict=False)),
    }
    drawn = {row["label"] for row in rows}
    looks = {label: look for label, look in looks.items() if label in drawn}
    layers = [layer for part in _parts(data, rows, named) for layer in _layers(data, part, looks, plot)]
    return alt.LayerChart(layer=layers).properties(
        width=plot,
        height=HEIGHT,
        title=alt.Title(**style.title(data.task if is_titled else None, [_subtitle(data)], plot)),
        description=description(data),
    )


def _subtitle(data: TaskCurves) -> str:
    band = ", mean and range of the seeds" if data.is_banded else ""
    return f"token accuracy at stage {data.stage}{band}"


def description(data: TaskCurves) -> str:
    """The chart in words."""
    arms = dict.fromkeys(curve.arm for curve in data.curves)
    seeds = {curve.seed for curve in data.curves}
    text = (
        f"Token accuracy by training step on task {data.task}, stage {data.stage}. "
        f"Arms: {len(arms)}. Seeds: {len(seeds)}. "
        f"Evaluations: {sum(len(curve.steps) for curve in data.curves)}."
    )
    named = [arm for arm in arms if arm == BASELINE or arm in _named(data)]
    ends = [f"{arm} {_end(data, arm):.2%}" for arm in named if _last_values(data, arm)]
    return f"{text} Last values: {', '.join(ends)}." if ends else text


def _named(data: TaskCurves) -> dict[str, str]:
    """The arms with a colour of their own and their label: the running ones, then those that ended best."""
    running = {curve.arm for curve in data.curves if curve.is_running}
    arms = [arm for arm in dict.fromkeys(curve.arm for curve in data.curves) if arm != BASELINE]
    best = sorted(
        (arm for arm in arms if _last_values(data, arm)),
        key=lambda arm: (arm not in running, -_end(data, arm)),
    )
    chosen = set(best[: len(style.ARMS)])
    return {arm: f"{arm} (running)" if arm in running else arm for arm in arms if arm in chosen}


def _last_values(data: TaskCurves, arm: str) -> list[float]:
    """The last value that is a number, of each seed that has one."""
    runs = ([v for v in curve.values if isfinite(v)] for curve in data.curves if curve.arm == arm)
    return [values[-1] for values in runs if values]


def _end(data: TaskCurves, arm: str) -> float:
    values = _last_values(data, arm)
    return sum(values) / len(values)


def _others(data: TaskCurves, named: dict[str, str]) -> str:
    count = len({curve.arm for curve in data.curves} - named.keys() - {BASELINE})
    return f"{count} other arm{'s' if count > 1 else ''}"


def _rows(data: TaskCurves, curve: Curve, named: dict[str, str]) -> Iterator[Row]:
    label = BASELINE if curve.arm == BASELINE else named.get(curve.arm, _others(data, named))
    for step, value in zip(curve.steps, curve.values, strict=True):
        if isfinite(value):  # a run that diverges ends in values that are none
            yield {
                "arm": curve.arm,
                "label": label,
                "run": curve.arm if data.is_banded else f"{curve.arm} seed {curve.seed}",
                "seed": curve.seed,
                "step": step,
                "value": 100 * value,
                "text": f"{value:.2%}",
                "description": f"{curve.arm}, seed {curve.seed}, step {step}: {value:.2%}",
            }


@dataclass(frozen=True)
class _Part:
    """Lines that are drawn alike, over those of the parts before."""

    rows: list[Row]
    line: float  # width in pixels
    point: int  # area in pixels


def _parts(data: TaskCurves, rows: Sequence[Row], named: dict[str, str]) -> list[_Part]:
    running = {curve.arm for curve in data.curves if curve.is_running} & named.keys()
    groups = {"baseline": list[Row](), "other": list[Row](), "named": list[Row](), "running": list[Row]()}
    for row in rows:
        arm = row["arm"]
        kind = "running" if arm in running else "named" if arm in named else "other"
        groups["baseline" if arm == BASELINE else kind].append(row)
    parts = [
        _Part(groups["baseline"], 3, 45),
        _Part(groups["other"], 0.8, 8),
        _Part(groups["named"], 1.7, 45),
        _Part(groups["running"], 3.5, 70),
    ]
    return [part for part in parts if part.rows]


def _layers(data: TaskCurves, part: _Part, looks: dict[str, style.Look], plot: int) -> Iterator[alt.Chart]:
    """A band over the seeds where it is wanted, lines, and a mark at every evaluation."""
    entry = style.CHARACTER_WIDTH * max(map(len, looks)) + 40
    legend = alt.Legend(title=None, columns=max(1, int(plot / entry)), labelLimit=plot - 20)
    labels = list(looks)
    colours = alt.Scale(domain=labels, range=[look.colour for look in looks.values()])
    shapes = alt.Scale(domain=labels, range=[look.shape for look in looks.values()])
    scale = alt.Scale(zero=False)
    y = alt.Y("mean(value):Q" if data.is_banded else "value:Q", title=TITLE, scale=scale)
    base = alt.Chart(alt.InlineData(values=part.rows)).encode(
        x=alt.X("step:Q", title="training step", axis=alt.Axis(tickCount=plot // 80, grid=False)),
        color=alt.Color("label:N", scale=colours, legend=legend),
        detail="run:N",
    )
    if data.is_banded:
        yield base.mark_area(opacity=0.18).encode(
            y=alt.Y("min(value):Q", title=TITLE, scale=scale), y2="max(value):Q"
        )
    yield base.mark_line(strokeWidth=part.line).encode(y=y)
    marks = base.mark_point(filled=True, size=part.point, opacity=1).encode(
        y=y, shape=alt.Shape("label:N", scale=shapes, legend=legend)
    )
    # of a mean over seeds Vega says itself what it is: a text of each row would undo the mean
    yield marks if data.is_banded else marks.encode(tooltip=_TOOLTIP, description="description:N")


_TOOLTIP = ["arm:N", "seed:N", "step:Q", "text:N"]
