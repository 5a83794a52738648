"""Which runs are compared, and on how many steps."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.audit.comparisons import base_task, comparisons, family_of, labelled_seed, steps_of_runs
from tests.orchestrator.audit.made import run


@pytest.mark.parametrize(
    ("task", "base", "seed"),
    [
        ("arc_mc_seed3_discovery", "arc_mc", 3),
        ("punc_seed12_anchor_recheck2", "punc", 12),
        ("mbpp_low", "mbpp_low", None),
        ("seed5", "seed5", 5),
    ],
)
def test_base_task(task: str, base: str, seed: int | None) -> None:
    assert (base_task(task), labelled_seed(task)) == (base, seed)


def test_family_of__an_own_task_is_itself() -> None:
    assert family_of(run(task="punc_seed12")) == "punc"
    assert family_of(run(task="punc_seed12", is_own=True)) == "punc_seed12"


@pytest.mark.parametrize(
    "different", [{"seed": 1}, {"round": "2"}, {"task": "u"}, {"batch_size": 4}, {"stage": "med"}]
)
def test_comparisons__only_of_one_arm_and_stage(different: dict[str, Any]) -> None:
    baseline, variant = run(), run("head_l8", 0.75)
    assert [each.delta for each in comparisons([variant, baseline])] == [0.25]
    assert comparisons([run("head_l8", **different), baseline]) == []
    assert comparisons([variant, run(status="fail", accuracy=None)]) == []


def test_comparisons__the_control_arm_is_no_variant() -> None:
    arms = [run(is_own=True), run("aa", 0.75, mode="no_fs", is_own=True), run("b", 0.75, is_own=True)]
    assert [each.variant.config for each in comparisons(arms)] == ["b"]
    named = run("aa", 0.75, mode="prompt_fs", is_own=True)  # by a round that has no control arm
    assert [each.variant for each in comparisons([arms[0], named])] == [named]


def test_steps_of_runs__each_stage_against_its_own_baseline() -> None:
    runs = [
        run(accuracy=0.25),
        run("head_l8", 0.5),
        run(accuracy=0.5, stage="med"),
        run("head_l8", 0.375, stage="med"),
    ]
    (step,) = steps_of_runs(runs)
    assert (step.earlier, step.later) == (0.25, -0.125)
    assert step.records == (runs[1].source, runs[0].source, runs[3].source, runs[2].source)


def test_steps_of_runs__repeated_runs_count_once() -> None:
    runs = [
        run(accuracy=accuracy, config=config, stage=stage, round=round_, loss=accuracy)
        for round_ in ("1", "2")
        for stage, config, accuracy in [
            ("quick", "baseline", 0.25),
            ("quick", "head_l8", 0.5),
            ("med", "baseline", 0.375),
            ("med", "head_l8", 0.5),
        ]
    ]
    assert len(steps_of_runs(runs)) == 1


@pytest.mark.parametrize(("is_own", "counted"), [(True, 1), (False, 2)])
def test_steps_of_runs__own_variants_that_compute_the_same_count_once(is_own: bool, counted: int) -> None:
    """The predecessor ran both."""
    runs = [
        run(config, accuracy, stage=stage, loss=accuracy, is_own=is_own)
        for stage, accuracy in (("quick", 0.5), ("med", 0.375))
        for config in ("head_l8", "same")
    ]
    runs += [run(accuracy=0.25, stage=stage, is_own=is_own) for stage in ("quick", "med")]
    assert len(steps_of_runs(runs)) == counted
