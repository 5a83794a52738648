"""Pooling over seeds and rounds: what counts, what counts once, and what is left in doubt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.findings.caveats import Caveat
from orchestrator.reports.effects import of_rounds, stages_of
from orchestrator.statistics.seeds import across_seeds, estimate
from orchestrator.views.shapes import NoiseFloor
from tests.orchestrator.reports.samples import decision, job, of_round, two_seeds


def test_effects__whole_report() -> None:
    report = of_rounds([of_round(two_seeds())])

    told = [
        (e.variant, e.stage, e.delta, e.across and e.across.pattern, dict(e.decisions))
        for e in report.effects
    ]
    assert told == [
        ("l1", "quick", pytest.approx(0.0375), "2+/0=/0-", {"promoted": 2}),
        ("l1", "med", pytest.approx(-0.01875), "0+/0=/2-", {"rejected": 2}),
        ("l2", "quick", pytest.approx(-0.025), "0+/0=/2-", {"pruned": 2}),
        ("bad", "quick", None, None, {"pruned": 2}),
        ("noop", "quick", None, None, {"no_op": 2}),
    ]
    assert {effect.tried for effect in report.effects} == {3}  # one diverged
    quick = report.effects[0]
    assert quick.interval == across_seeds([0.05, 0.025]).interval
    assert (quick.p_value, quick.q_value) == (0.25, 0.75)
    assert report.effects[1].q_value == 1.0  # alone at its stage, and three were tried
    # two seeds are not one, but two that are alike say nothing of their spread
    assert report.effects[2].caveats == (Caveat.AT_CHANCE, Caveat.NOT_SIGNIFICANT)
    assert report.caveats == {Caveat.AT_CHANCE: ["s4"], Caveat.NOT_SIGNIFICANT: ["s4"]}


def test_effects__equal_runs_count_once() -> None:
    rounds = [
        of_round(two_seeds()),
        of_round(two_seeds(), "again"),
        of_round([job("l1", seed=2, d_acc=0.1)], "new"),
    ]
    quick = of_rounds(rounds).effects[0]

    assert quick.across is not None
    assert (quick.across.n, quick.repeats, quick.seeds) == (3, 2, (0, 1, 2))
    assert quick.rounds == ("r1", "again", "new")
    assert dict(quick.decisions) == {"promoted": 4}


def named(config: str, protocol: str, d_acc: float, p_value: float, **more: Any) -> dict[str, Any]:
    return job(config, d_acc=d_acc, d_acc_ci=[-0.01, 0.1], p_value=p_value, protocol=protocol, **more)


def test_effects__variants_that_compute_the_same_count_once() -> None:
    twins = [named("a", "f", 0.05, 0.03), named("b", "f", 0.05, 0.03), named("c", "g", 0.0, 1.0)]
    effects = of_rounds([of_round(twins)]).effects
    assert {one.variant: one.q_value for one in effects} == {"a": 0.06, "b": 0.06, "c": 1.0}
    assert {(one.tried, one.family) for one in effects} == {(2, 2)}


def test_effects__more_seeds_of_a_variant_are_no_other_variant() -> None:
    """A winner runs again with one more seed: its other name keeps the one, and the p-value is that of both."""
    first = of_round([named("b", "f", 0.05, 0.03, d_acc_se=0.02), named("c", "g", 0.0, 1.0)])
    again = of_round([named("a", "f", 0.05, 0.03, seed=seed, d_acc_se=0.02) for seed in (0, 1)], "r2")
    for rounds in ([first, again], [again, first]):
        found = {one.variant: one for one in of_rounds(rounds).effects}
        assert {(one.tried, one.family) for one in found.values()} == {(2, 2)}
        p_value = found["a"].p_value
        assert p_value is not None
        assert found["a"].q_value == found["b"].q_value == pytest.approx(2 * p_value)


def test_effects__one_name_for_two_settings_is_two_variants() -> None:
    one = of_round([named("x", "f", 0.05, 0.5), named("x", "med f", 0.05, 0.01, stage="med")])
    other = of_round([named("x", "g", 0.0, 0.5)], "r2")
    (med,) = [effect for effect in of_rounds([one, other]).effects if effect.stage == "med"]
    assert (med.tried, med.family, med.q_value) == (2, 2, 0.02)


def test_effects__a_run_without_a_number_speaks_for_every_name() -> None:
    measured = of_round([named("b", "f", 0.05, 0.001), named("c", "g", 0.0, 1.0)])
    diverged = of_round([named("a", "f", 0.0, 1.0, seed=1) | {"d_acc": None, "status": "diverged"}], "r2")
    found = {effect.variant: effect for effect in of_rounds([measured, diverged]).effects}
    assert (found["a"].q_value, found["b"].q_value) == (1.0, 1.0)


def test_effects__what_is_the_same_at_one_stage_is_the_same_at_the_next() -> None:
    """Under one name it is pruned, under the other it goes on, and at the next stage it is one of two."""
    records = [named(name, protocol, 0.05, 0.5) for name, protocol in (("a", "f"), ("b", "f"), ("c", "g"))]
    records.append(named("b", "med f", 0.05, 0.02, stage="med"))
    found = {(one.variant, one.stage): one for one in of_rounds([of_round(records)]).effects}
    assert (found["b", "med"].family, found["b", "med"].q_value) == (2, 0.04)


@pytest.mark.parametrize("status", ["diverged", "stopped", "cached"])
def test_effects__a_run_without_a_number_was_tried_and_leaves_no_mean(status: str) -> None:
    runs = [job("a", d_acc=0.05, p_value=0.03), job("b", d_acc=0.1, p_value=0.01)]
    runs.append(job("b", seed=1, d_acc=None, status=status))
    effects = {one.variant: one for one in of_rounds([of_round(runs)]).effects}
    assert (effects["b"].delta, effects["b"].q_value) == (None, 1.0)
    assert (effects["a"].tried, effects["a"].q_value) == (2, 0.06)


def test_effects__one_run_has_the_evidence_of_its_record() -> None:
    with_evidence = job("l1", d_acc=0.05, d_acc_ci=[0.01, 0.08], p_value=0.02)
    (effect,) = of_rounds([of_round([with_evidence])]).effects
    assert (effect.interval, effect.p_value, effect.q_value) == ((0.01, 0.08), 0.02, 0.02)
    assert effect.caveats == (Caveat.SINGLE_SEED,)

    few_differ = job("l1", d_acc=0.015, d_acc_ci=[0.005, 0.04], p_value=0.125)
    (doubtful,) = of_rounds([of_round([few_differ])]).effects
    assert Caveat.NOT_SIGNIFICANT in doubtful.caveats

    (bare,) = of_rounds([of_round([job("l1", d_acc=0.05)])]).effects
    assert (bare.interval, bare.p_value, bare.q_value) == (None, None, None)


def test_effects__of_equal_runs_the_record_that_knows_most_counts() -> None:
    """Where a round is judged by another metric its jobs' deltas have no errors."""
    known = [job("l1", seed=seed, d_acc=d, d_acc_se=0.02) for seed, d in enumerate((0.05, 0.03))]
    bare = [job("l1", seed=seed, d_acc=d) for seed, d in enumerate((0.05, 0.03))]
    rounds = [of_round(known), of_round(bare, "r2")]
    (one,), (other,) = (of_rounds(order).effects for order in (rounds, rounds[::-1]))
    assert (other.interval, other.p_value) == (one.interval, one.p_value)
    assert one.interval == estimate([0.05, 0.03], [0.02] * 2).interval()


