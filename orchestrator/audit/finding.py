"""What an audit finds: a sentence with its figures, and the records it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

Figure = float | int | str | None


class Check(StrEnum):
    """What is looked for."""

    DUPLICATES = "duplicates"  # one result under several names
    NO_OPS = "no_ops"  # variants that computed the same as the baseline, or as each other; exact ties
    UNMATCHED_BASELINE = "unmatched_baseline"  # no baseline of the same stage, seed and length
    COARSE_GRID = "coarse_grid"  # accuracies in large steps
    AT_CHANCE = "at_chance"  # no better than a guess, or a constant answer
    REVERSALS = "reversals"  # a gain that the next stage does not bear out
    REGRESSION = "regression_to_the_mean"  # how much of a gain is left at the next stage
    SEEDS_DISAGREE = "seeds_disagree"  # up with one seed, down with another
    CONTRADICTED_RULE = "contradicted_rule"  # decisions that the stated rule does not give
    LABELS = "labels"  # names that say something else than the data


EXPLANATIONS: Mapping[Check, str] = {
    Check.DUPLICATES: "Bit-identical loss and accuracy under several names: one run, counted more than once.",
    Check.NO_OPS: "Variants that computed the same as the baseline or as each other, and exact ties in accuracy.",
    Check.UNMATCHED_BASELINE: "Deltas need a baseline of the same task, stage, seed, batch size and length.",
    Check.COARSE_GRID: "Accuracies that only take a few values: one question is worth more than the threshold.",
    Check.AT_CHANCE: "Baselines no better than a guess, and accuracies that do not react to anything.",
    Check.REVERSALS: "Gains that took a variant to the next stage, where nothing was left of them.",
    Check.REGRESSION: "How far a gain at one stage tells the gain at the next; chosen gains shrink.",
    Check.SEEDS_DISAGREE: "The same variant on the same task, up with one seed and down with another.",
    Check.CONTRADICTED_RULE: "Decisions and cooldowns that do not follow from the records by the rule they state.",
    Check.LABELS: "Names, families and marks that say something else than the records beside them.",
}


@dataclass(frozen=True)
class Finding:
    """One thing found; `records` are those it rests on, as file:line or job."""

    check: Check
    text: str
    records: Sequence[str]
    figures: Mapping[str, Figure] = field(default_factory=dict)


def percent(value: float, digits: int = 1) -> str:
    """0.304 is 30.4 %."""
    return f"{100 * value:.{digits}f} %"


def share(part: int, whole: int) -> str:
    """72 of 237 (30.4 %)."""
    return f"{part} of {whole} ({percent(part / whole)})" if whole else "0 of 0"


def listed(items: Sequence[str], most: int = 6) -> str:
    """The first items, and how many more there are."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")
