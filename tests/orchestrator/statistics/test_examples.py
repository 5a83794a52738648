"""The paired comparison over examples: properties, coverage by simulation, and SciPy's own results."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.statistics import examples
from orchestrator.statistics.examples import (
    LEVEL,
    Comparison,
    Interval,
    Outcomes,
    bootstrap,
    compare,
    is_clear,
    permutation_p,
    standard_error,
)

PRINTS = ("variant", "baseline")


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Outcomes, Outcomes]:
    of = draw(st.lists(st.integers(1, 6), min_size=2, max_size=12))
    arms = [tuple(draw(st.integers(0, size)) for size in of) for _ in range(2)]
    return Outcomes(arms[0], tuple(of)), Outcomes(arms[1], tuple(of))


def comparison(variant: Outcomes, baseline: Outcomes) -> Comparison:
    found = compare(variant, baseline, PRINTS)
    assert found is not None
    return found


@given(pairs())
@settings(max_examples=50)
def test_compare__properties(pair: tuple[Outcomes, Outcomes]) -> None:
    variant, baseline = pair
    found = comparison(variant, baseline)
    assert found == comparison(variant, baseline)
    assert found.delta == pytest.approx((sum(variant.right) - sum(baseline.right)) / sum(variant.of))
    assert found.interval.low <= found.interval.high
    assert found.interval.low >= -1
    assert found.interval.high <= 1
    assert 0 < found.p_value <= 1
    other = comparison(baseline, variant)
    assert other.delta == pytest.approx(-found.delta)
    assert other.standard_error == pytest.approx(found.standard_error)
    assert found.p_value + other.p_value >= 1 - 1e-9  # both count the observed value itself


@given(pairs())
@settings(max_examples=50)
def test_permutation_p__is_the_count_over_all_signs(pair: tuple[Outcomes, Outcomes]) -> None:
    d = [a - b for a, b in zip(pair[0].right, pair[1].right, strict=True)][:8]
    as_large = [
        sum(s * x for s, x in zip(signs, d, strict=True)) >= sum(d)
        for signs in product((1, -1), repeat=len(d))
    ]
    assert permutation_p(d) == pytest.approx(sum(as_large) / len(as_large))


def test_permutation_p__scipy_agrees() -> None:
    generator = random.Random(3)
    d = [generator.randint(-3, 4) for _ in range(10)]
    theirs = stats.permutation_test(
        (d, [0] * len(d)), lambda a, b: sum(a) - sum(b), permutation_type="samples", alternative="greater"
    )
    assert permutation_p(d) == pytest.approx(theirs.pvalue)


def bootstrap_of_scipy(d: Sequence[int], of: Sequence[int]) -> Any:
    return stats.bootstrap(
        (d, of),
        lambda a, b, axis=-1: np.sum(a, axis=axis) / np.sum(b, axis=axis),
        paired=True,
        vectorized=True,
        method="BCa",
        confidence_level=LEVEL,
        n_resamples=20_000,
        rng=1,
    )


@pytest.mark.parametrize("count_cost", [0, 1000], ids=["kinds are drawn", "examples are drawn"])
def test_bootstrap__scipy_agrees(count_cost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "COUNT_COST", count_cost)
    generator = random.Random(5)
    of = [generator.randint(2, 9) for _ in range(60)]
    d = [generator.randint(-2, 3) for _ in of]
    theirs = bootstrap_of_scipy(d, of)
    ours = bootstrap(d, of, seed=1, resamples=20_000)
    # the end of a 95 % interval from 20,000 draws has a standard error of about sqrt(.025 * .975 / 20000) / density
    tolerance = 4 * 2.7 * theirs.standard_error * np.sqrt(2 * 0.025 * 0.975 / 20_000) / 0.16
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)
    assert standard_error(d, of) == pytest.approx(theirs.standard_error, rel=0.05)


def test_standard_error__of_answers_of_one_length_is_that_of_the_mean() -> None:
    d = [3, -2, 4, 0]
    assert standard_error(d, [5, 5, 5, 5]) == pytest.approx(stats.sem(d) / 5)


def test_compare__one_example_tells_nothing() -> None:
    assert compare(Outcomes((3,), (4,)), Outcomes((1,), (4,)), PRINTS) is None


def test_compare__ties_only() -> None:
    arm = Outcomes((1, 2, 3), (4, 4, 4))
    assert comparison(arm, arm) == Comparison(0.0, Interval(0.0, 0.0), 1.0, 1 / 12)


def test_compare__all_differ_by_the_same() -> None:
    found = comparison(Outcomes((2, 3, 4), (4, 4, 4)), Outcomes((1, 2, 3), (4, 4, 4)))
    assert found == Comparison(0.25, Interval(0.25, 0.25), 0.125, 1 / 12)


@pytest.mark.parametrize(("won", "clear"), [(0, False), (3, False), (5, False), (6, True)])
def test_is_clear__not_before_the_exact_test_agrees(won: int, clear: bool) -> None:
    """Of 200 examples so many won and none lost; p is 2^-won."""
    found = comparison(
        Outcomes((1,) * won + (0,) * (200 - won), (1,) * 200), Outcomes((0,) * 200, (1,) * 200)
    )
    assert is_clear(found.interval, found.p_value) is clear
    if won == 3:
        assert found.interval.low > 0


def test_compare__other_examples() -> None:
    with pytest.raises(ValueError, match="not evaluated on the same examples"):
        compare(Outcomes((1, 1), (2, 2)), Outcomes((1, 1), (2, 3)), PRINTS)


def test_compare__tokens_of_an_answer_are_not_independent() -> None:
    """Whole answers won and lost: repeating every token four times tells nothing new."""
    right = [(1, 0)] * 12 + [(0, 1)] * 5 + [(1, 1)] * 20
    once = comparison(
        Outcomes(tuple(a for a, _ in right), (1,) * 37), Outcomes(tuple(b for _, b in right), (1,) * 37)
    )
    four = comparison(
        Outcomes(tuple(4 * a for a, _ in right), (4,) * 37),
        Outcomes(tuple(4 * b for _, b in right), (4,) * 37),
    )
    assert four.p_value == pytest.approx(once.p_value)
    assert four.standard_error == pytest.approx(once.standard_error)
    assert four.interval == pytest.approx(once.interval)


def test_compare__covers_the_truth() -> None:
    """Answers of 1 to 8 tokens that are right or wrong together more often than not; the true delta is known.

    Of 400 simulated validation sets, a 95 % interval may miss at most as many as a binomial of 400 and 7 % exceeds
    once in 10,000 times: 2 points are left to the bootstrap's own error on 60 examples.
    """
    rng = np.random.default_rng(11)
    simulations, n = 400, 60
    misses = sum(not _covers(rng, n, gain=0.05) for _ in range(simulations))
    assert misses <= stats.binom.ppf(1 - 1e-4, simulations, 1 - LEVEL + 0.02)
    assert misses >= stats.binom.ppf(1e-4, simulations, 1 - LEVEL - 0.02)


def _covers(rng: np.random.Generator, n: int, gain: float) -> bool:
    of = rng.integers(1, 9, size=n)
    skill = rng.beta(2, 2, size=n) * (1 - gain)  # of the baseline on each example
    right = [rng.binomial(of, chance) for chance in (skill + gain, skill)]
    variant, baseline = (Outcomes(tuple(map(int, arm)), tuple(map(int, of))) for arm in right)
    found = bootstrap(
        [a - b for a, b in zip(variant.right, baseline.right, strict=True)], variant.of, seed=0, resamples=999
    )
    return found.low <= gain <= found.high


def test_permutation_p__false_alarms_are_as_rare_as_it_says() -> None:
    """Without any effect, p <= 0.05 happens in at most 5 % of simulated pairs, up to the binomial's 1 in 10,000."""
    rng = np.random.default_rng(12)
    alarms = sum(permutation_p([int(d) for d in rng.integers(-2, 3, size=30)]) <= 0.05 for _ in range(1000))
    assert alarms <= stats.binom.ppf(1 - 1e-4, 1000, 0.05)


def test_bootstrap__scipy_agrees_where_few_long_answers_decide() -> None:
    """Skewed: without the acceleration, or with a wrong one, an end moves by 0.03 or more."""
    of = [1] * 20 + [12] * 4
    d = [1] * 10 + [0] * 10 + [-1] * 4
    theirs = bootstrap_of_scipy(d, of)
    ours = bootstrap(d, of, seed=1, resamples=20_000)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
