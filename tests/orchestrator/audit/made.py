"""Records made for the tests."""

from __future__ import annotations

from itertools import count
from typing import Any

from hypothesis import strategies as st

from orchestrator.history.entries import Decision, LedgerRow, Run

SOURCES = count(1)


def run(config: str = "baseline", accuracy: float | None = 0.5, **changes: Any) -> Run:
    """A measured run; its loss is its own unless it is given."""
    number = next(SOURCES)
    given: dict[str, Any] = {
        "source": f"f:{number}",
        "round": "1",
        "task": "t",
        "stage": "quick",
        "config": config,
        "status": "ok",
        "seed": 0,
        "accuracy": accuracy,
        "loss": 1 + number / 7,
    }
    return Run(**given | changes)


def decision(config: str, status: str, reason: str, **changes: Any) -> Decision:
    given: dict[str, Any] = {
        "source": f"f:{next(SOURCES)}",
        "round": "1",
        "task": "t",
        "stage": "quick",
        "config": config,
        "status": status,
        "reason": reason,
    }
    return Decision(**given | changes)


def row(quick: float, med: float | None = None, task: str = "t_seed1", **changes: Any) -> LedgerRow:
    given: dict[str, Any] = {
        "source": f"l:{next(SOURCES)}",
        "round": "77",
        "task": task,
        "family": "t",
        "quick_delta": quick,
        "quick_config": "head_l8",
        "med_delta": med,
        "med_config": "" if med is None else "head_l8",
    }
    return LedgerRow(**given | changes)


def texts(findings: Any) -> list[str]:
    return [finding.text for finding in findings]


DELTAS = st.integers(-2000, 2000).map(lambda number: number / 10_000)
