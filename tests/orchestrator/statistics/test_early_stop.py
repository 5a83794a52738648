"""The bound on how far a run may be behind: its error rate, and what it never does."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from orchestrator.statistics.early_stop import allowance, largest_lag, least, remaining

STEPS = (20, 40, 60, 80)
accuracies = st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=4, max_size=4)
lags = st.lists(st.floats(-1, 1), min_size=0, max_size=200)


def best(values: object) -> dict[int, float]:
    return dict(zip(STEPS, accumulate(values, max), strict=True))  # type: ignore[call-overload]


def pair(rng: np.random.Generator) -> tuple[dict[int, float], dict[int, float]]:
    """Two noisy, rising curves; the variant's lies lower or higher from the start."""
    rise = np.linspace(0.1, 0.4, 4)
    effect = rng.normal(0, 0.05)
    return best(rise + effect + rng.normal(0, 0.03, 4)), best(rise + rng.normal(0, 0.03, 4))


@pytest.mark.parametrize(("error_rate", "pairs"), [(0.05, 19), (0.05, 30), (0.1, 50), (0.25, 20)])
def test_allowance__error_rate_holds(error_rate: float, pairs: int) -> None:
    """Of searches with past and new pairs from one source, at most that share stops a run that would get there."""
    rng = np.random.default_rng(0)
    searches, wrong, stops = 1000, 0, 0
    for _ in range(searches):
        allowed = allowance([largest_lag(*pair(rng)) for _ in range(pairs)], error_rate)
        assert allowed is not None
        variant, baseline = pair(rng)
        stopped = any(variant[step] < bound for step, bound in least(baseline, 0.001, allowed).items())
        stops += stopped
        wrong += stopped and variant[80] - baseline[80] >= 0.001
    assert wrong <= binom.ppf(0.999, searches, error_rate)
    assert stops > searches / 50


@given(accuracies, st.sampled_from(STEPS[:-1]), st.integers(1, 50), st.integers(0, 50), st.integers(0, 99))
def test_least__stops_wrongly_only_where_the_lag_exceeds_the_allowance(
    baseline: list[float], step: int, below: int, above: int, allowed: int
) -> None:
    """Whoever is below the bound somewhere, and reaches the threshold all the same, has caught up by more."""
    theirs = best(baseline)
    bound = least(theirs, 0.01, allowed / 100)[step]
    ours = theirs | {step: bound - below / 100, 80: theirs[80] + 0.01 + above / 100}
    assert largest_lag(ours, theirs) > allowed / 100


@given(lags, st.floats(0.001, 0.5), st.floats(0.001, 0.5))
def test_allowance__the_more_error_the_less_is_allowed(lags: list[float], one: float, other: float) -> None:
    strict, loose = (allowance(lags, rate) for rate in sorted([one, other]))
    if strict is not None:
        assert loose is not None
        assert 0 <= loose <= strict


@given(lags, st.floats(0.001, 0.5), st.randoms())
def test_allowance__regardless_of_order(lags: list[float], error_rate: float, rng: object) -> None:
    shuffled = [*lags]
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert allowance(shuffled, error_rate) == allowance(lags, error_rate)


@pytest.mark.parametrize(
    ("pairs", "error_rate", "is_enough"),
    [(18, 0.05, False), (19, 0.05, True), (98, 0.01, False), (99, 0.01, True)],
)
def test_allowance__too_few_pairs_are_sure_of_nothing(pairs: int, error_rate: float, is_enough: bool) -> None:
    assert (allowance([0.1] * pairs, error_rate) is not None) == is_enough


@given(accuracies, st.floats(0, 0.5))
def test_least__of_what_has_reached_the_threshold_is_never_more(
    baseline: list[float], allowed: float
) -> None:
    theirs = best(baseline)
    bounds = least(theirs, 0.01, allowed)
    assert list(bounds) == [20, 40, 60]
    assert all(bound <= theirs[step] + 0.01 for step, bound in bounds.items())


def test_remaining__from_all_to_nothing() -> None:
    assert [remaining(step, 80) for step in (0, 60, 80)] == [1, 0.5, 0]
