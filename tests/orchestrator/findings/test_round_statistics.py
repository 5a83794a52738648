"""What all variants of a round are counted among, and what seeds were selected: pure."""

from __future__ import annotations

import pytest

from orchestrator.evidence import Evidence, SeedEvidence
from orchestrator.findings import caveats, round_statistics
from orchestrator.search import Confirmation, JobKey, Measurement, SearchSpec
from orchestrator.statistics.variants import dunnett
from worker.job import Outcome


def decided_with(task: str, stage: str, variant: str, p: float, seed: int = 0) -> tuple[JobKey, Evidence]:
    one = SeedEvidence(seed=seed, d_acc=0.1, p_value=p, standard_error=0.01)
    return JobKey(task, stage, variant, seed), Evidence(p_value=p, seeds=(one,))


def test_med__counts_what_did_not_come_so_far() -> None:
    """Of five tried, one reaches med with p = 0.02: that is 5 x 0.02 among five, not 0.02 by itself."""
    variants = tuple("abcde")
    search = SearchSpec(("t",), variants, ("quick", "med"))
    decisions = [decided_with("t", "quick", one, 0.01 if one == "a" else 0.5) for one in variants]
    decisions.append(decided_with("t", "med", "a", 0.02))
    told = round_statistics.of_round(search, decisions, {}, {}).of(decisions[-1][0])
    assert (told["n_tried"], told["q_value"]) == (5, pytest.approx(0.1))


def test_family__variants_that_compute_the_same_count_once() -> None:
    search = SearchSpec(("t",), tuple("abc"), ("quick",), same_as={"b": "a"})
    decisions = [decided_with("t", "quick", one, p) for one, p in (("a", 0.03), ("b", 0.03), ("c", 1.0))]
    found = round_statistics.of_round(search, decisions, {}, {})
    told = [found.of(key) for key, _ in decisions]
    assert [(one["n_tried"], one["q_value"], one["adjusted_p"]) for one in told] == [
        (2, pytest.approx(0.06), pytest.approx(0.06)),
        (2, pytest.approx(0.06), pytest.approx(0.06)),
        (2, 1.0, 1.0),
    ]


def test_family__a_variant_that_diverged_was_tried() -> None:
    search = SearchSpec(("t",), ("a", "b"), ("quick",))
    diverged = {JobKey("t", "quick", "b", 0): Measurement(Outcome.DIVERGED)}
    decisions = [decided_with("t", "quick", "a", 0.03)]
    told = round_statistics.of_round(search, decisions, diverged, {}).of(decisions[0][0])
    assert (told["n_tried"], told["q_value"]) == (2, pytest.approx(0.06))


def test_confirm__the_record_has_the_family_and_the_level_that_decided() -> None:
    confirmation = Confirmation("confirm", (1000,), level=0.01)
    search = SearchSpec(("s", "t"), ("v",), ("quick",), confirmation=confirmation)
    decisions = [decided_with("s", "confirm", "v", 0.03), decided_with("t", "confirm", "v", 0.04)]
    found = round_statistics.of_round(search, decisions, {}, {})
    told = [found.of(key) for key, _ in decisions]
    assert [(one["q_value"], one["n_tried"], one["q_level"]) for one in told] == [
        (0.03, 1, 0.01),
        (0.04, 1, 0.01),
    ]


def test_confirm__what_diverged_there_was_tried() -> None:
    search = SearchSpec(("t",), ("v", "w"), ("quick",), confirmation=Confirmation("confirm", (1000,)))
    diverged = {JobKey("t", "confirm", "w", 1000): Measurement(Outcome.DIVERGED)}
    decisions = [decided_with("t", "confirm", "v", 0.03)]
    told = round_statistics.of_round(search, decisions, diverged, {}).of(decisions[0][0])
    assert (told["n_tried"], told["q_value"]) == (2, 0.06)


