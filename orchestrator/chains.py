"""When a round that waits for another one starts, and when it never will: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from db.tables import RoundState

When = Literal["finished", "promoted", "any"]
ENDED = frozenset({RoundState.FINISHED, RoundState.CANCELLED, RoundState.BLOCKED})


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
    if parent.state not in ENDED:
        return Start(RoundState.WAITING, f"waits for round {parent.name}")
    if when == "any":
        return Start(RoundState.ACTIVE)
    if obstacle := parent.obstacle:
        return Start(RoundState.BLOCKED, obstacle)
    if when == "promoted" and not parent.promoted:
        return Start(RoundState.BLOCKED, f"round {parent.name} promoted nothing")
    return Start(RoundState.ACTIVE)
