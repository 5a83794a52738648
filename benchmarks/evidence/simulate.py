"""Searches whose truth is known: what each way of pruning promotes, confirms, misses and spends.

    pip install optuna          # two of the peers are its pruners
    python benchmarks/evidence/simulate.py [--searches 300] [-o benchmarks/results/evidence.json]

Every search has the baseline and ten variants: two that change nothing, four without an effect, one with +0.5, two
with +1 and one with +3 percentage points; and again with no effect at all. A run is a real learning curve
(`curves.py`), drawn anew for every arm and seed, with examples resampled and, for a variant with an effect, so many
of the wrong tokens made right that accuracy rises by it. All protocols see the same runs; those of fsq are planned
by its own planner. A search accepts what its protocol ends with: what is `confirmed` where a stage confirms, else
what the last stage promotes. Steps are training steps, continued from stage to stage where the protocol does that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from orchestrator.calibration.runs import Runs
from orchestrator.calibration.searches import Found, World, search
from orchestrator.rules import Evidence, Halving, Rule, Threshold, TopK
from orchestrator.search import Confirmation, SearchSpec
from worker.job import BASELINE

HERE = Path(__file__).parent
QUICK, MED, CONFIRM = "quick", "med", "confirm"
STEPS = {QUICK: 80, MED: 160, CONFIRM: 160}
NO_OPS = ("no_op_1", "no_op_2")
MIXED = {
    **dict.fromkeys(NO_OPS, 0.0),
    **{f"nothing_{i}": 0.0 for i in range(1, 5)},
    "half": 0.005,
    "one_1": 0.01,
    "one_2": 0.01,
    "three": 0.03,
}
NOTHING = dict.fromkeys(MIXED, 0.0)
MIN_DELTA = 0.001
WILCOXON_SEEDS = 5


def real_runs() -> Runs:
    """The curves, by the steps of their evaluations, and as stages report them: at the best evaluation so far."""
    with np.load(HERE / "curves.npz") as file:
        correct, steps, tokens = file["correct"].astype(int), file["steps"], int(file["tokens"])
    right = {str(step): correct[:, i] for i, step in enumerate(steps)}
    for stage in (QUICK, MED):
        reached = correct[:, steps <= STEPS[stage]]
        best = reached.sum(axis=2).argmax(axis=1)
        right[stage] = reached[np.arange(len(correct)), best]
    return Runs(right, np.full(correct.shape[2], tokens))


def accuracy(world: World, stage: str, variant: str, seed: int = 0) -> float:
    arm = BASELINE if variant in NO_OPS else variant
    return float(world.right(stage, arm, seed).sum() / world.of().sum())


# --- protocols


def as_the_predecessor(world: World) -> Found:
    """One seed; `med` from scratch, its result compared with the quick baseline; no-ops are trained."""
    baseline = accuracy(world, QUICK, BASELINE)
    found = Found(steps=STEPS[QUICK])
    for variant in order(world):
        found.steps += STEPS[QUICK]
        if accuracy(world, QUICK, variant) - baseline >= MIN_DELTA:
            found.promoted.add(variant)
            found.steps += STEPS[MED]
            if accuracy(world, MED, variant) - baseline >= MIN_DELTA:
                found.accepted.add(variant)
    return found


def planned(rule: Rule, fresh: int = 0, stages: tuple[str, ...] = (QUICK, MED)) -> Callable[[World], Found]:
    """fsq's planner with a rule; with fresh seeds, a stage that confirms."""

    def run(world: World) -> Found:
        confirmation = Confirmation(CONFIRM, tuple(range(1000, 1000 + fresh))) if fresh else None
        spec = SearchSpec(
            tasks=("task",),
            variants=order(world),
            stages=stages,
            seeds=rule.seeds((0,)),
            no_ops=frozenset(NO_OPS),
            rule=rule,
            confirmation=confirmation,
        )
        return search(world, spec, STEPS)

    return run


