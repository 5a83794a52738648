"""Gains that were chosen shrink."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import regression
from orchestrator.history.entries import History
from tests.orchestrator.audit.made import DELTAS, row, run


@given(st.lists(st.tuples(DELTAS, DELTAS), min_size=3, max_size=30), st.floats(0.5, 3), st.floats(-1, 1))
def test_relation__of_a_line(pairs: list[tuple[float, float]], slope: float, offset: float) -> None:
    first = [pair[0] for pair in pairs]
    found = regression.relation(first, [slope * value + offset for value in first])
    if len(set(first)) < 2:
        assert found is None
    else:
        assert found is not None
        assert found == pytest.approx((len(pairs), 1, 1, slope), abs=1e-6)
        swapped = regression.relation(first, [-value for value in first])
        assert swapped is not None
        assert swapped.pearson == pytest.approx(-1)


@given(st.lists(st.tuples(DELTAS, DELTAS), min_size=3, max_size=30), st.randoms())
def test_relation__knows_no_order(pairs: list[tuple[float, float]], rng: random.Random) -> None:
    found = regression.relation(*zip(*pairs, strict=True))
    rng.shuffle(pairs)
    again = regression.relation(*zip(*pairs, strict=True))
    assert (found is None) == (again is None)
    if found is not None and again is not None:
        assert found == pytest.approx(again, abs=1e-9)
        assert abs(found.pearson) <= 1 + 1e-9


def test_relation__of_next_to_nothing() -> None:
    assert regression.relation([1e-320, 0.0, 0.0], [1e-320, 0.0, 1e-320]) is None


def test_regression__chosen_gains_shrink() -> None:
    rng = random.Random(1)
    rows = [row(rng.gauss(0.03, 0.01), rng.gauss(0.01, 0.01)) for _ in range(20)]
    found = next(regression.judge(History(ledger=rows)))
    assert found.figures["n"] == 20
    assert float(found.figures["earlier_mean"] or 0) > float(found.figures["later_mean"] or 0)


def test_regression__what_choosing_adds() -> None:
    runs = [run(seed=seed) for seed in range(6)]
    runs += [
        run(config, 0.5 + delta, seed=s) for s in range(6) for config, delta in [("a", 0.25), ("b", -0.25)]
    ]
    (found,) = regression.judge(History(runs))
    assert (found.figures["n"], found.figures["mean"], found.figures["best_mean"]) == (12, 0.0, 0.25)
