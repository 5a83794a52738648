"""Runs that are another under a new name."""

from __future__ import annotations

from orchestrator.audit import duplicates
from orchestrator.history.entries import History
from tests.orchestrator.audit.made import row, run


def test_duplicates__under_another_name() -> None:
    first, again = run(loss=2.0), run(loss=2.0, round="2", task="u")
    summary, found = duplicates.judge(History([first, again, run("head_l8")]))
    assert summary.figures == {"repeats": 1, "measured": 3, "under_another_name": 1, "groups": 1}
    assert found.text == "bit-identical in round 1 t, round 2 u: quick baseline"
    assert found.records == [first.source, again.source]


def test_duplicates__a_result_from_the_store_is_none() -> None:
    assert not list(duplicates.judge(History([run(loss=2.0), run(loss=2.0, round="2", status="cached")])))


def test_duplicates__equal_accuracy_alone_is_none() -> None:
    assert not list(
        duplicates.judge(History([run(), run(round="2"), run(loss=None), run(loss=None, round="2")]))
    )


def test_duplicates__a_stage_that_repeats_another() -> None:
    _, found = duplicates.judge(History([run("head_l8", loss=2.0), run("head_l8", loss=2.0, stage="med")]))
    assert found.text.startswith("round 1 t head_l8 seed 0: med is quick over again")


def test_duplicates__rows_of_one_seed_only() -> None:
    same = [row(0.0125, 0.03), row(0.0125, 0.03, "u_seed1_again", round="80", family="u")]
    of_another_seed = row(0.0125, 0.03, "t_seed2")
    zeros = [row(0.0, 0.0), row(0.0, 0.0)]
    summary, found, _ = duplicates.judge(History(ledger=[*same, of_another_seed, *zeros]))
    assert (summary.figures["quick_repeats"], summary.figures["med_repeats"]) == (1, 1)
    assert found.text.endswith("are one result, filed under the families t and u")
    assert found.records == [each.source for each in same]


def test_duplicates__replayed_rows() -> None:
    (found,) = duplicates.judge(History(ledger=[row(0.01, 0.01), row(0.02, 0.01), row(0.01)]))
    assert (found.figures["replayed"], found.figures["both"]) == (1, 2)
