"""`halving`: successive halving (Jamieson and Talwalkar 2016); at every stage the best 1/eta go on.

A peer's rule for comparison: it decides by rank, whatever the noise, and always promotes somebody who reaches
`min_delta` (-1 leaves the rank alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.rules.rule import Rule, Ruling, Scope, Trial
from orchestrator.rules.top_k import among_the_best


class Halving(Rule):
    """Promote the best 1/eta of the variants measured at a stage, at least one; ties go on together."""

    scope = Scope.STAGE

    rule: Literal["halving"] = "halving"
    eta: Annotated[float, Field(gt=1, le=1000)] = 3

    def judge(self, trials: Sequence[Trial], rivals: Sequence[Sequence[Trial]]) -> Ruling:
        # as it is written: 21 / 1.4 is 15, and a little more in binary fractions
        best = ceil((1 + len(rivals)) / Fraction(repr(self.eta)))
        return among_the_best(best, self.min_delta, trials, rivals)
