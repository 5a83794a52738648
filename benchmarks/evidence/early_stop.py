"""What stopping runs early saves, and which decisions it changes, on real curves.

    python benchmarks/evidence/early_stop.py [--repeats 200] [-o benchmarks/results/early_stop.json]

The runs are those of `curves.py`; a variant is a run in which so many tokens are made right, or wrong, at every
evaluation that its accuracy moves by its effect. Each repeat splits the runs anew: pairs of three quarters of them
calibrate, pairs of the others are judged, so that no run is on both sides. Effects on both sides are of one mix;
examples are resampled for each pair.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orchestrator.points import ROUNDING
from orchestrator.statistics.early_stop import allowance, largest_lag, least
from worker.job import so_far

HERE = Path(__file__).parent
BUDGETS = (80, 160)  # steps of the stages of the simulated searches
ERROR_RATES = (0.01, 0.05, 0.1)
MIXES: dict[str, tuple[float, ...]] = {
    "no variant has an effect": (0.0,),
    "as the simulated searches": (0.0, 0.0, 0.0, 0.0, 0.005, 0.01, 0.01, 0.03),
    "half of the variants harm": (-0.1, -0.05, -0.03, -0.01, 0.0, 0.0, 0.01, 0.03),
}
MIN_DELTA = 0.001
PAIRS = 120  # to calibrate on


class Curves(NamedTuple):
    """Real runs."""

    correct: np.ndarray  # tokens (runs, evaluations, examples)
    steps: np.ndarray  # of the evaluations
    tokens: int  # of an example

    @classmethod
    def load(cls) -> Curves:
        with np.load(HERE / "curves.npz") as file:
            return cls(file["correct"], file["steps"], int(file["tokens"]))


class Pair(NamedTuple):
    """What a variant and its baseline would score by each step."""

    effect: float
    variant: dict[int, float]
    baseline: dict[int, float]

    @property
    def reaches(self) -> bool:
        last = max(self.variant)
        return self.variant[last] - self.baseline[last] >= MIN_DELTA - ROUNDING


class Judged(NamedTuple):
    """One pair, by the step at which the variant was stopped."""

    effect: float
    reaches: bool
    stopped_at: int | None


def pairs(
    curves: Curves, runs: Sequence[int], budget: int, mix: Sequence[float], rng: np.random.Generator
) -> Iterator[Pair]:
    """Every ordered pair of these runs, in random order, on examples drawn anew."""
    steps = [int(step) for step in curves.steps if step <= budget]
    for one, other in rng.permutation(list(permutations(runs, 2))):
        examples = rng.integers(0, curves.correct.shape[2], curves.correct.shape[2])
        variant, baseline = (curves.correct[run][: len(steps), examples].astype(int) for run in (one, other))
        effect = float(rng.choice(mix))
        variant = moved(curves, variant, effect, rng)
        scored = (
            dict(zip(steps, so_far("best_val_tok_acc", list(curve.mean(1) / curves.tokens)), strict=True))
            for curve in (variant, baseline)
        )
        yield Pair(effect, *scored)


def moved(curves: Curves, right: np.ndarray, effect: float, rng: np.random.Generator) -> np.ndarray:
    """Correct tokens (evaluations, examples) with so many more or fewer that accuracy moves by the effect."""
    movable = curves.tokens - right if effect > 0 else right
    share = movable.mean(1, keepdims=True) / curves.tokens
    luck = rng.random((right.shape[1], curves.tokens))  # the same tokens at every evaluation
    rate = np.minimum(1, abs(effect) / share)
    changed = (luck < rate[..., None]) & (np.arange(curves.tokens) < movable[..., None])
    return right + int(np.sign(effect)) * changed.sum(2)


def judged(pair: Pair, allowed: float) -> Judged:
    bounds = least(pair.baseline, MIN_DELTA, allowed)
    below = (step for step, bound in bounds.items() if pair.variant[step] < bound - ROUNDING)
    return Judged(pair.effect, pair.reaches, next(below, None))


def repeated(curves: Curves, budget: int, mix: Sequence[float], repeats: int) -> dict[float, list[Judged]]:
    """What is judged at each error rate, over all repeats."""
    found: dict[float, list[Judged]] = {rate: [] for rate in ERROR_RATES}
    for repeat in range(repeats):
        rng = np.random.default_rng([repeat, budget])
        runs = rng.permutation(len(curves.correct))
        kept, held_out = runs[: 3 * len(runs) // 4], runs[3 * len(runs) // 4 :]
        past = [pair for pair, _ in zip(pairs(curves, kept, budget, mix, rng), range(PAIRS), strict=False)]
        lags = [largest_lag(pair.variant, pair.baseline) for pair in past]
        new = list(pairs(curves, held_out, budget, mix, rng))
        for rate in ERROR_RATES:
            allowed = allowance(lags, rate)
            assert allowed is not None
            found[rate] += [judged(pair, allowed) for pair in new]
    return found


def share(of: Sequence[bool]) -> float | None:
    return round(sum(of) / len(of), 4) if of else None


def told(found: Sequence[Judged], budget: int) -> dict[str, Any]:
    effects = sorted({one.effect for one in found})
    return {
        "runs": len(found),
        "stopped": share([one.stopped_at is not None for one in found]),
        "training steps saved": round(
            float(np.mean([0 if one.stopped_at is None else 1 - one.stopped_at / budget for one in found])), 4
        ),
        "decisions changed": share([one.stopped_at is not None and one.reaches for one in found]),
        "of the runs that reach the threshold, stopped": share(
            [one.stopped_at is not None for one in found if one.reaches]
        ),
        "stopped, by effect": {
            f"{effect:+g}": share([one.stopped_at is not None for one in found if one.effect == effect])
            for effect in effects
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "results" / "early_stop.json")
    arguments = parser.parse_args()
    curves = Curves.load()
    result = {
        "repeats": arguments.repeats,
        "runs with curves": len(curves.correct),
        "pairs to calibrate on": PAIRS,
        "min_delta": MIN_DELTA,
        "found": {
            name: {
                f"{budget} steps": {
                    f"error rate {rate:g}": told(found, budget)
                    for rate, found in repeated(curves, budget, mix, arguments.repeats).items()
                }
                for budget in BUDGETS
            }
            for name, mix in MIXES.items()
        },
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    arguments.output.write_text(text)


if __name__ == "__main__":
    main()
