"""How far behind a run may be and still come to something: a conformal bound from whole runs of the past.

A *lag* is how a past pair of runs (a variant, and the baseline of its seed) moved from an evaluation to its end: its
last delta less its delta there. A stop at an evaluation is wrong where the lag still to come lifts the delta to the
threshold. The bound holds for all evaluations of a run together: bounded is the largest of a run's lags, each divided
by `remaining` at its step. Split conformal prediction (Vovk, Gammerman and Shafer 2005): if the new pair is
exchangeable with the past ones, its largest lag exceeds the bound with a probability of at most `error_rate`,
whatever the shape of the curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, sqrt

Curve = Mapping[int, float]  # by step: what a run would score (a fraction) if it ended there


def remaining(step: int, steps: int) -> float:
    """The scale of lags at a step, 1 to 0: they shrink as those of a random walk with that much left to go."""
    return sqrt(1 - step / steps)


def largest_lag(variant: Curve, baseline: Curve) -> float:
    """The largest lag of a pair over the evaluations before its end, each by its scale; at least two evaluations."""
    *before, last = sorted(variant)
    delta = {step: variant[step] - baseline[step] for step in variant}
    return max((delta[last] - delta[step]) / remaining(step, last) for step in before)


def allowance(lags: Sequence[float], error_rate: float) -> float | None:
    """What one more pair's largest lag exceeds with a probability of at most `error_rate`; None: too few to say.

    Never below 0: what reaches the threshold where it stands is not stopped.
    """
    misses = floor((len(lags) + 1) * error_rate)
    return max(0.0, sorted(lags, reverse=True)[misses - 1]) if misses else None


def least(baseline: Curve, min_delta: float, allowed: float) -> dict[int, float]:
    """The token accuracy (a fraction) below which a run is stopped, by the step of each evaluation but the last.

    The baseline's curve ends at the step where the run would.
    """
    *before, last = sorted(baseline)
    return {step: baseline[step] + min_delta - allowed * remaining(step, last) for step in before}
