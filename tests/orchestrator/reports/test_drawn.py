"""What the charts of a report show, and that they are drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.charts import composed, rendering
from orchestrator.charts.data import Curve, Forest, Funnel, Pair, Pooled, Spending, Spent, StagePairs
from orchestrator.errors import BadInput
from orchestrator.reports import drawn
from orchestrator.reports.effects import of_rounds
from orchestrator.views.shapes import NoiseFloor
from tests.orchestrator.reports.samples import decision, job, of_round, two_seeds
from tests.orchestrator.test_charts import HOSTILE, marks, parsed, texts

TWICE = [of_round(two_seeds()), of_round(two_seeds(), "again")]


def test_stages__equal_runs_once_and_reversals_marked() -> None:
    (found,) = drawn.stage_pairs(TWICE)
    assert (found.first, found.then) == ("quick", "med")
    assert [(pair.seed, pair.first, pair.then, pair.is_reversed) for pair in found.pairs] == [
        (0, 0.05, -0.025, True),
        (1, 0.025, -0.0125, True),
    ]
    root = parsed(composed.part(found))
    assert "2 of 2 gains at quick were none at med (100%); dashed: no change" in texts(root)
    assert marks(root)[0] == "r1 s4 l1 seed 0: +5.00 pp at quick, -2.50 pp at med"
    assert "reversed" in texts(root)


def test_parts__a_control_arm_is_no_variant() -> None:
    records = [job(name, stage, d_acc=0.05) for name in ("aa", "l1") for stage in ("quick", "med")]
    one = of_round(records, noise_floor=NoiseFloor(judged=1, promoted=1))
    (found,) = drawn.stage_pairs([one])
    assert [pair.variant for pair in found.pairs] == ["l1"]
    (forest,) = drawn.of_tasks(of_rounds([one]), [])["s4"]
    assert isinstance(forest, Forest)
    assert {delta.variant for delta in forest.deltas} == {"aa (control)", "l1"}


def test_spending__by_stage_and_verdict() -> None:
    found = drawn.spending(TWICE[:1])
    assert found.stages == ("quick", "med")
    assert {(one.stage, one.on): one.seconds for one in found.spent} == {
        ("quick", "baseline"): 60,
        ("quick", "promoted"): 60,
        ("quick", "pruned"): 120,
        ("med", "baseline"): 60,
        ("med", "rejected"): 60,
    }
    assert {"4 min 00 s", "2 min 00 s", "minutes"} <= set(texts(parsed(composed.part(found))))


def test_spending__cached_jobs_took_none_and_a_decision_counts_for_all_its_seeds() -> None:
    records = [job("l1", seed=seed, d_acc=0.1) for seed in (0, 1)]
    records += [job("l2", status="cached"), job("l3"), decision("l1", "promoted", seeds=[0, 1])]
    assert drawn.spending([of_round(records)]).spent == (
        Spent("quick", "promoted", 60.0),
        Spent("quick", "unmeasured", 30.0),
    )


def test_funnel__adds_rounds_up() -> None:
    found = drawn.funnel(TWICE)
    assert (found.round, found.planned, found.pruned, found.rejected) == ("2 rounds", 16, 8, 4)


def test_forest__every_effect_with_its_numbers() -> None:
    (forest,) = drawn.of_tasks(of_rounds(TWICE), [])["s4"]
    assert isinstance(forest, Forest)
    shown = texts(parsed(composed.part(forest)))
    assert "+3.75 pp [-12.13, +19.63]  2+/0=/0-".replace("  ", " ") in [
        text.replace("  ", " ") for text in shown
    ]
    assert {"l1, quick", "l1, med", "l2, quick"} <= set(shown)


def test_curves__of_runs_that_were_evaluated_alike() -> None:
    curves = [Curve("l1", "s4", "med", seed, (2, 4), (0.2, 0.3)) for seed in (0, 1)]
    curves += [
        Curve("l1", "s4", "med", 2, (2,), (0.2,)),
        Curve("baseline", "s4", "quick", 0, (2, 4), (0.1, 0.1)),
    ]
    found = drawn.task_curves("s4", curves, ["quick", "med"])
    assert found is not None
    assert (found.stage, found.is_banded, found.curves) == ("med", True, tuple(curves[:2]))
    assert drawn.task_curves("other", curves, ["quick", "med"]) is None


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_chart__as_a_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"report.{ending}"
    rendering.write(drawn.chart(of_rounds(TWICE), []), path)
    assert path.stat().st_size > 1000


def test_chart__of_nothing() -> None:
    with pytest.raises(BadInput, match="nothing to draw yet"):
        drawn.chart(of_rounds([of_round([])]), [])


@pytest.mark.parametrize("text", HOSTILE)
def test_parts__names_are_text_only(text: str) -> None:
    parts = [
        Forest(text, (Pooled(text, text, 0.01, (0.0, 0.02), text),)),
        StagePairs(text, text, (Pair(text, text, text, 0, 0.1, -0.1),)),
        Spending(text, ("quick",), (Spent("quick", "baseline", 5.0),)),
        Funnel(text, 1, 0, 1, 0, 0, 0, 0, 0),
    ]
    for part in parts:
        root = parsed(composed.part(part))  # well-formed
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags <= {"svg", "g", "path", "rect", "text", "title", "line", "tspan"}
