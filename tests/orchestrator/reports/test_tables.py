"""The forms of a report: the same rows in each."""

from __future__ import annotations

import csv
import io
import json

import pytest

from orchestrator.reports import tables
from orchestrator.reports.effects import Report, of_rounds
from tests.orchestrator.reports.samples import of_round, two_seeds


@pytest.fixture
def report() -> Report:
    return of_rounds([of_round(two_seeds()), of_round(two_seeds(), "again")])


def test_text__every_row_and_note(report: Report) -> None:
    text = tables.as_text(report, 200)
    assert "2 rounds: r1, again" in text
    assert "s4: 3 variants tried" in text
    row = next(line for line in text.splitlines() if line.startswith(" l1 ") and " quick " in line)
    for cell in (
        "+3.75 pp",
        "[-12.13, +19.63] pp",
        "2+/0=/0- (2 repeated, 2 rounds)",
        "0.250",
        "0.750",
        "4 promoted",
    ):
        assert cell in row
    assert "at_chance (s4): the baseline is not above" in text
    assert "(3 at quick, 3 at med)" in text


def test_text__a_narrow_terminal_loses_nothing(report: Report) -> None:
    narrow = tables.as_text(report, 60)
    assert max(map(len, narrow.splitlines())) <= 60
    assert "…" not in narrow


def test_markdown__a_table_for_each_task(report: Report) -> None:
    lines = tables.as_markdown(report).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(report.effects)
    assert {line.count("|") for line in rows} == {len(tables.COLUMNS) + 1}
    assert "| noop | quick | not measured | - | - | - | - | 4 no_op |  |" in rows


def test_csv_and_json__say_the_same(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(report))))
    whole = json.loads(tables.as_json(report))
    assert whole["rounds"] == ["r1", "again"]
    assert [set(row) for row in rows] == [set(effect) for effect in whole["effects"]]
    assert rows[0]["rounds"] == "r1 again"
    assert rows[0]["decisions"] == "promoted=4"
    assert float(rows[0]["d_acc"]) == whole["effects"][0]["d_acc"]


def test_nothing__is_said(report: Report) -> None:
    empty = of_rounds([])
    assert tables.EMPTY in tables.as_text(empty, 80)
    assert tables.EMPTY in tables.as_markdown(empty)
    assert list(csv.DictReader(io.StringIO(tables.as_csv(empty)))) == []
