"""Where a run need not go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from worker.job.measures import Evaluation, Metric, accuracy_of, so_far
from worker.job.values import Strict


class Bound(Strict):
    """The least that a run must have by a step, beside what its baseline had; fractions."""

    step: int
    least: float
    baseline: float


class Stop(NamedTuple):
    """Where a run ends before its budget does, and why."""

    step: int
    reason: str


class EarlyStop(Strict):
    """Where a run need not go on: below these bounds it would not have reached `min_delta`, but for `error_rate`."""

    metric: Metric
    min_delta: float
    error_rate: float  # how often a run is stopped that would have reached it, at most
    pairs: int  # of whole runs, that the bounds were calibrated on
    bounds: tuple[Bound, ...]

    def stop(self, evaluations: Sequence[Evaluation]) -> Stop | None:
        """The first of a run's evaluations, all from its start on, that is below its bound."""
        accuracies = [getattr(evaluation, accuracy_of(self.metric)) for evaluation in evaluations]
        scores = so_far(self.metric, accuracies)
        bounds = {bound.step: bound for bound in self.bounds}
        for evaluation, score in zip(evaluations, scores, strict=True):
            bound = bounds.get(evaluation.step)
            if bound is not None and score < bound.least:
                return Stop(evaluation.step, self._reason(bound, score))
        return None

    def _reason(self, bound: Bound, score: float) -> str:
        delta, least = score - bound.baseline, bound.least - bound.baseline
        return (
            f"at step {bound.step}, {100 * delta:+.2f} pp from the baseline there; who has less than "
            f"{100 * least:+.2f} pp does not end at {100 * self.min_delta:+.2f} pp "
            f"(error rate {self.error_rate:g}, from {self.pairs} pairs of whole runs)"
        )
