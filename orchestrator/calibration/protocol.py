"""The round that calibrates another: the same tasks, model and budgets, and arms that are all the baseline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain, count, islice

from orchestrator.errors import BadRound, Problem
from orchestrator.rounds.catalogue import MAX_NAME
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rounds.variants import Variant
from orchestrator.rules import Threshold
from worker.job import FutureSeedSettings, sha256_of

EVERYTHING = -1.0  # a threshold that whatever is measured reaches


def calibrating(resolved: ResolvedRound, runs: int) -> ResolvedRound:
    """The round that runs the baseline of every task under this many seeds (even).

    Half of them are seeds of a round, so that what is known of its baseline is not run again, half those of its
    control arm. Raises BadRound where its name would be too long, or the round has no variant that is trained.
    """
    spec = resolved.spec
    if not resolved.search.candidates:
        problem = Problem("variants", None, "none is known and trained: there is no search to calibrate")
        raise BadRound(spec.round, [problem])
    seeds = tuple(islice(_seeds(spec.seeds), runs // 2))
    name = f"{spec.round}-calibration-{runs}"
    if seeds != tuple(range(runs // 2)):
        name += f"-{sha256_of(seeds)[:4]}"
    if len(name) > MAX_NAME:
        raise BadRound(spec.round, [Problem("round", None, f"{name!r} is longer than {MAX_NAME} characters")])
    nothing = Variant(name="nothing", settings=FutureSeedSettings(layer_start=resolved.facts.model.n_layer))
    return ResolvedRound(
        spec.model_copy(
            update={
                "round": name,
                "stages": spec.selecting,
                "prune": Threshold(min_delta=EVERYTHING, metric=spec.prune.metric),
                "seeds": seeds,
                "baseline_seeds": 1,
                "control": "aa",
                "variants": (nothing,),
                "early_stop": None,
                "after": None,
            }
        ),
        resolved.facts,
    )


def _seeds(given: Sequence[int]) -> Iterator[int]:
    """A round's own, then the least that it does not name."""
    return chain(given, (seed for seed in count() if seed not in given))


def text_of(resolved: ResolvedRound) -> str:
    """The round as a file, which JSON is."""
    return json.dumps(resolved.spec.model_dump(mode="json"), indent=1)
