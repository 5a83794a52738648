"""A report as one HTML file: the charts and the style of the pages within it, no scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.charts.data import Curve, StagePairs
from orchestrator.durations import duration
from orchestrator.reports import drawn, tables
from orchestrator.reports.effects import Report
from orchestrator.reports.gathering import RoundResults

STYLE = Path(__file__).parents[1] / "web" / "static" / "fsq.css"
NUMBERS = {tables.COLUMNS.index(name) for name in ("delta", "95 % interval", "p", "q")}


def as_html(report: Report, curves: Sequence[Curve]) -> str:
    """The page; names and reasons reach it as text only."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("orchestrator.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(_values(report, curves)) + "\n"


def _values(report: Report, curves: Sequence[Curve]) -> Mapping[str, Any]:
    parts = drawn.of_tasks(report, curves)
    return {
        "heading": tables.heading(report),
        "style": STYLE.read_text(encoding="utf-8"),
        "rounds": [_round(one) for one in report.rounds],
        "of_search": [_svg(part) for part in drawn.of_search(report)] if parts else [],
        "tasks": [
            {
                "name": task,
                "words": tables.task_words(task, effects),
                "rows": [tables.cells(effect) for effect in effects],
                "charts": [_svg(part) for part in parts.get(task, ())],
            }
            for task, effects in report.tasks.items()
        ],
        "columns": tables.COLUMNS,
        "numbers": NUMBERS,
        "notes": list(tables.notes(report)),
        "empty": tables.EMPTY,
        "version": version("fsq"),
    }


def _round(one: RoundResults) -> dict[str, Any]:
    view = one.view
    return {
        "name": view.round,
        "state": f"{view.state}: {view.reason}" if view.reason else view.state.value,
        "submitted": f"{view.created_at:%Y-%m-%d %H:%M}",
        "jobs": len(one.jobs),
        "time": duration(sum(map(drawn.held_seconds, one.jobs))),
        "decisions": ", ".join(f"{count} {verdict}" for verdict, count in view.decisions.items()),
    }


def _svg(part: Any) -> str:

    from orchestrator.charts import composed, rendering

    with rendering.unchecked():
        return rendering.svg(composed.part(part, is_titled=isinstance(part, StagePairs)))
