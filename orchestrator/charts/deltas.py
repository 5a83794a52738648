"""The delta chart: how far each variant of a task is from the baseline of the same stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import altair as alt

from orchestrator.charts import style
from orchestrator.charts.data import WIDE, Delta, TaskDeltas
from orchestrator.points import points
from orchestrator.verdicts import Verdict

METRICS = {
    "best_val_tok_acc": "token accuracy",
    "final_val_tok_acc": "final token accuracy",
    "best_val_seq_acc": "sequence accuracy",
}
OUTLIER = 10  # times as far from zero as everything else
NAMES = 0.42  # of the chart's width at most
SPACE = 0.05  # beside what is shown, as a share of it
LANE, LINE, MARGIN = 10, 13, 6  # pixels: one result, one line of a name, between two variants


def chart(data: TaskDeltas, width: int = WIDE, beside: int = 0, *, is_titled: bool = True) -> alt.LayerChart:
    """A row for each variant, in it a mark for each stage and seed, with lines at zero and at the threshold.

    The plot begins at least `beside` pixels from the left.
    """
    layout = _Layout.of(data, width, beside)
    titled = alt.Title(**style.title(data.task if is_titled else None, _subtitle(data), width), offset=8)
    layers = [*_rows(layout), *_lines(data, layout), *_marks(data, layout)]
    return alt.LayerChart(layer=layers).properties(
        width=layout.plot_width, height=layout.height, title=titled, description=description(data)
    )


def _subtitle(data: TaskDeltas) -> list[str]:
    """What is measured, and how the stages are told apart."""
    signs = ("hollow", "full", "larger", "largest")
    stages = ", ".join(f"{sign}: {stage}" for sign, stage in zip(signs, data.stages, strict=False))
    return [
        f"{METRICS[data.metric]}, variant minus baseline of its stage",
        f"marks {stages}" if stages else "",
    ]


def description(data: TaskDeltas) -> str:
    """The chart in words."""
    verdicts = Counter(delta.verdict for delta in data.deltas)
    found = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) or "nothing is decided yet"
    text = (
        f"Change of {METRICS[data.metric]} on task {data.task}, variant minus baseline of the same stage, "
        f"threshold {points(data.min_delta)}. Variants: {len(data.variants)}. Results: {len(data.deltas)} ({found})."
    )
    measured = [delta for delta in data.deltas if delta.d_acc is not None]
    if measured:
        highest, lowest = max(measured, key=_size), min(measured, key=_size)
        text += f" Highest: {_named(highest)}. Lowest: {_named(lowest)}."
    return text


def _size(delta: Delta) -> float:
    return delta.d_acc or 0.0


def _named(delta: Delta) -> str:
    return f"{delta.variant} {_number(delta)} ({delta.stage}, seed {delta.seed})"


def _number(delta: Delta) -> str:
    return "not measured" if delta.d_acc is None else points(delta.d_acc)


def domain(deltas: Sequence[Delta], threshold: float) -> tuple[float, float]:
    """The part of the axis to show, in percentage points: zero, the threshold (a fraction) and all but outliers.

    An outlier is `OUTLIER` times as far from zero as the rest and would flatten it; at most a quarter of the results
    are (or a single one). Intervals of what is shown are shown whole.
    """
    floor = max(300 * abs(threshold), 0.1)
    shown = sorted(
        (delta for delta in deltas if delta.d_acc is not None), key=lambda delta: abs(_size(delta))
    )
    reach = floor
    for i, delta in enumerate(shown):
        size = 100 * abs(_size(delta))
        if i > 0 and len(shown) - i <= max(1, len(shown) // 4) and size > OUTLIER * reach:
            shown = shown[:i]
            break
        reach = max(reach, size)
    ends = [100 * end for delta in shown for end in (_size(delta), *(delta.interval or ()))]
    low, high = min(-floor, *ends, 0), max(floor, *ends, 0)
    space = SPACE * (high - low)
    return low - space, high + space


def gutter(data: TaskDeltas, width: int) -> int:
    """Pixels that the names need beside the plot, with the margins."""
    longest = max((len(line) for name in _name_lines(data, width) for line in name), default=0)
    return int(style.CHARACTER_WIDTH * longest) + 28


def _name_lines(data: TaskDeltas, width: int) -> Iterator[tuple[str, ...]]:
    characters = int(NAMES * width / style.CHARACTER_WIDTH)
    return (tuple(style.wrapped(name, characters)) for name in data.variants)


@dataclass(frozen=True)
class _Layout:
    """Where everything stands, in pixels, and the part of the axis that is shown, in percentage points."""

    names: tuple[tuple[str, ...], ...]  # each variant's name in lines
    results: tuple[tuple[Delta, ...], ...]  # each variant's
    tops: tuple[int, ...]  # of the variants' rows, and the end of the last
    plot_width: int
    domain: tuple[float, float]

    @classmethod
    def of(cls, data: TaskDeltas, width: int, beside: int) -> _Layout:
        names = tuple(_name_lines(data, width))
        results = tuple(tuple(_ordered(data, name)) for name in data.variants)
        heights = [
            MARGIN + max(LINE * len(name), LANE * len(found))
            for name, found in zip(names, results, strict=True)
        ]
        return cls(
            names=names,
            results=results,
            tops=tuple(accumulate(heights, initial=0)),
            plot_width=width - max(gutter(data, width), beside),
            domain=domain(data.deltas, data.min_delta),
        )

    @property
    def height(self) -> int:
        return max(self.tops[-1], 2 * LINE)

    def places(self) -> Iterator[tuple[float, Delta]]:
        """Every result with its height on the chart: those of one variant below each other, amid its row."""
        for top, bottom, found in zip(self.tops, self.tops[1:], self.results, strict=False):
            first = (top + bottom - LANE * (len(found) - 1)) / 2
            yield from ((first + LANE * i, delta) for i, delta in enumerate(found))

    def clamped(self, value: float) -> float:
        """The value, or the place just within the edge where it lies outside."""
        low, high = self.domain
        inset = SPACE / 3 * (high - low)
        return min(max(value, low + inset), high - inset)

    def room(self, value: float) -> float:
        """Pixels to the left of a value."""
        low, high = self.domain
        return self.plot_width * (value - low) / (high - low)


def _ordered(data: TaskDeltas, variant: str) -> Sequence[Delta]:
    """A variant's results by stage and seed; those without a number once for all their seeds."""
    found = sorted(
        (delta for delta in data.deltas if delta.variant == variant),
        key=lambda delta: (data.stages.index(delta.stage), delta.seed),
    )
    unmeasured = {(delta.stage, delta.verdict): delta for delta in reversed(found) if delta.d_acc is None}
    first = {id(delta) for delta in unmeasured.values()}
    return [delta for delta in found if delta.d_acc is not None or id(delta) in first]


