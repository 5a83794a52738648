"""Deltas over seeds: SciPy's own results, coverage by simulation, degenerate inputs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.statistics.examples import LEVEL
from orchestrator.statistics.seeds import (
    Estimate,
    across_seeds,
    estimate,
    estimate_if_known,
    least_sign_p,
    sign_pattern,
    sign_test,
    t_interval,
)

deltas = st.lists(st.integers(-50, 50).map(lambda n: n / 1000), min_size=1, max_size=8)


@given(deltas)
def test_across_seeds__scipy_agrees(values: list[float]) -> None:
    found = across_seeds(values)
    assert (found.n, found.mean) == (len(values), pytest.approx(np.mean(values)))
    if len(values) > 1:
        assert found.sd == pytest.approx(np.std(values, ddof=1))
        assert (found.interval is None) == (len(set(values)) == 1)
        if found.interval is not None:
            theirs = stats.ttest_1samp(values, 0).confidence_interval(LEVEL)
            assert found.interval == pytest.approx((theirs.low, theirs.high))


@given(deltas)
def test_sign_test__is_the_count_over_all_signs(values: list[float]) -> None:
    up, down = sum(d > 0 for d in values), sum(d < 0 for d in values)
    as_many = [sum(signs) >= up for signs in product((0, 1), repeat=up + down)]
    assert sign_test(up, down) == pytest.approx(sum(as_many) / len(as_many))
    assert sign_pattern(values) == f"{up}+/{len(values) - up - down}=/{down}-"


def test_across_seeds__degenerate() -> None:
    one = across_seeds([0.1])
    assert (one.sd, one.interval, one.sign_p, one.pattern) == (None, None, 0.5, "1+/0=/0-")
    ties = across_seeds([0.0, 0.0, 0.0])
    assert (ties.sd, ties.interval, ties.sign_p, ties.pattern) == (0.0, None, 1.0, "0+/3=/0-")
    equal = across_seeds([0.25, 0.25])
    assert (equal.interval, equal.positive) == (None, 2)


def test_least_sign_p__three_seeds_never_reach_an_eighth_and_five_are_the_least() -> None:
    assert least_sign_p(3) == 0.125 == sign_test(3, 0)
    assert least_sign_p(4) > 0.05 > least_sign_p(5) == sign_test(5, 0)


def test_estimate__degenerate() -> None:
    assert estimate([0.1], [0.0]) == Estimate(0.1, 0.0, 0.0, 1)
    assert (estimate([0.1], [0.0]).p_value, estimate([0.0], [0.0]).p_value) == (1.0, 1.0)
    assert estimate([0.1, 0.1], [0.0, 0.0]).p_value == 1.0  # no error is known: nothing is shown
    assert estimate([0.1, 0.1], [0.0, 0.0]).interval() == (pytest.approx(0.1), pytest.approx(0.1))


@given(deltas.filter(lambda values: len(values) > 1))
def test_estimate__without_doubt_about_examples_is_students_t(values: list[float]) -> None:
    found = estimate(values, [0.0] * len(values))
    assert found.interval() == pytest.approx(t_interval(values))
    if np.std(values) > 1e-9 and abs(np.mean(values)) > 1e-9:
        assert found.p_value == pytest.approx(
            stats.ttest_1samp(values, 0, alternative="greater").pvalue, abs=1e-6
        )


@given(st.floats(-0.05, 0.05).filter(lambda mean: abs(mean) > 1e-6), st.floats(1e-3, 0.05))
def test_estimate__without_doubt_about_runs_is_the_normal_distribution(mean: float, error: float) -> None:
    assert estimate([mean, mean], [error, error]).p_value == pytest.approx(
        stats.norm.sf(mean / error), abs=1e-6
    )


def test_estimate__of_one_seed_is_the_normal_distribution() -> None:
    found = estimate([0.03], [0.01])
    assert found.interval() == pytest.approx(stats.norm.interval(LEVEL, loc=0.03, scale=0.01))
    assert found.p_value == pytest.approx(stats.norm.sf(3), abs=1e-6)


def test_estimate_if_known__asks_for_the_error_of_every_seed() -> None:
    assert estimate_if_known([0.1, 0.2], [0.01, 0.02]) == estimate([0.1, 0.2], [0.01, 0.02])
    assert estimate_if_known([0.1, 0.2], [0.01, None]) is None


@given(st.floats(-0.05, 0.05), st.floats(1e-4, 0.05), st.floats(1e-4, 0.05), st.integers(2, 6))
def test_estimate__interval_and_p_value_agree(mean: float, examples: float, runs: float, n: int) -> None:
    found = Estimate(mean, examples, runs, n)
    assert (found.interval(0.9).low > 0) == (found.p_value < 0.05) or found.p_value == pytest.approx(0.05)


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("k", "of_runs"), [(2, 0.05), (3, 0.2), (4, 0.02), (5, 0.01)])
def test_estimate__covers_the_truth(shared: float, k: int, of_runs: float) -> None:
    """Examples and runs both drawn at random, in any mixture; a 95 % interval misses no more often than it says.

    shared: how much of an example's noise is the same under every seed. The bound is what a binomial of 500 and 5 %
    exceeds once in 10,000 times.
    """
    rng = np.random.default_rng(13)
    truth, n, simulations = 0.02, 200, 500
    misses = 0
    for _ in range(simulations):
        items = rng.normal(0, 0.3, size=n) * shared**0.5
        runs = rng.normal(truth, of_runs, size=k)
        d = runs[:, None] + items + rng.normal(0, 0.3, size=(k, n)) * (1 - shared) ** 0.5
        errors = d.std(axis=1, ddof=1) / n**0.5
        low, high = estimate(list(d.mean(axis=1)), list(errors)).interval()
        misses += not low <= truth <= high
    assert misses <= stats.binom.ppf(1 - 1e-4, simulations, 1 - LEVEL)
