"""The stage that confirms: who comes there, and what bears a gain out."""

from __future__ import annotations

import re

import pytest

from orchestrator.planner import plan
from orchestrator.rules import Rule, Threshold, TopK
from orchestrator.search import Confirmation, JobKey, Measurement, SearchSpec
from orchestrator.statistics.examples import Outcomes
from orchestrator.verdicts import Verdict
from worker.job import BASELINE, Outcome


def ended(right: int, *, by_example: bool = True) -> Measurement:
    """A run that had so many of 40 examples right."""
    outcomes = Outcomes((1,) * right + (0,) * (40 - right), (1,) * 40)
    return Measurement(Outcome.OK, right / 40, 1.0, outcomes=outcomes if by_example else None)


@pytest.mark.parametrize(
    ("right", "by_example", "verdict", "reason"),
    [
        (20, False, Verdict.UNDECIDED, r"how far the choice of examples moves its delta is not known"),
        (
            20,
            True,
            Verdict.CONFIRMED,
            r"\+50\.00 pp over 2 fresh seeds, false-discovery level \S+ within 0\.05",
        ),
        (2, True, Verdict.REJECTED, r"\+5\.00 pp over 2 fresh seeds, false-discovery level \S+ above 0\.05"),
    ],
)
def test_confirm__equal_deltas_are_no_certainty(
    right: int, by_example: bool, verdict: Verdict, reason: str
) -> None:
    """Two fresh seeds with the same gain: of unknown error, of 20 answers in 40, and of 2."""
    confirmation = Confirmation("confirm", (1000, 1001))
    spec = SearchSpec(("t",), ("v",), ("quick",), confirmation=confirmation)
    results = {
        JobKey("t", stage, arm, seed): ended(0 if arm == BASELINE else right, by_example=by_example)
        for stage, seeds in (("quick", (0,)), ("confirm", (1000, 1001)))
        for arm in (BASELINE, "v")
        for seed in seeds
    }
    decision = plan(spec, results).decisions[-1]
    assert decision.verdict is verdict
    assert re.fullmatch(reason, decision.reason)


@pytest.mark.parametrize(
    ("rule", "gains", "is_confirmed"),
    [
        (Threshold(), (1, 1, 0), True),
        (Threshold(), (1, 0, 0), False),
        (Threshold(), (1, 0), False),
        (TopK(keep=1), (1, 1, 0), True),
    ],
)
def test_confirm__is_for_what_most_seeds_promoted(
    rule: Rule, gains: tuple[int, ...], is_confirmed: bool
) -> None:
    seeds = tuple(range(len(gains)))
    spec = SearchSpec(
        ("t",), ("v",), ("quick",), seeds, rule=rule, confirmation=Confirmation("confirm", (1000,))
    )
    results = {
        JobKey("t", "quick", arm, seed): ended(20 + (4 * gains[seed] if arm == "v" else 0))
        for arm in (BASELINE, "v")
        for seed in seeds
    }
    assert (JobKey("t", "confirm", BASELINE, 1000) in plan(spec, results).jobs) is is_confirmed


@pytest.mark.parametrize(("same_as", "verdict"), [({}, Verdict.CONFIRMED), ({"w": "v"}, Verdict.REJECTED)])
def test_confirm__the_same_under_two_names_is_one_candidate(
    same_as: dict[str, str], verdict: Verdict
) -> None:
    """A gain among two tried has a q-value of 0.009, two gains among three have 0.007: a second name is no gain."""
    right = {BASELINE: 10, "v": 16, "w": 16, "x": 10}
    results = {
        JobKey("t", stage, arm, seed): ended(right[arm])
        for stage, seed in (("quick", 0), ("confirm", 1000))
        for arm in right
    }
    spec = SearchSpec(
        ("t",),
        ("v", "w", "x"),
        ("quick",),
        rule=Threshold(min_delta=0.0),
        confirmation=Confirmation("confirm", (1000,), level=0.008),
        same_as=same_as,
    )
    confirmed = {one.key.variant: one.verdict for one in plan(spec, results).decisions[-3:]}
    assert confirmed == {"v": verdict, "w": verdict, "x": Verdict.REJECTED}


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [(Outcome.DIVERGED, Verdict.REJECTED), (Outcome.INFRA_FAILED, Verdict.CONFIRMED)],
)
def test_confirm__a_candidate_that_diverged_was_tried(outcome: Outcome, verdict: Verdict) -> None:
    """The gain has p = 0.004: among two that is 0.009."""
    results = {
        JobKey("t", stage, arm, seed): ended(right)
        for stage, seed in (("quick", 0), ("confirm", 1000))
        for arm, right in ((BASELINE, 10), ("v", 16), ("w", 16))
    }
    results[JobKey("t", "confirm", "w", 1000)] = Measurement(outcome, reason="nan")
    confirmation = Confirmation("confirm", (1000,), level=0.008)
    spec = SearchSpec(
        ("t",), ("v", "w"), ("quick",), rule=Threshold(min_delta=0.0), confirmation=confirmation
    )
    assert plan(spec, results).decisions[-2].verdict is verdict
