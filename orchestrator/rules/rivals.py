"""The other variants of a stage, as a rule is handed them: their means are worked out once for all of a stage."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Self

from orchestrator.points import ROUNDING
from orchestrator.rules.rule import Trial, mean


class Rivals(tuple[Sequence[Trial], ...]):
    """The trials of each rival of a variant."""

    # sorted; that of the judged variant may be among them, and is not better than itself
    _means: Sequence[float]

    @classmethod
    def of(cls, rivals: Sequence[Sequence[Trial]]) -> Self:
        """These rivals, their means worked out if they are not yet."""
        return rivals if isinstance(rivals, cls) else cls._with(rivals, sorted(map(mean, rivals)))

    def without(self, place: int) -> Self:
        """The rivals of the one at this place."""
        return self._with(self[:place] + self[place + 1 :], self._means)

    def but_the_worst(self) -> Self:
        """The rivals of a control arm, which takes the place of the worst: as many go on as if it were not there."""
        if not self:
            return self
        worst = min(range(len(self)), key=lambda place: mean(self[place]))
        return self._with(self[:worst] + self[worst + 1 :], self._means[1:])

    def better_than(self, own: float) -> int:
        """How many have a mean delta above this one, that of the judged variant; ties are not above."""
        return len(self._means) - bisect_right(self._means, own + ROUNDING)

    @classmethod
    def _with(cls, rivals: Sequence[Sequence[Trial]], means: Sequence[float]) -> Self:
        made = cls(rivals)
        made._means = means
        return made
