"""What every rule is: its settings, what it judges together, and one method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from statistics import fmean
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from worker.job import Metric as Metric
from worker.job import Strict


class Scope(StrEnum):
    """What a rule judges together."""

    SEED = "seed"  # each seed of a variant by itself, at once
    VARIANT = "variant"  # the seeds of a variant together, asked again after each of them
    STAGE = "stage"  # all variants of a stage, once every seed of every one has been measured


class Trial(NamedTuple):
    """A variant at a stage under one seed, against the baseline of the same stage and seed."""

    seed: int
    delta: float  # of the rule's metric, variant minus baseline, a fraction
    standard_error: float | None = None  # of delta over the validation examples; None: not known


class Ruling(NamedTuple):
    promotes: bool
    reason: str


class RuleFailed(Exception):
    """A rule raised where it should have judged; its own error is the cause."""


class Rule(Strict):
    """Judges what was measured. `judge` must depend on its arguments and the rule's settings alone."""

    scope: ClassVar[Scope] = Scope.SEED
    needs_examples: ClassVar[bool] = False  # whether trials must have their standard errors
    prunes_below_min_delta: ClassVar[bool] = False  # each run by itself: it may then be stopped early

    rule: str
    min_delta: Annotated[float, Field(ge=-1, le=1)] = 0.001
    metric: Metric = "best_val_tok_acc"

    @abstractmethod
    def judge(self, trials: Sequence[Trial], rivals: Sequence[Sequence[Trial]]) -> Ruling | None:
        """The ruling on a variant from its trials, at least one, in the order in which they were made.

        rivals: the trials of the other variants that were measured at the stage, without the control; only for rules
        of Scope.STAGE, which may count those that are better with `Rivals.of(rivals).better_than`.
        None asks for another seed, which only rules of Scope.VARIANT may; without a seed left it prunes.
        """

    def seeds(self, given: tuple[int, ...]) -> tuple[int, ...]:
        """The seeds that may be used, in their order, for a round that names these."""
        return given


def mean(trials: Sequence[Trial]) -> float:
    """The mean delta."""
    return fmean(trial.delta for trial in trials)
