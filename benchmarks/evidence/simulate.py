"""Searches whose truth is known: what each way of pruning promotes, confirms, misses and spends.

    python benchmarks/evidence/simulate.py [--searches 300] [-o benchmarks/results/evidence.json]

Every search has the baseline and ten variants: two that change nothing, four without an effect, and one or two each
with +0.5, +1 and +3 percentage points. A run is a real learning curve (`curves.py`), drawn anew for every arm and
seed, with examples resampled and, for a variant with an effect, so many of the wrong tokens made right that accuracy
rises by it. All protocols see the same runs. Those of fsq are planned by its own planner; Optuna's pruners see the
same curves. A search confirms what its protocol ends with: `confirmed` where there is such a stage, else promoted at
the last one. Steps are training steps, continued where the protocol continues.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna

from orchestrator.planner import Confirmation, JobKey, Measurement, SearchSpec, Verdict, plan
from orchestrator.rules import Evidence, Halving, Rule, Threshold
from orchestrator.statistics.examples import Outcomes
from worker.job import BASELINE, Outcome

HERE = Path(__file__).parent
TASK = "task"
QUICK, MED, CONFIRM = "quick", "med", "confirm"
STEPS = {QUICK: 80, MED: 160, CONFIRM: 160}
NO_OPS = ("no_op_1", "no_op_2")
EFFECTS = {
    **dict.fromkeys(NO_OPS, 0.0),
    **{f"nothing_{i}": 0.0 for i in range(1, 5)},
    "half": 0.005,
    "one_1": 0.01,
    "one_2": 0.01,
    "three": 0.03,
}
MIN_DELTA = 0.001
FRESH = tuple(range(1000, 1003))


class Simulated(NamedTuple):
    """One run as a stage sees it."""

    accuracy: float  # the best, as the stage reports it
    right: tuple[int, ...]  # tokens of each example at that evaluation


@dataclass(frozen=True)
class Curves:
    """Real runs: correct tokens (runs, evaluations, examples), the steps of the evaluations, tokens an example."""

    correct: np.ndarray
    steps: np.ndarray
    tokens: int

    @classmethod
    def load(cls) -> Curves:
        with np.load(HERE / "curves.npz") as file:
            return cls(file["correct"], file["steps"], int(file["tokens"]))


class World:
    """One search's truth: which run every arm and seed gets, and which examples are asked."""

    def __init__(self, curves: Curves, number: int) -> None:
        self.curves, self.number = curves, number
        rng = np.random.default_rng(number)
        half = curves.correct.shape[2] // 2
        self.examples = (
            rng.integers(0, half, half),
            half + rng.integers(0, half, half),
        )  # selection, confirmation
        self.order = tuple(rng.permutation(list(EFFECTS)))
        self._curves: dict[tuple[str, int, bool], np.ndarray] = {}

    def curve(self, variant: str, seed: int, *, confirms: bool = False) -> np.ndarray:
        """Correct tokens (evaluations, examples)."""
        key = variant, seed, confirms
        if key not in self._curves:
            self._curves[key] = self._draw(*key)
        return self._curves[key]

    def _draw(self, variant: str, seed: int, confirms: bool) -> np.ndarray:
        arms = (BASELINE, *EFFECTS)
        arm = 0 if variant in NO_OPS else arms.index(variant)
        rng = np.random.default_rng([self.number, arm, seed])
        every = self.curves.correct[rng.integers(len(self.curves.correct))]
        found = every[:, self.examples[confirms]].astype(int)
        if effect := EFFECTS.get(variant, 0.0):
            wrong = self.curves.tokens - found
            rate = effect / (1 - self.curves.correct.mean((0, 2)) / self.curves.tokens)
            luck = rng.random((found.shape[1], self.curves.tokens))  # the same tokens at every evaluation
            for i, row in enumerate(wrong):
                gained = (luck < rate[i]) & (np.arange(self.curves.tokens) < row[:, None])
                found[i] += gained.sum(1)
        return found

    def run(self, key: JobKey) -> Simulated:
        curve = self.curve(key.variant, key.seed, confirms=key.stage == CONFIRM)
        curve = curve[self.curves.steps <= STEPS[key.stage]]
        totals = curve.sum(1)
        best = int(totals.argmax())
        return Simulated(totals[best] / (curve.shape[1] * self.curves.tokens), tuple(map(int, curve[best])))

    def accuracies(self, variant: str, seed: int) -> list[float]:
        """At each evaluation."""
        curve = self.curve(variant, seed)
        return list(curve.sum(1) / (curve.shape[1] * self.curves.tokens))


@dataclass
class Found:
    """What a search ended with."""

    promoted: set[str] = field(default_factory=set)  # past the first stage
    confirmed: set[str] = field(default_factory=set)
    steps: int = 0


# --- protocols


def as_the_predecessor(world: World) -> Found:
    """One seed; `med` from scratch, its result compared with the quick baseline; no-ops are trained."""
    baseline = world.run(JobKey(TASK, QUICK, BASELINE, 0)).accuracy
    found = Found(steps=STEPS[QUICK])
    for variant in world.order:
        found.steps += STEPS[QUICK]
        if world.run(JobKey(TASK, QUICK, variant, 0)).accuracy - baseline >= MIN_DELTA:
            found.promoted.add(variant)
            found.steps += STEPS[MED]
            if world.run(JobKey(TASK, MED, variant, 0)).accuracy - baseline >= MIN_DELTA:
                found.confirmed.add(variant)
    return found