@pytest.mark.parametrize(("of_second", "is_single"), [(-0.01, True), (-0.02, False)])
def test_effects__seeds_that_change_nothing_are_one(of_second: float, is_single: bool) -> None:
    """A seed is the order of the examples: with all of them in a step there is none, and losses are the same."""
    runs = [
        job("l1", seed=seed, d_acc=0.05, d_loss=d_loss, caveats=["single_seed"])
        for seed, d_loss in ((0, -0.01), (1, of_second))
    ]
    (effect,) = of_rounds([of_round(runs)]).effects
    assert (Caveat.SINGLE_SEED in effect.caveats) is is_single


def test_effects__errors_over_examples_add_to_those_over_seeds() -> None:
    runs = [job("l1", seed=seed, d_acc=d, d_acc_se=0.02) for seed, d in enumerate((0.05, 0.03, 0.04))]
    (effect,) = of_rounds([of_round(runs)]).effects
    expected = estimate([0.05, 0.03, 0.04], [0.02] * 3)
    assert effect.interval == expected.interval()
    assert effect.p_value == expected.p_value


def test_effects__other_protocols_are_counted() -> None:
    rounds = [of_round([job("l1", d_acc=0.1)]), of_round([job("l1", d_acc=0.2, n_val=99)], "r2")]
    assert of_rounds(rounds).effects[0].protocols == 2


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from((-0.05, 0.0, 0.025, 0.05))), max_size=12))
def test_effects__no_matter_how_runs_are_spread_over_rounds(runs: list[tuple[int, float]]) -> None:
    records = [job("l1", seed=seed, d_acc=d_acc) for seed, d_acc in runs]
    together = of_rounds([of_round(records)]).effects
    apart = of_rounds([of_round([record], f"r{i}") for i, record in enumerate(records)]).effects
    assert [(e.across, e.interval, e.p_value, e.repeats) for e in apart] == [
        (e.across, e.interval, e.p_value, e.repeats) for e in together
    ]


