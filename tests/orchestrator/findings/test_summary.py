"""The summary of a round: its tables, and what they say beside."""

from __future__ import annotations

from pathlib import Path

from db.session import Database
from orchestrator.findings import exports
from orchestrator.findings.records import records
from orchestrator.points import interval_text
from orchestrator.rounds.resolved_round import ResolvedRound
from tests.orchestrator.factories import Rig, resolve, result


def test_summary__accuracies_and_deltas_are_of_the_metric_that_decides(
    database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    rule = {"rule": "threshold", "metric": "best_val_seq_acc", "min_delta": 0.0}
    rig.submit(resolve(tmp_path, prune=rule))
    rig.run_all({("quick", "l1"): 0.5})
    text = "\n".join(exports.lines(database, "r1", "summary"))
    assert "acc and delta: best_val_seq_acc" in text
    # a result's accuracy by sequence is half of that by token
    assert "baseline                        0 quick      10.00%          -" in text
    assert "l1                              0 quick      25.00%  +15.00 pp" in text


def test_summary__a_run_decided_by_itself_has_its_interval_whatever_the_metric(
    database: Database, tmp_path: Path
) -> None:
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path, prune={"rule": "threshold", "metric": "best_val_seq_acc", "min_delta": 0.0}))
    for accuracy in (0.2, 0.8):  # baseline and variant, as their evaluations have it
        ended = result(accuracy)
        assert ended.metrics is not None
        metrics = ended.metrics.model_copy(update={"best_val_seq_acc": accuracy})
        rig.run_next(ended.model_copy(update={"metrics": metrics}))
    (own,) = [
        one
        for one in records(database, "r1")
        if one.get("decided_stage") == "quick" and one["config"] == "l1"
    ]
    text = "\n".join(exports.lines(database, "r1", "summary"))
    (line,) = [line for line in text.splitlines() if line.startswith("l1 ") and " quick " in line]
    assert own["d_acc_ci"] is not None
    assert interval_text(own["d_acc_ci"]) in line
    assert "uniform guess" in text
    assert " of the tokens" in text


def test_summary__one_gain_under_two_names_is_one(database: Database, tmp_path: Path) -> None:
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path, variants={name: {"layer_start": 1} for name in ("a", "b")}))
    rig.run_all({("quick", "a"): 0.9, ("quick", "b"): 0.9})
    lines = list(exports.lines(database, "r1", "summary"))
    (gains,) = [line for line in lines if line.startswith("gains among the 1 tried at quick")]
    assert gains.count("s4/a (q ") == 1
    assert "s4/b" not in gains


def test_summary__seeds_that_are_alike_have_no_interval(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[0, 1, 2], prune={"min_delta": 0.5}))
    rig.run_all({})
    lines = list(exports.lines(database, "r1", "summary"))
    assert any("l1 at quick: mean" in line and line.endswith(": no interval") for line in lines)
    assert not any("t interval" in line for line in lines)


def test_summary__how_many_prompts_hold_their_answer(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    whole = resolve(tmp_path)
    report = whole.facts.tasks["s4"]
    leaking = report.model_copy(update={"train": report.train.model_copy(update={"leak": 0.031})})
    facts = whole.facts.model_copy(update={"tasks": {"s4": leaking}})
    rig.submit(ResolvedRound(whole.spec, facts))
    rig.run_next(result(0.2))
    lines = list(exports.lines(database, "r1", "summary"))
    assert "  leak: the answer stands in the prompt of 3.1% in train, 0.0% in val" in lines
    assert "leak" in next(records(database, "r1"))["caveats"]
