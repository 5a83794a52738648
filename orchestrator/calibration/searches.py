"""Searches whose truth is known, planned by the planner over runs drawn from real ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from orchestrator.calibration.runs import Runs
from orchestrator.planner import JobKey, Measurement, SearchSpec, Verdict, plan
from orchestrator.statistics.examples import Outcomes
from worker.job import BASELINE, Outcome


class World:
    """One search's truth: which run every arm and seed gets, and which examples are asked.

    Examples are drawn anew, those of a confirmation apart. Arms of one seed get different runs as long as there are
    so many. A variant with an effect has so many wrong answers made right, the same at every stage,
    that its score rises by the effect (a fraction) on average.
    """

    def __init__(self, runs: Runs, effects: Mapping[str, float], number: int) -> None:
        self.runs, self.effects, self.number = runs, effects, number
        self.arms = (BASELINE, *effects)
        n = len(runs.of)
        draw = np.random.default_rng(number)
        self._asked = draw.integers(0, n, n), draw.integers(0, n, n)
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
    accepted: set[str] = field(
        default_factory=set
    )  # confirmed, or promoted at the last stage where none confirms
    steps: int = 0  # of training, continued from stage to stage


def search(world: World, spec: SearchSpec, steps: Mapping[str, int]) -> Found:
    """One search of one task by the planner; `steps` are those at the end of each stage, as far as they count."""
    task, last = spec.tasks[0], spec.all_stages[-1]
    results: dict[JobKey, Measurement] = {}
    while missing := [key for key in plan(spec, results).jobs if key not in results]:
        for key in missing:
            confirms = key.stage not in spec.stages
            stage = spec.stages[-1] if confirms else key.stage
            results[key] = world.measure(key, stage, confirms=confirms)
    found = Found(steps=_steps(results, spec, steps))
    for decision in plan(spec, results).decisions:
        variant, stage, verdict = decision.key.variant, decision.key.stage, decision.verdict
        assert decision.key.task == task  # noqa: S101  (there is one)
        if stage == spec.stages[0] and verdict is Verdict.PROMOTED:
            found.promoted.add(variant)
        if stage == last and verdict in (Verdict.PROMOTED, Verdict.CONFIRMED):
            found.accepted.add(variant)
    return found


def _steps(results: Mapping[JobKey, Measurement], spec: SearchSpec, steps: Mapping[str, int]) -> int:
    """A stage that selects continues from the one before, one that confirms starts afresh."""
    longest: Counter[tuple[str, int, bool]] = Counter()
    for key in results:
        trajectory = key.variant, key.seed, key.stage in spec.stages
        longest[trajectory] = max(longest[trajectory], steps.get(key.stage, 0))
    return longest.total()
