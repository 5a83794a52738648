"""A prune rule: promote what most of the round's seeds find good enough."""

from collections.abc import Sequence
from typing import Literal

from orchestrator.rules import Rule, Ruling, Scope, Trial


class Majority(Rule):
    """Promote when more than half of the seeds reach `min_delta`; stop as soon as the rest cannot change that."""

    scope = Scope.VARIANT

    rule: Literal["majority"] = "majority"
    of: int = 3

    def judge(self, trials: Sequence[Trial], rivals: Sequence[Sequence[Trial]]) -> Ruling | None:
        up = sum(trial.delta >= self.min_delta for trial in trials)
        left = self.of - len(trials)
        if 2 * up > self.of or 2 * (up + left) <= self.of:
            return Ruling(2 * up > self.of, f"{up} of {len(trials)} seeds up")
        return None  # another seed

    def seeds(self, given: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys([*given, *range(self.of)]))[: self.of]
