"""`evidence`: prune or promote once the numbers bear it, and buy another seed until then.

The bounds take both sources of doubt into account, which examples were asked and which run was drawn
(`statistics.seeds.estimate`); with one seed only the first is known, so one seed may prune but not promote. The rule
looks after every seed, and its error rate is that of a single look: it is meant for choosing what to spend more on.
What it promotes last is not confirmed; only a confirm stage does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from orchestrator.points import ROUNDING, interval_text, points
from orchestrator.rules.rule import Rule, Ruling, Scope, Trial, mean
from orchestrator.statistics.examples import Interval
from orchestrator.statistics.seeds import estimate_if_known


class Evidence(Rule):
    """Prune when the upper bound is below `min_delta`, promote when the lower one is above it."""

    scope = Scope.VARIANT
    needs_examples = True

    rule: Literal["evidence"] = "evidence"
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9  # of each bound by itself
    min_seeds: PositiveInt = 2  # to promote
    max_seeds: Annotated[int, Field(ge=1, le=1000)] = 5

    @model_validator(mode="after")
    def _can_promote(self) -> Self:
        if self.min_seeds > self.max_seeds:
            raise ValueError(f"min_seeds ({self.min_seeds}) exceeds max_seeds ({self.max_seeds})")
        return self

    def judge(self, trials: Sequence[Trial], rivals: Sequence[Sequence[Trial]]) -> Ruling | None:
        bounds, n = self.bounds(trials), len(trials)
        said = f"{points(mean(trials), self.min_delta)}, {n} seed{'s' if n > 1 else ''}"
        if bounds is not None:
            said += f", {self.confidence:.0%} bounds {interval_text(bounds)}"
            if bounds.high < self.min_delta:
                return Ruling(False, f"{said}: below {points(self.min_delta)}")
            if bounds.low > self.min_delta and n >= self.min_seeds:
                return Ruling(True, f"{said}: above {points(self.min_delta)}")
        if n < self.max_seeds:
            return None
        promotes = mean(trials) >= self.min_delta - ROUNDING
        return Ruling(promotes, f"{said}: not settled with all seeds, so the mean decides")

    def bounds(self, trials: Sequence[Trial]) -> Interval | None:
        """A lower and an upper bound of the delta; None where a seed's outcomes per example are not known."""
        found = estimate_if_known(
            [trial.delta for trial in trials], [trial.standard_error for trial in trials]
        )
        return None if found is None else found.interval(2 * self.confidence - 1)

    def seeds(self, given: tuple[int, ...]) -> tuple[int, ...]:
        """The round's seeds, then the least that it does not name."""
        more = (seed for seed in range(self.max_seeds + len(given)) if seed not in given)
        return (*given, *more)[: self.max_seeds]
