"""Runs of one arm that differ in nothing but their seed, with what each got right of every validation example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.tables import Job
from orchestrator.results import examined, standings
from orchestrator.spec import ResolvedRound


@dataclass(frozen=True)
class Runs:
    """Answers by the rule's metric: tokens, or whole answers."""

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

        Linearised, as in `statistics.examples.standard_error`.
        """
        differences = np.diff(self.right[stage], axis=0)
        ratio = differences.sum(axis=1, keepdims=True) / self.of.sum()
        residuals = (differences - ratio * self.of) / self.of.mean()
        return float(residuals.var(axis=1, ddof=1).mean())


def runs_of(session: Session, round_id: int, resolved: ResolvedRound) -> dict[str, Runs]:
    """By task, what a calibrating round measured; a run that failed is left out, with it a task without two runs."""
    found = standings(session, round_id, resolved.spec.prune.metric)
    told = examined(session, resolved, found, Job.round_id == round_id)
    result = {}
    for task in resolved.search.tasks:
        right = {
            stage: np.array(
                [
                    examined_.outcomes.right
                    for key, examined_ in sorted(told.items())
                    if (key.task, key.stage) == (task, stage)
                ]
            )
            for stage in resolved.search.stages
        }
        of = next((each.outcomes.of for key, each in told.items() if key.task == task), ())
        if all(len(rows) >= 2 for rows in right.values()):
            result[task] = Runs(right, np.array(of))
    return result
