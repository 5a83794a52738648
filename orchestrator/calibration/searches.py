"""Searches whose truth is known, planned by the planner over runs drawn from real ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from orchestrator.calibration.runs import Runs
from orchestrator.planner import plan
from orchestrator.search import JobKey, Measurement, SearchSpec
from orchestrator.statistics.examples import Outcomes
from orchestrator.verdicts import Verdict
from worker.job import BASELINE, Outcome


class World:
    """One search's truth: which run every arm and seed gets, and which examples are asked.

    Examples are drawn anew, those of a confirmation apart. Arms of one seed get different runs as long as there are
    so many. A variant with an effect has so many wrong answers made right, the same at every stage,
    that its score rises by the effect (a fraction) on average.
    """

    def __init__(
        self, runs: Runs, effects: Mapping[str, float], number: int, confirms_on: int | None = None
    ) -> None:
        """`confirms_on`: examples of a confirmation; None: as many as there are."""
        self.runs, self.effects, self.number = runs, effects, number
        self.arms = (BASELINE, *effects)
        n = len(runs.of)
        draw = np.random.default_rng(number)
        self._asked = draw.integers(0, n, n), draw.integers(0, n, confirms_on or n)
        self._chosen: dict[tuple[int, bool], NDArray[np.int64]] = {}

    def right(self, stage: str, variant: str, seed: int, *, confirms: bool = False) -> NDArray[np.int64]:
        """Right answers of each example that is asked."""
        arm = self.arms.index(variant)
        asked = self._asked[confirms]
        found: NDArray[np.int64] = self.runs.right[stage][self._run_of(arm, seed, confirms), asked]
        effect = self.effects.get(variant, 0.0)
        return (
            found + self._gained(found, self.of(confirms=confirms), stage, effect, [arm, seed])
            if effect
            else found
        )

    def of(self, *, confirms: bool = False) -> NDArray[np.int64]:
        """Answers of each example that is asked."""
        return self.runs.of[self._asked[confirms]]

    def measure(self, key: JobKey, stage: str, *, confirms: bool = False) -> Measurement:
        """A job's result, from the runs of a stage."""
        right = self.right(stage, key.variant, key.seed, confirms=confirms)
        of = self.of(confirms=confirms)
        outcomes = Outcomes(tuple(right.tolist()), tuple(of.tolist()))
        return Measurement(Outcome.OK, score=float(right.sum() / of.sum()), outcomes=outcomes)

    def _run_of(self, arm: int, seed: int, confirms: bool) -> int:
        key = seed, confirms
        if key not in self._chosen:
            draw = np.random.default_rng([self.number, seed, confirms])
            repeats = -(-len(self.arms) // self.runs.n)
            self._chosen[key] = np.concatenate([draw.permutation(self.runs.n) for _ in range(repeats)])
        return int(self._chosen[key][arm])

    def _gained(
        self, found: NDArray[np.int64], of: NDArray[np.int64], stage: str, effect: float, run: list[int]
    ) -> NDArray[np.int64]:
        rate = effect / max(1 - float(self.runs.scores(stage).mean()), effect)
        luck = np.random.default_rng([self.number, *run]).random((len(of), int(of.max())))
        is_wrong = np.arange(luck.shape[1]) < (of - found)[:, None]
        gained: NDArray[np.int64] = ((luck < rate) & is_wrong).sum(axis=1)
        return gained


@dataclass
class Found:
    """What a search ended with."""

    promoted: set[str] = field(default_factory=set)  # past the first stage
    # confirmed, or promoted at the last stage where none confirms
    accepted: set[str] = field(default_factory=set)
    steps: int = 0  # of training, continued from stage to stage


class _Results(Mapping[JobKey, Measurement]):
    """Every job has run: what it measured is drawn when the planner asks, so that it plans a search in one go."""

    def __init__(self, world: World, spec: SearchSpec) -> None:
        self._world, self._spec = world, spec
        self._drawn: dict[JobKey, Measurement] = {}

    def __getitem__(self, key: JobKey) -> Measurement:
        if key not in self._drawn:
            confirms = key.stage not in self._spec.stages
            stage = self._spec.stages[-1] if confirms else key.stage
            self._drawn[key] = self._world.measure(key, stage, confirms=confirms)
        return self._drawn[key]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, JobKey)

    def __iter__(self) -> Iterator[JobKey]:
        return iter(self._drawn)

    def __len__(self) -> int:
        return len(self._drawn)


def search(world: World, spec: SearchSpec, steps: Mapping[str, int]) -> Found:
    """One search of one task by the planner; `steps` are those at the end of each stage, as far as they count."""
    last = spec.all_stages[-1]
    planned = plan(spec, _Results(world, spec))
    found = Found(steps=_steps(planned.jobs, spec, steps))
    for decision in planned.decisions:
        variant, stage, verdict = decision.key.variant, decision.key.stage, decision.verdict
        if stage == spec.stages[0] and verdict is Verdict.PROMOTED:
            found.promoted.add(variant)
        if stage == last and verdict in (Verdict.PROMOTED, Verdict.CONFIRMED):
            found.accepted.add(variant)
    return found


def _steps(jobs: Iterable[JobKey], spec: SearchSpec, steps: Mapping[str, int]) -> int:
    """A stage that selects continues from the one before, one that confirms starts afresh."""
    longest: Counter[tuple[str, int, bool]] = Counter()
    for key in jobs:
        trajectory = key.variant, key.seed, key.stage in spec.stages
        longest[trajectory] = max(longest[trajectory], steps.get(key.stage, 0))
    return longest.total()