def optuna_median(world: World) -> Found:
    """Its defaults; what ends above the baseline is what it found."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
    found, ended = Found(), {}
    evaluated = [int(stage) for stage in world.runs.right if stage.isdigit()]
    for variant in (BASELINE, *order(world)):
        trial = study.ask()
        for step in evaluated:
            trial.report(accuracy(world, str(step), variant), step)
            if trial.should_prune():
                found.steps += step
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            found.steps += STEPS[MED]
            ended[variant] = accuracy(world, MED, variant)
            study.tell(trial, ended[variant])
    return _above_the_baseline(found, ended)


def optuna_wilcoxon(world: World) -> Found:
    """A trial is a variant, its instances are five seeds; what ends above the baseline is what it found."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.1))
    found, ended = Found(), {}
    for variant in (BASELINE, *order(world)):
        trial = study.ask()
        values: list[float] = []
        for seed in range(WILCOXON_SEEDS):
            values.append(accuracy(world, MED, variant, seed))
            found.steps += STEPS[MED]
            trial.report(values[-1], seed)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            ended[variant] = float(np.mean(values))
            study.tell(trial, ended[variant])
    return _above_the_baseline(found, ended)


def _above_the_baseline(found: Found, ended: dict[str, float]) -> Found:
    found.promoted = {variant for variant in ended if variant != BASELINE}
    if BASELINE in ended:
        found.accepted = {name for name in found.promoted if ended[name] - ended[BASELINE] >= MIN_DELTA}
    return found


PROTOCOLS: dict[str, Callable[[World], Found]] = {
    "threshold, as the predecessor ran it": as_the_predecessor,
    "threshold, matched baselines": planned(Threshold()),
    "threshold, then confirmed": planned(Threshold(), fresh=3),
    "evidence, then confirmed": planned(Evidence(max_seeds=2), fresh=3),
    "successive halving": planned(Halving(eta=3)),
    "successive halving, then confirmed": planned(Halving(eta=3), fresh=3),
    "the best of quick, then confirmed": planned(TopK(keep=1), fresh=3, stages=(QUICK,)),
    "the same, from +1 pp on": planned(TopK(keep=1, min_delta=0.01), fresh=3, stages=(QUICK,)),
    "evidence at quick, then confirmed": planned(Evidence(max_seeds=2), fresh=3, stages=(QUICK,)),
    "Optuna's median pruner": optuna_median,
    "Optuna's Wilcoxon pruner": optuna_wilcoxon,
}


# --- what comes out


def judged(found: list[Found], effects: dict[str, float]) -> dict[str, Any]:
    def share(accepted: bool, effect: float) -> float | None:
        names = {name for name, size in effects.items() if size == effect}
        if not names:
            return None
        hits = sum(len((one.accepted if accepted else one.promoted) & names) for one in found)
        return round(hits / (len(found) * len(names)), 4)

    false = [sum(effects[name] < MIN_DELTA for name in one.accepted) for one in found]
    accepted = sum(len(one.accepted) for one in found)
    return {
        "steps of a search": round(float(np.mean([one.steps for one in found]))),
        "promoted at first, without an effect": share(False, 0.0),
        "accepted, without an effect": share(True, 0.0),
        "searches that accept one without an effect": round(
            float(np.mean([count > 0 for count in false])), 4
        ),
        "share of the accepted without an effect": round(sum(false) / accepted, 4) if accepted else None,
        "accepted of +0.5, +1, +3 pp": [share(True, effect) for effect in (0.005, 0.01, 0.03)],
    }


def order(world: World) -> tuple[str, ...]:
    """The variants, in the order in which a search comes to them."""
    return tuple(np.random.default_rng(world.number).permutation(list(world.effects)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "results" / "evidence.json")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    runs = real_runs()
    result: dict[str, Any] = {"searches": arguments.searches, "runs to draw from": runs.n}
    for truth, effects in {"mixed": MIXED, "nothing": NOTHING}.items():
        worlds = [World(runs, effects, number) for number in range(arguments.searches)]
        result[truth] = {
            name: judged([protocol(world) for world in worlds], effects)
            for name, protocol in PROTOCOLS.items()
        }
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    arguments.output.write_text(text)


if __name__ == "__main__":
    main()
