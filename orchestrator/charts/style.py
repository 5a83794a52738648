"""How all charts look: colours that colour-blind people can tell apart (Okabe and Ito), each with its own shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.verdicts import Verdict

INK = "#1f1f1f"  # text and axes; on the page rendering.svg makes it the page's own text colour
GREY = "#767676"
FONT_SIZE = 11
CHARACTER_WIDTH = 7.2  # pixels on average in DejaVu Sans, the widest of the fonts that may stand in for Arial

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"


@dataclass(frozen=True)
class Look:
    colour: str
    shape: str


VERDICTS = {
    Verdict.PROMOTED: Look(GREEN, "triangle-up"),
    Verdict.CONFIRMED: Look(BLUE, "diamond"),
    Verdict.PRUNED: Look(VERMILION, "triangle-down"),
    Verdict.REJECTED: Look(PURPLE, "square"),
    Verdict.NO_OP: Look(GREY, "stroke"),
    Verdict.UNDECIDED: Look(GREY, "cross"),
}

ARMS = (
    Look(BLUE, "square"),
    Look(VERMILION, "triangle-up"),
    Look(GREEN, "diamond"),
    Look(PURPLE, "triangle-down"),
    Look(ORANGE, "cross"),
    Look(SKY, "triangle-right"),
)

CONFIG: dict[str, Any] = {
    "background": "white",
    "padding": 8,
    "font": "Arial, Helvetica, Liberation Sans, sans-serif",  # the first three are equally wide
    "view": {"stroke": None},
    "title": {
        "anchor": "start",
        "frame": "bounds",
        "color": INK,
        "subtitleColor": INK,
        "fontSize": 13,
        "subtitleFontSize": FONT_SIZE,
        "subtitlePadding": 4,
    },
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "tickColor": INK,
        "domainColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.12,
        "labelFontSize": FONT_SIZE,
        "titleFontSize": FONT_SIZE,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "legend": {
        "labelColor": INK,
        "labelFontSize": FONT_SIZE,
        "orient": "bottom",
        "direction": "horizontal",
        "symbolSize": 70,
        "symbolOpacity": 1,
    },
}


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` characters, broken after a space or `_ = + -` where there is one."""
    lines = []
    while len(text) > width:
        breaks = [i + 1 for i in range(width // 2, width) if text[i] in " _=+-"]
        at = breaks[-1] if breaks else width
        lines.append(text[:at])
        text = text[at:]
    return [*lines, text]


def title(name: str | None, lines: Sequence[str], width: int) -> dict[str, Any]:
    """What stands over a chart of this many pixels: the name, if it is wanted there, and lines on what is shown."""
    below = [part for line in lines for part in wrapped(line, int(width / CHARACTER_WIDTH))]
    if name is None:
        return {"text": below, "fontSize": FONT_SIZE, "fontWeight": "normal"}
    return {"text": title_lines(name, width), "subtitle": below}


def title_lines(text: str, width: int) -> list[str]:
    """A title's lines on a chart of this many pixels."""
    return wrapped(text, int(width / (CHARACTER_WIDTH * 1.25)))
