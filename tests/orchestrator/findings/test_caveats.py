"""When a number is doubtful, and that nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from orchestrator.evidence import Evidence, SeedEvidence
from orchestrator.findings import caveats
from tests.orchestrator.factories import resolve, result, round_data
from worker.job import Metric, Metrics


def test_not_significant__where_interval_and_p_value_disagree() -> None:
    doubtful, clear = (
        Evidence(d_acc_ci=(0.005, 0.04), p_value=p, seeds=(SeedEvidence(seed=0, d_acc=0.015),))
        for p in (0.125, 0.02)
    )
    assert list(caveats.of_evidence(doubtful)) == [caveats.Caveat.NOT_SIGNIFICANT]
    assert list(caveats.of_evidence(clear)) == []


def test_caveats__a_baseline_that_says_what_val_has_most_is_at_chance(tmp_path: Path) -> None:
    report = resolve(tmp_path).report("s4", "quick")
    val = report.val.model_copy(update={"majority_accuracy": 0.25, "constant_accuracy": 0.3})
    for accuracy, expected in ((0.3, [caveats.Caveat.AT_CHANCE]), (0.35, [])):
        metrics = result(accuracy).metrics
        assert metrics is not None
        assert list(caveats.of_baseline(metrics, report.model_copy(update={"val": val}))) == expected


def test_caveats__a_delta_without_a_baseline_of_its_stage(tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    run = result(0.5)
    assert run.metrics is not None
    assert run.usage is not None
    alone = {0: caveats.Measured(run.metrics, run.usage, None)}
    found = caveats.of_arm(resolved, "s4", "quick", "l1", alone)
    assert caveats.Caveat.UNMATCHED_BASELINE in found
    baseline = caveats.of_arm(resolved, "s4", "quick", "baseline", alone)
    assert caveats.Caveat.UNMATCHED_BASELINE not in baseline


def test_caveats__a_delta_without_an_interval_is_not_significant() -> None:
    seed = SeedEvidence(seed=0, d_acc=0.3)
    assert list(caveats.of_evidence(Evidence(seeds=(seed,)))) == [caveats.Caveat.NOT_SIGNIFICANT]
    assert list(caveats.of_evidence(Evidence(d_acc_ci=(0.2, 0.4), p_value=0.001, seeds=(seed,)))) == []
    assert list(caveats.of_evidence(None)) == []


@pytest.mark.parametrize(
    ("min_delta", "told"), [(0.001, True), (0.0, True), (-0.001, True), (0.5, False), (-1, False)]
)
def test_caveats__a_threshold_is_smaller_than_a_token_whatever_its_sign(
    tmp_path: Path, min_delta: float, told: bool
) -> None:
    resolved = resolve(tmp_path, prune={"min_delta": min_delta})
    found = list(caveats.of_protocol(resolved, "s4", "quick"))
    assert (caveats.Caveat.BELOW_RESOLUTION in found) is told


@pytest.mark.parametrize(("steps", "told"), [(100, False), (102, False), (103, True)])
def test_caveats__arms_that_differ_by_more_than_two_percent_in_steps(steps: int, told: bool) -> None:
    variant, baseline = result(0.5, steps=steps).metrics, result(0.5, steps=100).metrics
    assert variant is not None
    assert baseline is not None
    for one, other in ((variant, baseline), (baseline, variant)):
        assert (list(caveats.of_pair(one, other)) == [caveats.Caveat.UNMATCHED_STEPS]) is told


def test_caveats__a_baseline_is_at_chance_by_the_metric_that_is_shown(tmp_path: Path) -> None:
    report = resolve(tmp_path).report("s4", "quick")
    metrics = result(0.9).metrics
    assert metrics is not None
    fell_back = metrics.model_copy(update={"final_val_tok_acc": 0.0})
    assert list(caveats.of_baseline(fell_back, report, "final_val_tok_acc")) == [caveats.Caveat.AT_CHANCE]
    assert list(caveats.of_baseline(fell_back, report, "best_val_tok_acc")) == []
    assert list(caveats.of_baseline(fell_back, report)) == []


def test_caveats__predictions_are_constant_where_the_metric_looks() -> None:
    metrics, usage = result(0.5, distinct=3).metrics, result(0.5).usage
    assert metrics is not None
    assert usage is not None
    constant = {"final_distinct_predictions": 1, "best_seq_distinct_predictions": 2}
    at_the_end = metrics.model_copy(update=constant)
    doubts = {
        metric: list(caveats.of_run(usage, at_the_end, 1, metric)) == [caveats.Caveat.DEGENERATE]
        for metric in get_args(Metric)
    }
    assert doubts == {"best_val_tok_acc": False, "best_val_seq_acc": False, "final_val_tok_acc": True}


@pytest.mark.parametrize(
    ("taken_over", "of_second", "is_new"),
    [
        ((4, 4), 3, False),
        ((7, 7), 7, False),
        ((4, 0), 3, True),
        ((4, 4), 5, True),
        # all eight steps: nothing was tried after them
        ((8, 8), 8, True),
    ],
)
def test_caveats__steps_that_were_taken_over_are_known_whatever_the_budget(
    tmp_path: Path, taken_over: tuple[int, int], of_second: int, is_new: bool
) -> None:
    """Of all runs that a decision rests on."""
    stages = [{"name": "quick", "seconds": 5}, {"name": "med", "seconds": 9}]
    resolved = resolve(tmp_path, stages=stages)
    metrics, usage = result(0.5, steps=8).metrics, result(0.5).usage
    assert metrics is not None
    assert usage is not None
    by_best: tuple[Metric, ...] = ("best_val_tok_acc", "best_val_seq_acc")
    for metric in by_best:
        runs = [
            caveats.Measured(at(metrics, step), usage, at(metrics, 2), taken_over=taken_over)
            for step in (4, of_second)
        ]
        assert list(caveats.of_progress(resolved, "quick", runs, metric)) == []  # of another round, maybe
        found = list(caveats.of_progress(resolved, "med", runs, metric))
        assert found == ([] if is_new else [caveats.Caveat.NOTHING_NEW])


def at(metrics: Metrics, step: int) -> Metrics:
    """A run that did best at a step, by either count."""
    return metrics.model_copy(update={"best_step": step, "best_seq_step": step})


def test_caveats__seeds_that_are_the_same_run_are_one(tmp_path: Path) -> None:
    for size, told in ((40, True), (39, False)):
        task = round_data()["tasks"]["s4"] | {"batch_size": size}
        resolved = resolve(tmp_path, tasks={"s4": task}, seeds=[0, 1, 2])
        assert (caveats.Caveat.SINGLE_SEED in caveats.of_protocol(resolved, "s4", "quick")) is told


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("what", ["leak", "truncated"])
def test_caveats__what_the_examples_of_either_split_make_doubtful(
    what: str, split: str, tmp_path: Path
) -> None:
    report = resolve(tmp_path).report("s4", "quick")
    assert list(caveats.of_data(report)) == []
    some = getattr(report, split).model_copy(update={what: 0.01})
    assert list(caveats.of_data(report.model_copy(update={split: some}))) == [caveats.Caveat(what)]


def test_caveats__one_example_says_nothing_of_others(tmp_path: Path) -> None:
    for val, told in ((1, True), (2, False)):
        task = round_data()["tasks"]["s4"] | {"val": val}
        resolved = resolve(tmp_path, tasks={"s4": task})
        assert (caveats.Caveat.NOT_SIGNIFICANT in caveats.of_protocol(resolved, "s4", "quick")) is told


def test_caveats__fresh_seeds_are_not_selected_however_few_they_are(tmp_path: Path) -> None:
    confirm = {"name": "confirm", "steps": 8, "eval_every": 2, "confirm": {"seeds": 5}}
    search = resolve(tmp_path, seeds=[0, 1, 2], stages=[*round_data()["stages"], confirm]).search
    assert not caveats.are_selected(search, "confirm", caveats.Seeds(here=1, first=3))
    assert caveats.are_selected(search, "med", caveats.Seeds(here=1, first=3))


@pytest.mark.parametrize(
    ("metric", "min_delta", "told"),
    [
        ("best_val_tok_acc", 0.025, False),  # one of 40 answer tokens
        ("best_val_tok_acc", 0.0249, True),
        ("best_val_seq_acc", 0.0999, True),  # one of 10 examples
        ("best_val_seq_acc", 0.1, False),
    ],
)
def test_caveats__a_threshold_below_one_answer(
    tmp_path: Path, metric: str, min_delta: float, told: bool
) -> None:
    resolved = resolve(tmp_path, prune={"min_delta": min_delta, "metric": metric})
    found = list(caveats.of_protocol(resolved, "s4", "quick"))
    assert (caveats.Caveat.BELOW_RESOLUTION in found) is told
