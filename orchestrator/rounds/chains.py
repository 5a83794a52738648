"""When a round that waits for another starts, or never will; what it takes over; what a user may do to it: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from db.tables import RoundState
from orchestrator.verdicts import Verdict

When = Literal["finished", "promoted", "any"]
Where = Literal["promoted", "confirmed", "any"]


@dataclass(frozen=True)
class Parent:
    """What a waiting round asks of the one before it."""

    name: str
    state: RoundState
    promoted: int  # arms that passed the last stage
    measured: bool  # whether any arm could be decided

    @property
    def obstacle(self) -> str | None:
        """Why nothing can build on this round; None if something can."""
        if self.state is RoundState.CANCELLED:
            return f"round {self.name} was cancelled"
        if self.state is RoundState.BLOCKED:
            return f"round {self.name} is blocked"
        return None if self.measured else f"round {self.name} failed: no arm of it could be measured"


@dataclass(frozen=True)
class Start:
    """What becomes of a waiting round."""

    state: RoundState  # waiting, active or blocked
    reason: str | None = None


def start(parent: Parent, when: When) -> Start:
    """Whether a round may start, given the one that it comes after.

    `finished`: once the parent has finished with something measured; `promoted`: once it has finished and promoted
    an arm at its last stage; `any`: once it has ended, however it did.
    """
    if not parent.state.has_ended:
        return Start(RoundState.WAITING, f"waits for round {parent.name}")
    if when == "any":
        return Start(RoundState.ACTIVE)
    if obstacle := parent.obstacle:
        return Start(RoundState.BLOCKED, obstacle)
    if when == "promoted" and not parent.promoted:
        return Start(RoundState.BLOCKED, f"round {parent.name} promoted nothing at its last stage")
    return Start(RoundState.ACTIVE)


def can_cancel(state: RoundState) -> bool:
    """Whether there is something to end; a blocked round no longer waits for its parent's retry then."""
    return not state.has_ended or state is RoundState.BLOCKED


def can_retry(state: RoundState, reason: str | None, unmeasured: int) -> bool:
    """Whether something can go on: jobs that could not be measured, or a round that is stopped or held up."""
    is_held_up = state is RoundState.ACTIVE and reason is not None
    return unmeasured > 0 or is_held_up or state in {RoundState.CANCELLED, RoundState.BLOCKED}


@dataclass(frozen=True)
class Decided:
    """What one decision of an ended round says of a variant that a selection may take."""

    variant: str
    verdict: Verdict
    deltas: tuple[
        float, ...
    ] = ()  # fractions, of each seed; none where not measured, or not at the stage that ranks
    is_unnumbered: bool = False  # its run diverged or was stopped


def choose(
    decided: Sequence[Decided], where: Where, top: int | None, same_as: Mapping[str, str]
) -> list[str]:
    """The variants that a later round takes over, best first; `top` of them, or all.

    same_as: variants that compute what an earlier one does; only one of them is taken.

    A variant qualifies where one (task, seed) has the verdict asked for (`any`: was measured). It ranks by its mean
    delta over every (task, seed) measured at that stage, not only over those that went well, and behind all others
    where a run of it ended without a number, as what is left would flatter it; ties keep their order.
    """
    wanted = {Verdict.CONFIRMED} if where == "confirmed" else {Verdict.PROMOTED, Verdict.CONFIRMED}
    deltas: dict[str, list[float]] = {}
    for one in decided:
        if one.deltas:
            deltas.setdefault(one.variant, []).extend(one.deltas)
    flattered = {one.variant for one in decided if one.is_unnumbered}
    qualified = {one.variant for one in decided if where == "any" or one.verdict in wanted}
    ranked = sorted(deltas, key=lambda variant: (variant in flattered, -fmean(deltas[variant])))
    chosen: dict[str, str] = {}
    for variant in ranked:
        if variant in qualified:
            chosen.setdefault(same_as.get(variant, variant), variant)
    return list(chosen.values())[:top]
