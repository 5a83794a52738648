"""`threshold`: the rule of the predecessor's rounds 20-42, and the default.

It is a point decision: it knows no noise. Where one answer token of the validation set is larger than `min_delta`, or
the run-to-run spread is, it promotes and prunes by chance; the caveats say so beside every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from orchestrator.points import ROUNDING, points
from orchestrator.rules.rule import Rule, Ruling, Trial


class Threshold(Rule):
    """Promote what is at least `min_delta` (a fraction: 0.001 is +0.10 pp) above the baseline."""

    prunes_below_min_delta = True

    rule: Literal["threshold"] = "threshold"

    def promotes(self, delta: float) -> bool:
        """Whether a delta (fraction) is large enough; one exactly at the threshold is."""
        return delta >= self.min_delta - ROUNDING

    def judge(self, trials: Sequence[Trial], rivals: Sequence[Sequence[Trial]]) -> Ruling:
        (trial,) = trials
        promotes = self.promotes(trial.delta)
        compared = "reaches" if promotes else "is below"
        return Ruling(promotes, f"{points(trial.delta, self.min_delta)} {compared} {points(self.min_delta)}")
