"""`top_k`: the best few of a stage go on, as in the literature's comparisons.

Ranks need no noise model, and a lucky baseline cancels in them; but the best of many is best by luck too, and
somebody always is. `min_delta` keeps out what is no better than the baseline; -1 leaves the rank alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveInt

from orchestrator.points import ROUNDING, points
from orchestrator.rules.rivals import Rivals
from orchestrator.rules.rule import Rule, Ruling, Scope, Trial, mean


class TopK(Rule):
    """Promote the `keep` best mean deltas, of those that reach `min_delta`; ties go on together."""

    scope = Scope.STAGE

    rule: Literal["top_k"] = "top_k"
    keep: PositiveInt = 3

    def judge(self, trials: Sequence[Trial], rivals: Sequence[Sequence[Trial]]) -> Ruling:
        return among_the_best(self.keep, self.min_delta, trials, rivals)


def among_the_best(
    keep: int, min_delta: float, trials: Sequence[Trial], rivals: Sequence[Sequence[Trial]]
) -> Ruling:
    """Whether fewer than `keep` rivals are better, and the mean delta large enough."""
    own = mean(trials)
    rank = 1 + Rivals.of(rivals).better_than(own)
    said = f"{points(own, min_delta)}, rank {rank} of {1 + len(rivals)}"
    if own < min_delta - ROUNDING:
        return Ruling(False, f"{said}: below {points(min_delta)}")
    return Ruling(rank <= keep, f"{said}: the best {keep} go on")
