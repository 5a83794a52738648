"""All checks over one history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.audit import (
    baselines,
    chance,
    decisions,
    duplicates,
    grids,
    labels,
    no_ops,
    regression,
    reversals,
    seeds,
)
from orchestrator.audit.finding import Check, Finding
from orchestrator.history.entries import History
from orchestrator.history.predecessor import LAYERS


@dataclass(frozen=True)
class Audit:
    """What was judged, and what was found, by check; a check without findings has an empty list."""

    judged: Mapping[str, int]
    findings: Mapping[Check, list[Finding]]


def audit(history: History, layers: int = LAYERS) -> Audit:
    """Judges records; `layers` are those of the model, for variants that are named after one."""
    found = [
        *duplicates.judge(history),
        *no_ops.judge(history, layers),
        *baselines.judge(history),
        *grids.judge(history),
        *chance.judge(history),
        *reversals.judge(history),
        *regression.judge(history),
        *seeds.judge(history),
        *decisions.judge(history),
        *labels.judge(history),
    ]
    rounds = {run.round for run in history.runs} | {decision.round for decision in history.decisions}
    judged = {
        "rounds": len(rounds),
        "runs": len(history.runs),
        "measured": sum(run.is_measured for run in history.runs),
        "decisions": len(history.decisions),
        "decisions_checked": len(decisions.checked(history)),
        "ledger_rows": len(history.ledger),
        "ledger_rows_with_records": len(labels.rows_with_records(history)),
    }
    return Audit(judged, {check: [one for one in found if one.check is check] for check in Check})
