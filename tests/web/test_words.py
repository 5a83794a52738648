"""What the pages say, and what they keep."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from db.events import EventKind
from orchestrator.rounds.variants import Selection
from orchestrator.views.shapes import EventView
from orchestrator.web.words import age, happened, selection
from tests.orchestrator.factories import NOW

JOB = {"task": "s4", "stage": "quick", "config": "l1", "seed": 0}


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (EventKind.SUBMITTED, {"by": "me"}, "submitted by me"),
        (EventKind.WAITING, {"reason": "waits for round r0"}, "the round waits for round r0"),
        (EventKind.STARTED, {}, "the round started"),
        (
            EventKind.BLOCKED,
            {"reason": "round r0 was cancelled"},
            "the round is blocked: round r0 was cancelled",
        ),
        (EventKind.JOB_STARTED, JOB | {"attempt": 1}, "s4 quick l1, seed 0: started"),
        (EventKind.JOB_STARTED, JOB | {"attempt": 2}, "s4 quick l1, seed 0: started, attempt 2"),
        (
            EventKind.EVALUATED,
            JOB | {"val_tok_acc": 0.25, "step": 20},
            "s4 quick l1, seed 0: 25.00% at step 20",
        ),
        (EventKind.JOB_REQUEUED, JOB | {"reason": "disk"}, "s4 quick l1, seed 0: queued again: disk"),
        (EventKind.JOB_ENDED, JOB | {"outcome": "ok", "reason": None}, "s4 quick l1, seed 0: ended, ok"),
        (EventKind.DECIDED, JOB | {"decision": "no_op", "reason": "x"}, "s4 quick l1, seed 0: no-op: x"),
        (EventKind.FINISHED, {}, "the round has finished"),
        (EventKind.CANCELLED, {"by": "me"}, "cancelled by me"),
        (EventKind.RETRIED, {"by": "me", "jobs": 2}, "tried again by me: 2 jobs"),
    ],
)
def test_happened__in_a_sentence(kind: EventKind, data: dict[str, Any], words: str) -> None:
    assert happened(EventView(number=1, at=NOW, kind=kind, job=None, data=data)) == words


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=59), "59 min ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=2), "2 days ago"),
    ],
)
def test_age__rounded_down(passed: timedelta, words: str) -> None:
    assert age(NOW, NOW + passed) == words


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"from": "night", "top": 2}, "the best 2 of night"),
        ({"from": "night"}, "all promoted ones of night"),
        ({"from": "night", "where": "any"}, "all measured ones of night"),
    ],
)
def test_selection__in_words(wanted: dict[str, Any], words: str) -> None:
    assert selection(Selection.model_validate(wanted)) == words
