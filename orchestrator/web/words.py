"""Values and events in words, as the pages show them."""

from __future__ import annotations

from datetime import UTC, datetime

from db.events import EventKind
from orchestrator.durations import duration
from orchestrator.points import interval_text, points
from orchestrator.rounds.variants import Selection
from orchestrator.verdicts import Verdict
from orchestrator.views.shapes import EventView

NO_BREAK = "\N{NO-BREAK SPACE}"
VERDICTS = {Verdict.NO_OP: "no-op"}  # those that are not said as they are stored


def percent(fraction: float | None) -> str:
    """An accuracy: 0.2466 is 24.66%."""
    return "–" if fraction is None else f"{fraction:.2%}"


def delta(fraction: float | None) -> str:
    """A difference of accuracies: 0.001 is +0.10 pp."""
    return "–" if fraction is None else points(fraction).replace(" ", NO_BREAK)


def interval(ends: tuple[float, float] | None) -> str:
    """The interval of a difference of accuracies."""
    return "" if ends is None else interval_text(ends).replace(" ", NO_BREAK)


def signed(number: float | None) -> str:
    """A difference of losses."""
    return "–" if number is None else f"{number + 0.0:+.4f}"


def verdict(stored: str) -> str:
    """A verdict in words."""
    return VERDICTS.get(Verdict(stored), stored)


def selection(wanted: Selection) -> str:
    """Variants that another round has yet to find: the best 2 of search."""
    which = "measured" if wanted.where == "any" else wanted.where
    return (
        f"the best {wanted.top} of {wanted.source}" if wanted.top else f"all {which} ones of {wanted.source}"
    )


def moment(at: datetime) -> str:
    """A time to the minute; the pages say once that all times are UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def age(at: datetime, now: datetime) -> str:
    """How long ago something was: 5 min ago, 3 h ago, 12 days ago."""
    minutes = int((now - at).total_seconds() / 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    hours = minutes // 60
    return f"{hours} h ago" if hours < 48 else f"{hours // 24} days ago"


def lasted(seconds: float) -> str:
    """A length of time, on one line."""
    return duration(seconds).replace(" ", NO_BREAK)


def happened(event: EventView) -> str:
    """An event in a sentence."""
    data = event.data
    because = f": {data['reason']}" if data.get("reason") else ""
    job = "{task} {stage} {config}, seed {seed}".format(**data) if "config" in data else ""
    match event.kind:
        case EventKind.SUBMITTED:
            return f"submitted by {data['by']}"
        case EventKind.WAITING:
            return f"the round {data['reason']}"
        case EventKind.STARTED:
            return "the round started"
        case EventKind.BLOCKED:
            return f"the round is blocked{because}"
        case EventKind.JOB_STARTED:
            again = f", attempt {data['attempt']}" if data["attempt"] > 1 else ""
            return f"{job}: started{again}"
        case EventKind.EVALUATED:
            return f"{job}: {percent(data['val_tok_acc'])} at step {data['step']}"
        case EventKind.JOB_REQUEUED:
            return f"{job}: queued again{because}"
        case EventKind.JOB_ENDED:
            return f"{job}: ended, {data['outcome']}{because}"
        case EventKind.DECIDED:
            return f"{job}: {verdict(data['decision'])}{because}"
        case EventKind.HELD_UP:
            return f"nothing more is decided{because}" if because else "the round goes on"
        case EventKind.FINISHED:
            return "the round has finished"
        case EventKind.CANCELLED:
            return f"cancelled by {data['by']}"
        case EventKind.RETRIED:
            return f"tried again by {data['by']}: {data['jobs']} jobs"
