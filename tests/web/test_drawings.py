"""Charts for pages: what is kept, what waits, and what cannot be drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
from markupsafe import Markup
from structlog.testing import capture_logs

from orchestrator.charts.data import Funnel
from orchestrator.web import drawings
from orchestrator.web.drawings import Drawings

FUNNEL = Funnel("r1", 1, 0, 1, 0, 1, 0, 0, 0)
PATIENCE = 30


def funnels(count: int) -> list[Funnel]:
    return [replace(FUNNEL, planned=number) for number in range(count)]


def test_of__a_chart_that_cannot_be_drawn_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no")

    kept = Drawings()
    with monkeypatch.context() as patched, capture_logs() as said:
        patched.setattr("orchestrator.charts.funnel.chart", broken)
        assert kept.of([FUNNEL], PATIENCE) == {FUNNEL: None}

    assert [line["event"] for line in said] == ["a chart cannot be drawn"]
    assert str(kept.of([FUNNEL], PATIENCE)[FUNNEL]).startswith("<svg")


def test_of__more_than_are_kept_or_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []

    def draw(data: object) -> Markup:
        drawn.append(data)
        return Markup("x")

    monkeypatch.setattr(drawings, "KEPT", 8)
    monkeypatch.setattr(drawings, "AT_ONCE", 4)
    monkeypatch.setattr(drawings, "_draw", draw)
    kept, wanted = Drawings(), funnels(8)
    while len(kept.of(wanted)) < len(wanted):
        pass
    assert len(drawn) == 8
    assert len(kept.of(wanted)) == 8
    kept.of([FUNNEL, replace(FUNNEL, planned=99)], PATIENCE)
    assert len(drawn) == 9  # FUNNEL is among the eight
    assert len(kept._kept) == 8
