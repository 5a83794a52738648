"""How many questions a number of answers implies."""

from __future__ import annotations

import math
import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import grids
from orchestrator.history.entries import History
from tests.orchestrator.audit.made import row, run


@given(
    st.integers(3, grids.MOST_QUESTIONS), st.lists(st.integers(0, 500), min_size=4, max_size=20), st.randoms()
)
def test_implied_questions__divides_the_true_number(
    questions: int, right: list[int], rng: random.Random
) -> None:
    accuracies = [(value % (questions + 1)) / questions for value in right]
    implied = grids.implied_questions(accuracies)
    different = set(accuracies) - {0.0, 1.0}
    assert (implied is None) == (len(different) < 2)
    if implied is not None:
        assert questions % implied == 0
        assert all(abs(value * implied - round(value * implied)) < 1e-6 for value in accuracies)
        rng.shuffle(accuracies)
        assert grids.implied_questions(accuracies) == implied


@given(st.lists(st.integers(0, 24), min_size=2, max_size=9))
def test_implied_questions__of_differences(right: list[int]) -> None:
    """Deltas lie on the grid of their accuracies."""
    deltas = [a / 24 - b / 24 for a, b in pairwise(right)]
    implied = grids.implied_questions(deltas)
    assert implied is None or 24 % implied == 0


@given(st.lists(st.floats(0.1, 0.9), min_size=3, unique=True))
def test_implied_questions__a_fine_value_breaks_the_grid(values: list[float]) -> None:
    assert grids.implied_questions([*values, math.pi / 10]) is None


def test_grids__of_records_and_rows() -> None:
    runs = [run("a", value / 24) for value in (7, 8, 10)]
    rows = [row(1 / 24), row(-1 / 24, 2 / 24), row(0.0)]
    of_runs, of_rows = grids.judge(History(runs, ledger=rows))
    assert (of_runs.figures["questions"], of_rows.figures["questions"]) == (24, 24)
    assert "one of 24 is 4.17 pp, 41.7 times a threshold of +0.10 pp" in of_runs.text
    assert "(in such steps, -1: 1, 0: 1, +1: 1, +2: 1)" in of_rows.text


def test_grids__stated_by_own_records() -> None:
    """By the threshold of their own round: that it is finer, the caveat says."""
    coarse = ("below_resolution",)
    (found,) = grids.judge(
        History([run(n_tokens=40, caveats=coarse), run("a", n_tokens=40), run(task="fine", n_tokens=5_000)])
    )
    assert (
        found.text == "round 1 t: the validation set has 40 answer tokens; one of 40 is 2.50 pp, "
        "and the records say that the threshold is finer than one step"
    )
