"""How findings are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import reporting
from orchestrator.audit.finding import Check, Finding, share
from orchestrator.audit.judging import audit
from orchestrator.history.entries import History


@pytest.mark.parametrize(
    ("records", "cited"),
    [
        (["a:3", "a:1", "a:2", "a:9", "a:1"], "a:1-3, 9"),
        (["a:1", "b:1"], "a:1; b:1"),
        (["job 7", "job 8", "job 12"], "jobs 7-8, 12"),
        (["job 7", "job 7 (decision)"], "job 7; job 7 (decision)"),
        ([], ""),
    ],
)
def test_cite(records: list[str], cited: str) -> None:
    assert reporting.cite(records) == cited


@given(st.sets(st.integers(0, 10**12)))
def test_cite__names_every_line(numbers: set[int]) -> None:
    cited = reporting.cite([f"a:{number}" for number in numbers])
    spelled: set[int] = set()
    for part in cited.removeprefix("a:").split(", ") if cited else []:
        first, _, last = part.partition("-")
        spelled |= {int(first), int(last or first)} | (
            set(range(int(first), int(last or first) + 1))
            if int(last or first) - int(first) < 10**6
            else set()
        )
    assert spelled == numbers


def test_markdown__text_is_only_text() -> None:
    finding = Finding(Check.LABELS, "task_a <b> [x](y) |", ["f|_:1"])
    found = audit(History())
    found.findings[Check.LABELS].append(finding)
    assert r"- task\_a \<b\> \[x\](y) \|" in reporting.as_markdown(found)


def test_share() -> None:
    assert (share(72, 237), share(0, 0)) == ("72 of 237 (30.4 %)", "0 of 0")
