"""Calibration: searches whose truth is known, over runs that differ by chance alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.session import Database
from orchestrator.calibration import power, protocol
from orchestrator.calibration.runs import Runs, runs_of
from orchestrator.calibration.searches import World, search
from orchestrator.errors import BadRound
from orchestrator.rules import Threshold, TopK
from orchestrator.search import Confirmation, JobKey, SearchSpec
from worker.job import BASELINE, JobResult, Outcome

from .factories import Rig, resolve, result

STEPS = {"quick": 80, "med": 160, "confirm": 160}
EFFECTS = {"a": 0.0, "b": 0.05, "c": 0.0}


def some_runs(
    n: int = 12, examples: int = 300, accuracy: float = 0.6, spread: float = 0.01, seed: int = 0
) -> Runs:
    """Runs whose accuracies differ by chance, and a little by themselves."""
    draw = np.random.default_rng(seed)
    chance = accuracy + spread * draw.standard_normal((n, 1))
    right = {stage: draw.binomial(4, chance.repeat(examples, 1)) for stage in ("quick", "med")}
    return Runs(right, np.full(examples, 4))


def spec(rule: Threshold | TopK, fresh: tuple[int, ...] = ()) -> SearchSpec:
    confirmation = Confirmation("confirm", fresh) if fresh else None
    return SearchSpec(("t",), tuple(EFFECTS), ("quick", "med"), rule=rule, confirmation=confirmation)


def test_world__plants_an_effect_of_the_size_asked_for() -> None:
    runs = some_runs()
    gains = [
        world.measure(JobKey("t", "med", "b", 0), "med").score
        - plain.measure(JobKey("t", "med", "b", 0), "med").score
        for world, plain in (
            (World(runs, EFFECTS, n), World(runs, dict.fromkeys(EFFECTS, 0.0), n)) for n in range(60)
        )
    ]
    error = np.std(gains, ddof=1) / len(gains) ** 0.5
    assert abs(np.mean(gains) - 0.05) < 4 * error


@given(number=st.integers(0, 1000), seed=st.integers(0, 50), effect=st.floats(0, 0.9))
def test_world__nobody_gets_more_right_than_there_is(number: int, seed: int, effect: float) -> None:
    world = World(some_runs(n=3, examples=20), {"a": effect}, number)
    for confirms in (False, True):
        right = world.right("med", "a", seed, confirms=confirms)
        assert (right >= 0).all()
        assert (right <= world.of(confirms=confirms)).all()


@given(number=st.integers(0, 1000), seed=st.integers(0, 50))
def test_world__arms_of_a_seed_have_runs_of_their_own(number: int, seed: int) -> None:
    runs = Runs({"quick": np.arange(4)[:, None].repeat(5, 1)}, np.full(5, 10))
    world = World(runs, EFFECTS, number)
    scores = [int(world.right("quick", arm, seed)[0]) for arm in (BASELINE, *EFFECTS) if arm != "b"]
    assert len(set(scores)) == 3


def test_search__equal_runs_promote_nothing() -> None:
    runs = Runs({stage: np.full((4, 10), 2) for stage in ("quick", "med")}, np.full(10, 4))
    found = search(World(runs, dict.fromkeys(EFFECTS, 0.0), 0), spec(Threshold()), STEPS)
    assert (found.promoted, found.accepted, found.steps) == (set(), set(), 4 * 80)


def test_search__counts_steps_as_they_are_continued() -> None:
    found = search(World(some_runs(), EFFECTS, 1), spec(TopK(keep=1, min_delta=-1), fresh=(7, 8)), STEPS)
    assert found.promoted == {"b"}
    # baseline and b to the end of med, a and c to that of quick, then both arms twice
    assert found.steps == 2 * 160 + 2 * 80 + 4 * 160


def test_search__a_confirmation_finds_what_is_there_and_nothing_else() -> None:
    runs = some_runs()
    always = spec(Threshold(min_delta=-1), fresh=(7, 8, 9))
    effects = EFFECTS | {"b": 0.2}
    accepted = [search(World(runs, effects, n), always, STEPS).accepted for n in range(40)]
    assert sum("b" in found for found in accepted) > 20
    # at a level of 5 %, 40 searches accept more than 8 with a chance below 1e-4
    assert sum(bool(found - {"b"}) for found in accepted) <= 8


@given(effect=st.floats(1e-4, 0.2))
def test_needs__more_is_needed_for_less(effect: float) -> None:
    runs = some_runs()
    small, large = (power.needs(runs, spec(Threshold()), size, STEPS) for size in (effect, 2 * effect))
    assert all(a >= b for a, b in zip(small.seeds_and_val, large.seeds_and_val, strict=True))
    assert large.seeds is not None or small.seeds is None
    assert small.steps == 2 * small.seeds_and_val[0] * STEPS["med"]


def test_needs__says_when_no_number_suffices() -> None:
    found = power.needs(some_runs(examples=30), spec(Threshold()), 0.001, STEPS)
    assert (found.seeds, found.val) == (None, None)
    for effect in (0.0, -0.5):
        assert power.needs(some_runs(), spec(Threshold()), effect, STEPS).seeds_and_val == (0, 0)


def test_needs__runs_that_are_all_alike_may_still_differ_in_an_answer(tmp_path: Path) -> None:
    alike = Runs({stage: np.full((4, 31), 1) for stage in ("quick", "med")}, np.full(31, 1))
    assert alike.example_variance("med") == pytest.approx(1 / 31)
    found = power.needs(alike, spec(Threshold()), 0.001, STEPS)
    assert found.seeds is None
    assert found.seeds_and_val[1] > 1000  # one answer of these is less than the effect


def test_of_task__a_variant_that_computes_the_same_is_no_other_arm(tmp_path: Path) -> None:
    runs = some_runs()
    twins = {"l1": {"layer_start": 1}, "l1_again": {"layer_start": 0}}
    one, both = (
        power.of_task(resolve(tmp_path, variants=variants), "s4", runs, 10)
        for variants in ({"l1": twins["l1"]}, twins)
    )
    assert both == one
    assert "all the same, 1 in a search:" in power.as_text(both, resolve(tmp_path, variants=twins))


def test_calibrating__shares_the_baselines_of_its_round(tmp_path: Path) -> None:
    resolved = resolve(tmp_path, seeds=[0, 1])
    round_ = protocol.calibrating(resolved, 6)
    assert round_.spec.round == "r1-calibration-6"
    assert round_.search.seeds == (0, 1, 2)
    assert protocol.calibrating(resolve(tmp_path, seeds=[7, 1]), 8).search.seeds == (7, 1, 0, 2)
    assert protocol.calibrating(resolve(tmp_path, seeds=[7, 8, 9]), 4).search.seeds == (7, 8)
    for seed in (0, 1):
        key = JobKey("s4", "quick", BASELINE, seed)
        assert round_.job(key).fingerprint == resolved.job(key).fingerprint
    fingerprints = {round_.job(key).fingerprint for key in round_.largest_plan()}
    assert len(fingerprints) == 2 * 6
    with pytest.raises(BadRound, match="longer than"):
        protocol.calibrating(resolve(tmp_path, round="r" * 95), 6)


def test_runs__are_what_the_round_measured(tmp_path: Path, database: Database) -> None:
    rig = Rig(database, by_example=True)
    resolved = resolve(tmp_path)
    round_ = protocol.calibrating(resolved, 4)
    round_id = rig.submit(round_)
    accuracies = iter([0.5, 0.6, 0.7, 0.4, 0.8, 0.3, 0.2, 0.9])
    while rig.run_next(result(next(accuracies, 0.5))):
        pass
    with database.read() as session:
        runs = runs_of(session, round_id, round_)["s4"]
    assert runs.n == 4
    assert runs.of.tolist() == [4] * 10
    assert sorted([*runs.scores("quick"), *runs.scores("med")]) == pytest.approx(
        [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    )
    found = power.of_task(resolved, "s4", runs, searches=3)
    assert "s4: 4 runs of the baseline" in power.as_text(found, resolved)


def test_runs__of_a_seed_that_failed_later_are_left_out(tmp_path: Path, database: Database) -> None:
    rig = Rig(database, by_example=True)
    round_ = protocol.calibrating(resolve(tmp_path), 6)
    round_id = rig.submit(round_)
    crash = JobResult(outcome=Outcome.OOM, reason="too large")
    ended = []
    while key := rig.run_next(crash if len(ended) == 2 else result(0.1 + 0.05 * len(ended))):
        ended.append(key)
    assert ended[2].stage == "med"
    with database.read() as session:
        runs = runs_of(session, round_id, round_)["s4"]
    assert len(runs.right["quick"]) == len(runs.right["med"]) == runs.n < 6


def test_calibrating__refuses_a_round_without_a_search(tmp_path: Path) -> None:
    with pytest.raises(BadRound, match="no search to calibrate"):
        protocol.calibrating(resolve(tmp_path, variants={"noop": {"layer_start": 9}}), 6)
