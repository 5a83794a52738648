"""Runs of one arm that differ in nothing but their seed, with what each got right of every validation example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import JobKey
from orchestrator.stored_jobs import examined, standings

FEWEST = 2  # that have a spread


@dataclass(frozen=True)
class Runs:
    """Answers by the rule's metric, tokens or whole answers; a row is the same run at every stage."""

    right: Mapping[str, NDArray[np.int64]]  # by stage: of each run and example (runs, examples)
    of: NDArray[np.int64]  # answers of each example (examples,)

    @property
    def n(self) -> int:
        """Runs that reached every stage."""
        return min(len(right) for right in self.right.values())

    def scores(self, stage: str) -> NDArray[np.float64]:
        """Of each run, a fraction."""
        scores: NDArray[np.float64] = self.right[stage].sum(axis=1) / self.of.sum()
        return scores

    def spread(self, stage: str) -> float:
        """Standard deviation between runs on the same examples."""
        return float(self.scores(stage).std(ddof=1))

    def example_variance(self, stage: str) -> float:
        """Variance of the delta of two runs over the choice of examples, times their number; mean of all neighbours.

        Linearised, as in `statistics.examples.standard_error`, and as there never less than one answer.
        """
        differences = np.diff(self.right[stage], axis=0)
        ratio = differences.sum(axis=1, keepdims=True) / self.of.sum()
        residuals = (differences - ratio * self.of) / self.of.mean()
        least = len(self.of) / self.of.sum() ** 2
        return float(np.maximum(residuals.var(axis=1, ddof=1), least).mean())


def runs_of(session: Session, round_id: int, resolved: ResolvedRound) -> dict[str, Runs]:
    """By task, what a calibrating round measured.

    A run that failed at any stage is left out, and a task with fewer than FEWEST runs.
    """
    found = standings(session, round_id, resolved.spec.prune.metric)
    told = examined(session, resolved, found, found)
    result = {}
    for task in resolved.search.tasks:
        stages = resolved.search.stages
        whole = [
            {stage: told[key] for stage in stages if (key := JobKey(task, stage, *arm)) in told}
            for arm in sorted({(key.variant, key.seed) for key in told if key.task == task})
        ]
        whole = [run for run in whole if len(run) == len(stages)]
        if len(whole) >= FEWEST:
            right = {stage: np.array([run[stage].outcomes.right for run in whole]) for stage in stages}
            result[task] = Runs(right, np.array(whole[0][stages[0]].outcomes.of))
    return result
