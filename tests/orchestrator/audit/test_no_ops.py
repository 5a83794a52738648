"""Variants that compute nothing new."""

from __future__ import annotations

import pytest

from orchestrator.audit import no_ops
from orchestrator.history.entries import History
from tests.orchestrator.audit.made import row, run


def test_no_ops__a_layer_that_the_model_has_not() -> None:
    history = History([run(loss=2.0), run("scalar_l12_sched_cos", loss=2.0)])
    (found,) = no_ops.judge(history, 12)
    assert found.text == (
        "round 1 t quick scalar_l12_sched_cos seed 0 is the baseline, bit for bit in loss and accuracy: the model "
        "has 12 layers, so it seeds none"
    )
    assert "so it seeds none" not in next(no_ops.judge(history, 24)).text


def test_no_ops__a_layer_that_the_model_has_not_and_yet_a_difference() -> None:
    (found,) = no_ops.judge(History([run(), run("scalar_l12", 0.6)]), 12)
    assert "differs from the baseline" in found.text


def test_no_ops__the_names_of_own_variants_say_nothing() -> None:
    """An own round's model may have more layers, and what does nothing on it is not run."""
    runs = [run(is_own=True), run("scalar_l12_sched_cos", 0.6, is_own=True)]
    assert not list(no_ops.judge(History(runs), 12))
    equal = [run(loss=2.0, is_own=True), run("scalar_l12", loss=2.0, is_own=True)]
    (found,) = no_ops.judge(History(equal), 12)
    assert found.text == "round 1 t quick scalar_l12 seed 0 is the baseline, bit for bit in loss and accuracy"


def test_no_ops__equal_variants() -> None:
    (found,) = no_ops.judge(History([run("a", loss=2.0), run("b", loss=2.0)]), 12)
    assert found.text == "round 1 t quick seed 0: a and b are one variant, bit for bit"


def test_no_ops__ties() -> None:
    of_task, all_ = no_ops.judge(History([run(), run("a"), run("b", 0.6)]), 12)
    assert of_task.figures == {"ties": 1, "variants": 2}
    assert all_.figures == {"ties": 1, "comparisons": 2}


def test_no_ops__zero_rows() -> None:
    quick, med = no_ops.judge(History(ledger=[row(0.0), row(0.01, 0.0), row(0.01, 0.01)]), 12)
    assert (quick.figures["zero"], quick.figures["rows"]) == (1, 3)
    assert (med.figures["zero"], med.figures["rows"]) == (1, 2)


@pytest.mark.parametrize(
    ("config", "start"),
    [("scalar_l12_sched_cos", 12), ("head_l8", 8), ("l1", 1), ("scalar", None), ("all1", None)],
)
def test_layer_start(config: str, start: int | None) -> None:
    assert no_ops.layer_start(config) == start