def _y(layout: _Layout) -> alt.Y:
    return alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[layout.height, 0], nice=False, zero=False))


def _x(layout: _Layout, field: str = "x") -> alt.X:
    scale = alt.Scale(domain=list(layout.domain), nice=False, zero=False)
    axis = alt.Axis(
        format="+.2~f",
        labelExpr="datum.value == 0 ? '0' : datum.label",
        tickCount=max(3, layout.plot_width // 45),
        title="delta (percentage points)",
    )
    return alt.X(f"{field}:Q", axis=axis, scale=scale)


def _rows(layout: _Layout) -> Iterator[alt.Chart]:
    """Every other row shaded, and the variants' names."""
    edges = list(zip(layout.tops, layout.tops[1:], strict=False))
    yield (
        alt.Chart(alt.InlineData(values=[{"y": top, "y2": bottom} for top, bottom in edges[::2]]))
        .mark_rect(color=style.INK, opacity=0.05, aria=False)
        .encode(x=alt.value(0), x2=alt.value(layout.plot_width), y=_y(layout), y2="y2:Q")
    )
    lines = [
        {"y": (top + bottom - LINE * (len(name) - 1)) / 2 + LINE * i, "text": line}
        for (top, bottom), name in zip(edges, layout.names, strict=True)
        for i, line in enumerate(name)
    ]
    yield (
        alt.Chart(alt.InlineData(values=lines))
        .mark_text(align="right", baseline="middle", color=style.INK, fontSize=style.FONT_SIZE, aria=False)
        .encode(x=alt.value(-8), y=_y(layout), text="text:N")
    )


def _lines(data: TaskDeltas, layout: _Layout) -> Iterator[alt.Chart]:
    """The lines at zero and at the threshold, each labelled at a height of its own."""
    threshold = 100 * data.min_delta
    yield from _line(layout, 0, "baseline", dy=-LINE - 3, width=1.5, dash=[1, 0], to_left=threshold >= 0)
    text = f"threshold {points(data.min_delta)}"
    yield from _line(layout, threshold, text, dy=-3, width=1, dash=[5, 3], to_left=threshold < 0)


def _line(
    layout: _Layout, x: float, text: str, *, dy: int, width: float, dash: list[int], to_left: bool
) -> Iterator[alt.Chart]:
    needed, room = style.CHARACTER_WIDTH * len(text), layout.room(x)
    to_left = room >= needed if to_left else room + needed > layout.plot_width
    base = alt.Chart(alt.InlineData(values=[{"x": x, "text": text}])).encode(x=_x(layout))
    yield base.mark_rule(color=style.INK, strokeWidth=width, strokeDash=dash, aria=False)
    yield base.mark_text(
        align="right" if to_left else "left",
        baseline="bottom",
        dy=dy,
        color=style.INK,
        fontSize=style.FONT_SIZE,
        aria=False,
    ).encode(y=alt.value(0), text="text:N")


def _marks(data: TaskDeltas, layout: _Layout) -> Iterator[alt.Chart]:
    """Intervals, then a shape for each number, then words for what has none or lies outside."""
    shown = [_mark(data, layout, y, delta) for y, delta in layout.places()]
    measured = [mark for mark in shown if mark["number"] is not None]
    present = [verdict for verdict in Verdict if any(mark["verdict"] == verdict for mark in measured)]
    looks = [style.VERDICTS[verdict] for verdict in present]
    legend = alt.Legend(title=None, columns=max(1, layout.plot_width // 85)) if present else None
    colours = alt.Scale(domain=present, range=[look.colour for look in looks])
    shapes = alt.Scale(domain=present, range=[look.shape for look in looks])
    colour = alt.Color("verdict:N", scale=colours, legend=legend)
    base = alt.Chart(alt.InlineData(values=measured)).encode(y=_y(layout))
    yield (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5, opacity=0.8, aria=False)
        .encode(x=_x(layout, "low"), x2="high:Q", color=colour)
    )
    yield base.mark_point(strokeWidth=1.5, opacity=1).encode(
        x=_x(layout),
        color=colour,
        fill=alt.Fill("verdict:N", scale=colours, legend=legend),
        shape=alt.Shape("verdict:N", scale=shapes, legend=legend),
        fillOpacity=alt.FillOpacity(
            "depth:Q", scale=alt.Scale(domain=[0, 1], range=[0, 1], clamp=True), legend=None
        ),
        size=alt.Size("depth:Q", scale=alt.Scale(domain=[1, 3], range=[50, 150], clamp=True), legend=None),
        tooltip=[
            alt.Tooltip(f"{name}:N") for name in ("variant", "stage", "seed", "verdict", "delta", "reason")
        ],
        description="description:N",
    )
    yield from _words(layout, shown)


def _mark(data: TaskDeltas, layout: _Layout, y: float, delta: Delta) -> dict[str, Any]:
    number = None if delta.d_acc is None else 100 * delta.d_acc
    low, high = (None, None) if delta.interval is None else (layout.clamped(100 * v) for v in delta.interval)
    return {
        "y": y,
        "x": layout.clamped(number or 0),
        "number": number,
        "low": low,
        "high": high,
        "variant": delta.variant,
        "stage": delta.stage,
        "depth": data.stages.index(delta.stage),
        "seed": delta.seed,
        "verdict": delta.verdict,
        "delta": _number(delta),
        "reason": delta.reason,
        "description": f"{_named(delta)}: {delta.verdict}. {delta.reason}",
    }


def _words(layout: _Layout, shown: Sequence[dict[str, Any]]) -> Iterator[alt.Chart]:
    """`no-op` and the like at zero; the number itself where a mark stands at the edge in place of an outlier."""
    words = [mark | {"text": text} for mark in shown if (text := _word(mark))]
    for fits_left in (True, False):
        on_this_side = [
            {name: word[name] for name in ("x", "y", "text", "description")}
            for word in words
            if (layout.room(word["x"]) >= 10 + style.CHARACTER_WIDTH * len(word["text"])) is fits_left
        ]
        yield (
            alt.Chart(alt.InlineData(values=on_this_side))
            .mark_text(
                align="right" if fits_left else "left",
                baseline="middle",
                dx=-9 if fits_left else 9,
                color=style.INK,
                fontSize=style.FONT_SIZE - 1,
            )
            .encode(x=_x(layout), y=_y(layout), text="text:N", description="description:N")
        )


def _word(mark: dict[str, Any]) -> str | None:
    verdict, number = mark["verdict"], mark["number"]
    if number is None:
        return _UNMEASURED.get(verdict, f"{verdict}, not measured")
    if number < mark["x"]:
        return f"← {mark['delta']}"
    return f"{mark['delta']} →" if number > mark["x"] else None


_UNMEASURED = {Verdict.NO_OP: "no-op", Verdict.UNDECIDED: "undecided"}
