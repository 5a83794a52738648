"""What was promoted and lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import reversals
from orchestrator.history.entries import History, LedgerRow
from tests.orchestrator.audit.made import DELTAS, row

ROWS = st.lists(st.builds(row, DELTAS, st.none() | DELTAS), max_size=30)


@given(ROWS)
def test_reversals__counts(rows: list[LedgerRow]) -> None:
    found = [each for each in reversals.judge(History(ledger=rows)) if "gate" in each.figures]
    expected = []
    for gate in reversals.GATES:
        promoted = [one for one in rows if one.med_delta is not None and one.quick_delta >= gate - 1e-9]
        gone = [one for one in promoted if (one.med_delta or 0) <= 0]
        if promoted:
            expected.append((gate, len(promoted), len(gone), [one.source for one in (gone or promoted)]))
    told = [[each.figures[name] for name in ("gate", "followed_up", "reversed")] for each in found]
    assert [(*figures, list(each.records)) for figures, each in zip(told, found, strict=True)] == expected
