"""Many variants at once: SciPy's own results, the definitions, and what happens without spread."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.statistics.variants import (
    DUNNETT_MOST,
    Spread,
    control_runs,
    dunnett,
    false_discovery,
    holm,
    pooled_spread,
    smallest_effect,
)

p_values = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=8)


@given(p_values)
@settings(max_examples=50)
def test_false_discovery__is_that_of_scipy(found: dict[str, float]) -> None:
    theirs = stats.false_discovery_control(list(found.values()), method="bh")
    assert list(false_discovery(found).values()) == pytest.approx(list(theirs))


@given(p_values)
@settings(max_examples=50)
def test_holm__is_the_closed_test_of_bonferroni(found: dict[str, float]) -> None:
    """A hypothesis is refused where Bonferroni refuses every intersection of hypotheses that it is part of."""
    sets = [names for size in range(1, len(found) + 1) for names in combinations(found, size)]
    refused = {names: min(1.0, len(names) * min(found[name] for name in names)) for names in sets}
    closed = {name: max(p for names, p in refused.items() if name in names) for name in found}
    assert holm(found) == pytest.approx(closed)
    assert list(holm(found)) == list(found)


def test_adjustments__of_nothing() -> None:
    assert false_discovery({}) == holm({}) == {}


def test_false_discovery__without_effects_finds_rarely_anything() -> None:
    """With no true effect, the share of rounds with any discovery is the level: at most 5 %, up to 1 in 10,000."""
    rng = np.random.default_rng(14)
    rounds = 500
    found = sum(
        min(false_discovery({str(i): float(p) for i, p in enumerate(rng.random(16))}).values()) <= 0.05
        for _ in range(rounds)
    )
    assert found <= stats.binom.ppf(1 - 1e-4, rounds, 0.05)


def test_dunnett__scipy_agrees_and_is_the_same_each_time() -> None:
    control, variants = [0.2, 0.21, 0.19, 0.205], {"a": [0.25, 0.26], "b": [0.2, 0.195]}
    found = dunnett(variants, control)
    theirs = stats.dunnett(*variants.values(), control=control, alternative="greater", rng=1)
    assert [found[name] for name in "ab"] == pytest.approx(list(theirs.pvalue), abs=1e-3)
    assert found == dunnett(variants, control)
    assert found["a"] < 0.05 < found["b"]


def test_dunnett__does_not_depend_on_the_order_of_the_variants() -> None:
    runs = {"x": [0.5, 0.55], "y": [0.52, 0.5], "z": [0.6, 0.56]}
    assert dunnett(runs, [0.5, 0.53, 0.51]) == dunnett(dict(reversed(runs.items())), [0.5, 0.53, 0.51])


def test_dunnett__without_a_known_spread() -> None:
    assert dunnett({}, [0.1, 0.2]) == {}
    assert dunnett({"a": [0.2]}, [0.1]) == {}
    assert dunnett({"a": [0.2]}, [0.1, 0.1]) == {}
    assert dunnett({"a": [0.2, 0.3]}, [0.1]) == {}  # nor of the control's own
    assert set(dunnett({"a": [0.2, 0.3]}, [0.1, 0.1])) == {"a"}


def test_dunnett__not_of_more_variants_than_it_can_integrate_in_time() -> None:
    runs = {n: [0.2 + n / 100, 0.21, 0.19] for n in range(DUNNETT_MOST + 1)}
    assert dunnett(runs, [0.2, 0.21, 0.19]) == {}
    del runs[0]
    assert set(dunnett(runs, [0.2, 0.21, 0.19])) == set(runs)


def test_pooled_spread() -> None:
    assert pooled_spread([[0.1, 0.3], [0.5, 0.7], [0.9]]) == Spread(pytest.approx(0.02**0.5), 4, 2)
    assert pooled_spread([[0.1], []]) is None
    assert pooled_spread([[0.1, 0.1]]) is None


@pytest.mark.parametrize("seeds", [1, 3, 8])
def test_smallest_effect__is_found_as_often_as_its_power_says(seeds: int) -> None:
    sd, level, power = 0.02, 0.05, 0.8
    error = sd * (2 / seeds) ** 0.5  # of the mean difference of so many pairs of runs
    effect = smallest_effect(sd, seeds, level=level, power=power)
    assert stats.norm.sf(stats.norm.isf(level) * error, loc=effect, scale=error) == pytest.approx(power)


@pytest.mark.parametrize(("variants", "runs"), [(0, 1), (1, 1), (2, 2), (4, 2), (16, 4), (17, 5)])
def test_control_runs__square_root_rule(variants: int, runs: int) -> None:
    assert control_runs(variants) == runs
