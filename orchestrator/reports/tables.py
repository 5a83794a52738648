"""A report as text for a terminal, as Markdown, as CSV and as JSON: the same cells in four forms."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from orchestrator.findings.caveats import EXPLANATIONS
from orchestrator.points import interval_text, points
from orchestrator.reports.effects import Effect, Report

COLUMNS = ("variant", "stage", "delta", "95 % interval", "runs", "p", "q", "decisions", "keep in mind")
EMPTY = "there is nothing to report yet: no variant was decided"


def cells(effect: Effect) -> tuple[str, ...]:
    """An effect as the words under COLUMNS."""
    return (
        effect.marked_name,
        effect.stage,
        "not measured" if effect.delta is None else points(effect.delta),
        "-" if effect.interval is None else interval_text(effect.interval),
        runs_words(effect),
        "-" if effect.p_value is None else probability(effect.p_value),
        "-" if effect.q_value is None else probability(effect.q_value),
        ", ".join(f"{count} {verdict}" for verdict, count in effect.decisions.items()),
        ", ".join(effect.caveats),
    )


def probability(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def runs_words(effect: Effect) -> str:
    """The runs behind a delta: their signs, and what is to be known of them as a group."""
    if effect.across is None:
        return "-"
    more = [f"{effect.repeats} repeated"] if effect.repeats else []
    more += [f"{len(effect.rounds)} rounds"] if len(effect.rounds) > 1 else []
    more += [f"{effect.protocols} protocols"] if effect.protocols > 1 else []
    return effect.across.pattern + (f" ({', '.join(more)})" if more else "")


def heading(report: Report) -> str:
    named = ", ".join(one.view.round for one in report.rounds)
    return f"{len(report.rounds)} round{'s' if len(report.rounds) != 1 else ''}: {named or 'none'}"


def task_words(task: str, effects: Sequence[Effect]) -> str:
    tried = effects[0].tried
    return f"{task}: {tried} variant{'s' if tried != 1 else ''} tried"


def notes(report: Report) -> Iterator[str]:
    """How to read the numbers, and what to doubt."""
    tests = {
        stage: dict.fromkeys(str(e.family) for e in report.effects if e.stage == stage and e.family)
        for stage in dict.fromkeys(effect.stage for effect in report.effects)
    }
    told = ", ".join(f"{' and '.join(counts) or 0} at {stage}" for stage, counts in tests.items())
    yield (
        "delta: variant minus baseline of the same stage and seed, best token accuracy, mean of the runs; "
        "runs: above, at and below the baseline, of equal runs one"
    )
    yield (
        "p: one-sided, that there is no gain; q: share of false discoveries among all up to it, "
        f"of so many tried ({told})"
    )
    for caveat, tasks in report.caveats.items():
        yield f"{caveat} ({', '.join(tasks)}): {EXPLANATIONS[caveat]}"


def as_text(report: Report, width: int) -> str:
    """Tables for a terminal of this many columns."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(Text(heading(report)))
    for task, effects in report.tasks.items():
        table = Table(
            box=SIMPLE, title=Text(f"\n{task_words(task, effects)}"), title_justify="left", pad_edge=False
        )
        for name in COLUMNS:
            is_number = name in {"delta", "95 % interval", "p", "q"}
            justify: Literal["left", "right"] = "right" if is_number else "left"
            table.add_column(name, justify=justify, no_wrap=is_number, overflow="fold")
        for effect in effects:
            table.add_row(*(Text(cell) for cell in cells(effect)))
        console.print(table)
    for note in notes(report) if report.effects else [EMPTY]:
        console.print(Text(note))
    assert isinstance(console.file, io.StringIO)  # noqa: S101  (made above)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def as_markdown(report: Report) -> str:
    lines = ["# Report", "", heading(report), ""]
    for task, effects in report.tasks.items():
        lines += [f"## {task_words(task, effects)}", "", *markdown_table(COLUMNS, map(cells, effects)), ""]
    lines += [f"- {note}" for note in notes(report)] if report.effects else [EMPTY]
    return "\n".join(lines) + "\n"


def markdown_table(columns: Sequence[str], rows: Any) -> Iterator[str]:
    """A table, a line at a time."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def flat(effect: Effect) -> dict[str, Any]:
    """An effect for programs: fractions, and null for what is not known."""
    across, interval = effect.across, effect.interval
    return {
        "task": effect.task,
        "config": effect.variant,
        "stage": effect.stage,
        "d_acc": across and across.mean,
        "d_acc_low": interval and interval.low,
        "d_acc_high": interval and interval.high,
        "d_acc_sd": across and across.sd,
        "n_runs": across.n if across else 0,
        "seed_pattern": across and across.pattern,
        "repeats": effect.repeats,
        "seeds": list(effect.seeds),
        "rounds": list(effect.rounds),
        "protocol": effect.protocol,
        "protocols": effect.protocols,
        "n_tried": effect.tried,
        "p_value": effect.p_value,
        "q_value": effect.q_value,
        "decisions": dict(effect.decisions),
        "caveats": list(effect.caveats),
    }


def as_json(report: Report) -> str:
    whole = {
        "rounds": [one.view.round for one in report.rounds],
        "effects": [flat(effect) for effect in report.effects],
    }
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def as_csv(report: Report) -> str:
    """A line for each effect; lists joined by spaces."""
    buffer = io.StringIO()
    rows = [{key: _joined(value) for key, value in flat(effect).items()} for effect in report.effects]
    writer = csv.DictWriter(buffer, [*FLAT_COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _joined(value: Any) -> Any:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={count}" for name, count in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else value


FLAT_COLUMNS = (
    *(
        "task",
        "config",
        "stage",
        "d_acc",
        "d_acc_low",
        "d_acc_high",
        "d_acc_sd",
        "n_runs",
        "seed_pattern",
        "repeats",
    ),
    *("seeds", "rounds", "protocol", "protocols", "n_tried", "p_value", "q_value", "decisions", "caveats"),
)
