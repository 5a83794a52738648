"""The log: one entry for each round, whatever else stands in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import BadInput, FsqError
from orchestrator.reports import round_log
from orchestrator.reports.round_log import entry, update, with_entry
from orchestrator.views.shapes import NoiseFloor
from tests.orchestrator.reports.samples import decision, job, of_round, two_seeds


def test_entry__keeps_what_did_not_work() -> None:
    text = entry(of_round(two_seeds()))
    assert text.startswith("## 2026-01-01: r1 (finished)\n")
    for line in (
        "| l1 | quick | 0 | 55.00% | +5.00 pp | - | promoted | l1-quick-0-0 |",
        "| l1 | med | 0 | 47.50% | -2.50 pp | - | rejected | l1-med-0--0. |",
        "| l2 | quick | 1 | 47.50% | -2.50 pp | - | pruned | l2-quick-1-- |",
        "| noop | quick | 0 | - | - | - | no_op | - |",
        "| bad | quick | 0 | - | - | - | pruned | bad-quick-0- |",
    ):
        assert line in text.splitlines()
    assert (
        "Verdict: 2 promoted, 2 rejected, 4 pruned, 2 no_op. Best of 3 at its last stage: l1 -1.88 pp at med"
        in text
    )
    assert "- at_chance (s4): the baseline is not above" in text
    assert "`fsq export r1`: 22 records; version 0.1.0; device cpu; kernel chunked." in text


def test_entry__a_control_arm_is_marked_and_no_variant() -> None:
    records = [job("baseline"), job("aa", d_acc=0.05), decision("aa", "promoted", d_acc=0.05)]
    records += [job("l1", d_acc=-0.05), decision("l1", "pruned", d_acc=-0.05)]
    text = entry(of_round(records, noise_floor=NoiseFloor(judged=1, promoted=1)))
    assert "| aa (control) | quick | 0 | 55.00% | +5.00 pp |" in text
    assert "Verdict: 1 pruned. Best of 1 at its last stage: l1 -5.00 pp at quick" in text


def test_entry__by_the_metric_that_decides() -> None:
    records = [
        job("baseline", best_val_seq_acc=0.25),
        job("l1", d_acc=-0.05, d_acc_ci=[-0.1, 0.0], best_val_seq_acc=0.5),
        decision("l1", "promoted", d_acc=0.25, d_acc_ci=[0.1, 0.4], seeds=[0]),
    ]
    text = entry(of_round(records, metric="best_val_seq_acc"))
    assert "| l1 | quick | 0 | 50.00% | +25.00 pp | [+10.00, +40.00] pp | promoted |" in text
    assert "Best of 1 by best_val_tok_acc at its last stage: l1 -5.00 pp at quick" in text


def test_entry__before_anything_is_decided() -> None:
    assert "Verdict: nothing is decided yet." in entry(of_round([]))


def test_update__once_for_each_round(tmp_path: Path) -> None:
    log = tmp_path / "results" / round_log.NAME
    update(log, [of_round([]), of_round([], "r2")])
    text = log.read_text() + "\nA note of mine.\n"
    log.write_text(text)
    update(log, [of_round([], "r2")])
    assert log.read_text() == text
    update(log, [of_round(two_seeds())])
    changed = log.read_text()
    assert changed.count("<!-- fsq: begin ") == 2
    assert "4 pruned" in changed
    assert changed.endswith("\nA note of mine.\n")
    assert changed.index("begin r1") < changed.index("begin r2")


def test_update__says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "log.md").write_text("<!-- fsq: begin r1 -->\n")
    with pytest.raises(BadInput, match="has lost its last line, '<!-- fsq: end r1 -->'"):
        update(tmp_path / "log.md", [of_round([])])
    with pytest.raises(FsqError, match="cannot be kept"):
        update(tmp_path / "log.md" / "log.md", [of_round([])])


@given(
    st.text(),
    st.lists(st.tuples(st.sampled_from(("a", "a.b", "ab")), st.text("x\n|#-", max_size=9)), max_size=6),
)
def test_with_entry__replaces_and_leaves_the_rest(before: str, entries: list[tuple[str, str]]) -> None:
    log = before
    for name, text in entries:
        log = with_entry(log, name, f"{text}\n")
        assert with_entry(log, name, f"{text}\n") == log
    assert log.startswith(before)
    last = dict(entries)
    for name, text in last.items():
        assert f"<!-- fsq: begin {name} -->\n{text}\n<!-- fsq: end {name} -->\n" in log
    assert log.count("<!-- fsq: begin ") - before.count("<!-- fsq: begin ") == len(last)