def test_seeds__one_that_diverged_leaves_those_that_did_well() -> None:
    """Of three seeds one diverges, one is pruned, one is promoted: at med that one shows nothing."""
    search = SearchSpec(("t",), ("v", "w"), ("quick", "med"), seeds=(0, 1, 2))
    diverged = {JobKey("t", "quick", "v", 0): Measurement(Outcome.DIVERGED)}
    decisions = [decided_with("t", "quick", "v", p, seed) for seed, p in ((1, 0.5), (2, 0.01))]
    decisions += [decided_with("t", "quick", "w", 0.5, seed) for seed in (0, 1, 2)]
    decisions.append(decided_with("t", "med", "v", 0.004, 2))
    found = round_statistics.of_round(search, decisions, diverged, {})
    arm = round_statistics.Arm("t", "med", "v")
    assert found.counts[arm] == caveats.Seeds(here=1, first=3)
    assert found.selected == {arm}
    told = found.of(decisions[-1][0])
    assert (told["q_value"], told["adjusted_p"], told["sign_test_p"]) == (None, None, None)


@pytest.mark.parametrize(
    ("of_baseline", "by"), [([0.5, 0.5, 0.5025, 0.5], "holm"), ([0.5, 0.48, 0.53, 0.45], "dunnett")]
)
def test_adjusted__is_beyond_the_chance_of_examples_and_that_of_runs(
    of_baseline: list[float], by: str
) -> None:
    """However alike the runs of the baseline are: p is not less than over examples alone."""
    search = SearchSpec(("t",), ("v",), ("quick",), seeds=(0,), baseline_seeds=(1, 2, 3))
    scores = {("baseline", seed): score for seed, score in enumerate(of_baseline)} | {("v", 0): 0.515}
    measured = {JobKey("t", "quick", *arm): Measurement(Outcome.OK, score) for arm, score in scores.items()}
    decisions = [decided_with("t", "quick", "v", 0.073)]
    told = round_statistics.of_round(search, decisions, measured, {}).of(decisions[0][0])
    assert told["adjusted_by"] == by
    assert told["adjusted_p"] >= 0.073
    against = dunnett({"v": [0.515]}, of_baseline)["v"]
    assert told["adjusted_p"] == max(0.073, against)
    assert (against < 0.001) == (by == "holm")


def test_adjusted__for_those_too_whose_seeds_were_selected() -> None:
    """What reached the last stage with its best seeds only has no p of its own, and was tried there."""
    search = SearchSpec(("t",), ("v", "w"), ("quick", "med"), seeds=(0, 1))
    decisions = [decided_with("t", stage, "v", 0.5, seed) for stage in ("quick", "med") for seed in (0, 1)]
    alone = round_statistics.of_round(search, decisions, {}, {}).of(decisions[-1][0])["adjusted_p"]
    decisions += [decided_with("t", "quick", "w", 0.5, seed) for seed in (0, 1)]
    decisions.append(decided_with("t", "med", "w", 0.01))
    found = round_statistics.of_round(search, decisions, {}, {})
    assert found.of(decisions[3][0])["adjusted_p"] == pytest.approx(2 * alone)
    assert found.of(decisions[-1][0])["adjusted_p"] is None


def test_adjusted__of_what_computes_the_same_the_one_with_more_seeds_speaks() -> None:
    search = SearchSpec(("t",), tuple("abc"), ("quick",), seeds=(0, 1), same_as={"b": "a"})
    decisions = [decided_with("t", "quick", "a", 0.0)]
    decisions += [decided_with("t", "quick", "b", 0.4, seed) for seed in (0, 1)]
    found = round_statistics.of_round(search, decisions, {}, {})
    told = [found.of(key) for key, _ in decisions]
    assert told[0]["adjusted_p"] == told[1]["adjusted_p"] == told[1]["q_value"] > 0


