"""Gains at one stage of which nothing is left at the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.audit.comparisons import Step, grouped, populations
from orchestrator.audit.finding import Check, Finding, share
from orchestrator.history.entries import History
from orchestrator.points import ROUNDING, points

GATES = (0.001, 0.008, 0.010, 0.020, 0.040)  # gains from which a variant might have been promoted


def judge(history: History) -> Iterator[Finding]:
    """How many gains were reversed: by the gain, and by family."""
    for name, steps in populations(history):
        for gate in GATES:
            yield from _of_gate(name, steps, gate)
        yield from _of_families(name, steps)


def gained(steps: Sequence[Step], gate: float) -> list[Step]:
    """The steps whose earlier delta was at least this."""
    return [step for step in steps if step.earlier >= gate - ROUNDING]


def is_reversal(step: Step) -> bool:
    """Whether nothing is left of a gain: a later delta of zero or less."""
    return step.later <= 0


def _of_gate(name: str, steps: Sequence[Step], gate: float) -> Iterator[Finding]:
    promoted = gained(steps, gate)
    reversed_ = [step for step in promoted if is_reversal(step)]
    if promoted:
        negative = sum(step.later < 0 for step in reversed_)
        yield Finding(
            Check.REVERSALS,
            f"{name}: of the gains from {points(gate)} that were followed up, {share(len(reversed_), len(promoted))} "
            f"came to nothing at the next stage; {share(negative, len(promoted))} turned negative",
            [record for step in (reversed_ or promoted) for record in step.records],
            {"gate": gate, "followed_up": len(promoted), "reversed": len(reversed_), "negative": negative},
        )


def _of_families(name: str, steps: Sequence[Step]) -> Iterator[Finding]:
    families = grouped(gained(steps, GATES[0]), lambda step: step.family)
    for family, group in sorted(families.items()):
        reversed_ = [step for step in group if is_reversal(step)]
        if reversed_:
            yield Finding(
                Check.REVERSALS,
                f"{name}, {family}: {share(len(reversed_), len(group))} reversed",
                [record for step in reversed_ for record in step.records],
                {"family": family, "followed_up": len(group), "reversed": len(reversed_)},
            )
