"""Gains over a baseline that was trained for less, or is another."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.audit import baselines
from orchestrator.history.entries import History
from tests.orchestrator.audit.made import run


def test_baselines__only_a_shorter_one() -> None:
    base, variant = run(accuracy=0.1), run("head_l8", 0.3, stage="med")
    summary, found = baselines.judge(History([base, variant]))
    assert summary.figures == {"unmatched": 1, "variants": 1}
    assert found.text.startswith(
        "round 1 t med seed 0: head_l8 can only be held against the shorter quick baseline"
    )
    assert found.figures["highest"] == pytest.approx(0.2)
    assert found.records == [variant.source, base.source]


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([], "no baseline at all"),
        ([{"seed": 1}], "only baselines of another seed or batch size, or failed ones"),
        ([{"batch_size": 8}], "only baselines of another seed or batch size, or failed ones"),
        (
            [{"status": "fail", "accuracy": None}],
            "only baselines of another seed or batch size, or failed ones",
        ),
    ],
)
def test_baselines__none_that_matches(others: list[dict[str, Any]], why: str) -> None:
    _, found = baselines.judge(History([run("head_l8"), *(run(**other) for other in others)]))
    assert found.text == f"round 1 t quick seed 0: head_l8: {why}"


def test_baselines__unequal_steps() -> None:
    (found,) = baselines.judge(
        History([run(steps=100), run("head_l8", steps=160), run("head_l10", steps=101)])
    )
    assert "was trained for 160 steps, its baseline for 100" in found.text


def test_baselines__two_that_differ() -> None:
    (found,) = baselines.judge(History([run(accuracy=0.25), run(accuracy=0.5)]))
    assert found.text == "round 1 t quick seed 0 has baselines that differ: 25.00 %, 50.00 %"