def test_adjusted__a_variant_whose_equal_failed_is_held_against_the_control() -> None:
    """The scores are those of the one that has some."""
    search = SearchSpec(("t",), tuple("abc"), ("quick", "med"), seeds=(0, 1), same_as={"b": "a"})
    scores = {("a", 0): None, ("a", 1): None, ("b", 0): 0.5, ("c", 0): 0.5, ("c", 1): 0.6}
    scores |= {("baseline", 0): 0.4, ("baseline", 1): 0.45}
    measured = {
        JobKey("t", "med", variant, seed): Measurement(
            Outcome.CRASHED if score is None else Outcome.OK, score
        )
        for (variant, seed), score in scores.items()
    }
    decisions = [decided_with("t", "quick", one, 0.5, seed) for one in "abc" for seed in (0, 1)]
    decisions += [
        decided_with("t", "med", "b", 0.5),
        *(decided_with("t", "med", "c", 0.5, s) for s in (0, 1)),
    ]
    found = round_statistics.of_round(search, decisions, measured, {})
    assert found.of(decisions[-1][0])["adjusted_by"] == "dunnett"


def test_family__while_a_round_runs_the_one_with_more_seeds_speaks() -> None:
    search = SearchSpec(("t",), tuple("abc"), ("quick",), seeds=(0, 1), same_as={"b": "a"})
    decisions = [decided_with("t", "quick", "a", 0.03, seed) for seed in (0, 1)]
    decisions += [decided_with("t", "quick", "b", 0.03), decided_with("t", "quick", "c", 1.0)]
    found = round_statistics.of_round(search, decisions, {}, {})
    both = round_statistics.of_round(search, [*decisions[:2], decisions[3]], {}, {})
    told = [found.of(key)["q_value"] for key, _ in decisions]
    assert told[0] == told[2] == both.of(decisions[0][0])["q_value"] < 0.03


def test_adjusted__only_for_what_reached_the_last_stage_of_the_same_task() -> None:
    """Not those that were pruned before, those of another task, or the control."""
    search = SearchSpec(("s", "t"), ("v", "w", "x", "aa"), ("quick", "med"), control="aa")
    decisions = [decided_with(task, "quick", one, 0.5) for task in "st" for one in ("v", "w", "x", "aa")]
    decisions += [decided_with("s", "med", "x", 0.001), decided_with("t", "med", "aa", 0.001)]
    decisions += [decided_with("t", "med", "v", 0.02), decided_with("t", "med", "w", 0.5)]
    found = round_statistics.of_round(search, decisions, {}, {})
    told = [found.of(key)["adjusted_p"] for key, _ in decisions[-4:]]
    assert told == [0.001, None, pytest.approx(0.04), 0.5]


def test_adjusted__a_seed_that_crashed_has_no_score() -> None:
    search = SearchSpec(("t",), ("v",), ("quick",), seeds=(0, 1, 2))
    scores = {("baseline", 0): 0.4, ("baseline", 1): 0.45, ("baseline", 2): 0.5, ("v", 0): 0.5, ("v", 1): 0.6}
    measured = {JobKey("t", "quick", *arm): Measurement(Outcome.OK, score) for arm, score in scores.items()}
    crashed = {JobKey("t", "quick", "v", 2): Measurement(Outcome.CRASHED)}
    decisions = [decided_with("t", "quick", "v", 0.5, seed) for seed in (0, 1)]
    with_it, without = (
        round_statistics.of_round(search, decisions, measured | more, {}).of(decisions[0][0])
        for more in (crashed, {})
    )
    assert with_it["adjusted_by"] == "dunnett"
    assert with_it["adjusted_p"] == without["adjusted_p"]


def test_adjusted__not_by_runs_where_one_of_them_diverged() -> None:
    """The other runs of that arm would flatter it, and with it the spread that all are held against."""
    search = SearchSpec(("t",), ("v", "w"), ("quick",), seeds=(0, 1))
    scores = {("baseline", 0): 0.4, ("baseline", 1): 0.45, ("v", 0): 0.5, ("v", 1): 0.6, ("w", 0): 0.5}
    measured = {JobKey("t", "quick", *arm): Measurement(Outcome.OK, score) for arm, score in scores.items()}
    decisions = [decided_with("t", "quick", "v", 0.5, seed) for seed in (0, 1)]
    for outcome, by in ((Outcome.DIVERGED, "holm"), (Outcome.CRASHED, "dunnett")):
        ended = {JobKey("t", "quick", "w", 1): Measurement(outcome)}
        found = round_statistics.of_round(search, decisions, measured | ended, {})
        assert found.of(decisions[0][0])["adjusted_by"] == by