def planned(
    rule: Rule, *, seeds: tuple[int, ...] = (0,), fresh: tuple[int, ...] = ()
) -> Callable[[World], Found]:
    """fsq's planner with a rule; with fresh seeds, a stage that confirms."""

    def search(world: World) -> Found:
        confirmation = Confirmation(CONFIRM, fresh) if fresh else None
        spec = SearchSpec(
            tasks=(TASK,),
            variants=world.order,
            stages=(QUICK, MED),
            seeds=rule.seeds(seeds),
            no_ops=frozenset(NO_OPS),
            rule=rule,
            confirmation=confirmation,
        )
        results: dict[JobKey, Measurement] = {}
        while missing := [key for key in plan(spec, results).jobs if key not in results]:
            for key in missing:
                results[key] = measured(world, key)
        found = Found(steps=steps_of(results))
        last = CONFIRM if fresh else MED
        for decision in plan(spec, results).decisions:
            if decision.key.stage == QUICK and decision.verdict is Verdict.PROMOTED:
                found.promoted.add(decision.key.variant)
            elif decision.key.stage == last and decision.verdict in (Verdict.PROMOTED, Verdict.CONFIRMED):
                found.confirmed.add(decision.key.variant)
        return found

    return search


def measured(world: World, key: JobKey) -> Measurement:
    run = world.run(key)
    outcomes = Outcomes(run.right, (world.curves.tokens,) * len(run.right))
    return Measurement(Outcome.OK, run.accuracy, None, None, outcomes)


def steps_of(results: dict[JobKey, Measurement]) -> int:
    """A stage continues from the one before; a confirmation starts afresh."""
    longest: Counter[tuple[str, int, bool]] = Counter()
    for key in results:
        trajectory = key.variant, key.seed, key.stage == CONFIRM
        longest[trajectory] = max(longest[trajectory], STEPS[key.stage])
    return longest.total()


def optuna_median(world: World) -> Found:
    """Its defaults; what ends above the baseline is what it found."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
    found, ended = Found(), {}
    for variant in (BASELINE, *world.order):
        trial = study.ask()
        accuracies = world.accuracies(variant, 0)
        for step, accuracy in zip(world.curves.steps, accuracies, strict=True):
            trial.report(accuracy, int(step))
            if trial.should_prune():
                found.steps += int(step)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            found.steps += int(world.curves.steps[-1])
            ended[variant] = max(accuracies)
            study.tell(trial, ended[variant])
    return _above_the_baseline(found, ended)


def optuna_wilcoxon(world: World) -> Found:
    """A trial is a variant, its instances are five seeds; what ends above the baseline is what it found."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.1))
    found, ended = Found(), {}
    for variant in (BASELINE, *world.order):
        trial = study.ask()
        values: list[float] = []
        for seed in range(5):
            values.append(max(world.accuracies(variant, seed)))
            found.steps += int(world.curves.steps[-1])
            trial.report(values[-1], seed)
            if trial.should_prune():
                break
        ended[variant] = float(np.mean(values))
        if len(values) < 5:
            ended.pop(variant)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, ended[variant])
    return _above_the_baseline(found, ended)


def _above_the_baseline(found: Found, ended: dict[str, float]) -> Found:
    found.promoted = {variant for variant in ended if variant != BASELINE}
    if BASELINE in ended:
        found.confirmed = {name for name in found.promoted if ended[name] - ended[BASELINE] >= MIN_DELTA}
    return found


PROTOCOLS: dict[str, Callable[[World], Found]] = {
    "threshold, as the predecessor ran it": as_the_predecessor,
    "threshold, matched baselines": planned(Threshold()),
    "threshold, then confirmed": planned(Threshold(), fresh=FRESH),
    "evidence, then confirmed": planned(Evidence(max_seeds=2), fresh=FRESH),
    "successive halving": planned(Halving(eta=3)),
    "successive halving, then confirmed": planned(Halving(eta=3), fresh=FRESH),
    "Optuna's median pruner": optuna_median,
    "Optuna's Wilcoxon pruner": optuna_wilcoxon,
}


# --- what comes out


def judged(found: list[Found]) -> dict[str, Any]:
    searches = len(found)

    def share(which: str, effect: float) -> float:
        names = [name for name, size in EFFECTS.items() if size == effect]
        hits = sum(len(getattr(one, which) & set(names)) for one in found)
        return round(hits / (searches * len(names)), 4)

    false = [len([name for name in one.confirmed if EFFECTS[name] < MIN_DELTA]) for one in found]
    confirmed = sum(len(one.confirmed) for one in found)
    return {
        "steps of a search": round(float(np.mean([one.steps for one in found]))),
        "promoted, without an effect": share("promoted", 0.0),
        "confirmed, without an effect": share("confirmed", 0.0),
        "searches with a false confirmation": round(float(np.mean([count > 0 for count in false])), 4),
        "false among the confirmed": round(sum(false) / confirmed, 4) if confirmed else None,
        "confirmed of +0.5, +1, +3 pp": [share("confirmed", effect) for effect in (0.005, 0.01, 0.03)],
    }


def worlds(count: int) -> Iterator[World]:
    curves = Curves.load()
    return (World(curves, number) for number in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "results" / "evidence.json")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, list[Found]] = {name: [] for name in PROTOCOLS}
    for world in worlds(arguments.searches):
        for name, protocol in PROTOCOLS.items():
            found[name].append(protocol(world))
    result = {
        "searches": arguments.searches,
        "effects": EFFECTS,
        "protocols": {name: judged(searches) for name, searches in found.items()},
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    arguments.output.write_text(text)


if __name__ == "__main__":
    main()