def test_effects__a_control_arm_is_no_variant_that_was_tried() -> None:
    runs = [job(name, d_acc=0.05, p_value=0.02) for name in ("aa", "l1")]
    floor = NoiseFloor(judged=1, promoted=0)
    found = {effect.variant: effect for effect in of_rounds([of_round(runs, noise_floor=floor)]).effects}
    assert [found[name].is_control for name in ("aa", "l1")] == [True, False]
    assert (found["l1"].tried, found["l1"].q_value, found["aa"].q_value) == (1, 0.02, None)
    assert {effect.tried for effect in of_rounds([of_round(runs)]).effects} == {2}  # a variant of that name


def test_effects__a_later_stage_counts_what_did_not_come_so_far_and_a_confirmation_does_not() -> None:
    runs = [job(name, d_acc=0.05, p_value=0.5) for name in ("l1", "l2")]
    runs += [job("l1", stage, d_acc=0.05, p_value=0.02) for stage in ("med", "confirm")]
    runs.append(job("l1", "confirm", d_acc=0.05, p_value=0.9) | {"task": "other"})
    one = of_round(runs, stages=("quick", "med", "confirm"), confirm_stage="confirm", tasks=("s4", "other"))
    found = {(e.task, e.variant, e.stage): (e.q_value, e.family) for e in of_rounds([one]).effects}
    assert found["s4", "l1", "med"] == (0.04, 2)
    assert found["s4", "l1", "confirm"] == (0.02, 1)
    assert found["other", "l1", "confirm"] == (0.9, 1)


def test_effects__seeds_that_were_selected_bear_no_inference() -> None:
    runs = [job("l1", "med", seed, d_acc=0.05, d_acc_se=0.01, caveats=["selected_seeds"]) for seed in (0, 3)]
    (effect,) = of_rounds([of_round(runs)]).effects
    assert (effect.delta, effect.interval, effect.p_value, effect.q_value) == (0.05, None, None, None)
    assert effect.caveats == (Caveat.SELECTED_SEEDS,)


@pytest.mark.parametrize("of_second", [["nothing_new"], []])
def test_effects__bring_nothing_new_if_none_of_their_runs_does(of_second: list[str]) -> None:
    marked = zip((0, 3), (["nothing_new"], of_second), strict=True)
    runs = [job("l1", "med", seed, d_acc=0.05 + seed / 100, caveats=caveats) for seed, caveats in marked]
    (effect,) = of_rounds([of_round(runs)]).effects
    assert (Caveat.NOTHING_NEW in effect.caveats) is bool(of_second)


def test_effects__runs_of_other_protocols_have_rows_of_their_own() -> None:
    gains = {"r1": ("aaaaaaaa", 0.1), "r2": ("bbbbbbbb", -0.1), "r3": ("aaaaaaaa", 0.2)}
    rounds = [
        of_round([job("l1", d_acc=d, protocol=print_), decision("l1", "promoted", d_acc=d)], name)
        for name, (print_, d) in gains.items()
    ]
    found = {e.name: (e.rounds, dict(e.decisions)) for e in of_rounds(rounds).effects}
    assert found == {
        "l1 [aaaaaa]": (("r1", "r3"), {"promoted": 2}),
        "l1 [bbbbbb]": (("r2",), {"promoted": 1}),
    }
    assert [e.name for e in of_rounds(rounds[:1]).effects] == ["l1"]


def test_effects__seeds_of_two_versions_have_their_own_decisions() -> None:
    rows = [
        row
        for seed, protocol in enumerate("aab")
        for row in (job("l1", seed=seed, protocol=protocol), decision("l1", "pruned", seed=seed))
    ]
    found = of_rounds([of_round(rows)]).effects
    assert [(one.protocol, sum(one.decisions.values())) for one in found] == [("a", 2), ("b", 1)]


def test_effects__nothing_decided() -> None:
    assert of_rounds([of_round([job("baseline")])]).effects == ()


def test_stages__of_rounds_that_name_them_differently() -> None:
    rounds = [of_round([], stages=("quick", "long")), of_round([], "r2", ("quick", "med", "long", "confirm"))]
    assert stages_of(rounds) == ["quick", "med", "long", "confirm"]


def test_effects__a_decision_without_a_run_keeps_its_row() -> None:
    (effect,) = of_rounds([of_round([decision("l1", "undecided", d_acc=None)])]).effects
    assert (effect.delta, dict(effect.decisions)) == (None, {"undecided": 1})
