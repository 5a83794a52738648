"""What audits find, theme by theme, on records made for it; then what holds for any records."""

from __future__ import annotations

import json
import math
import random
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import (
    baselines,
    chance,
    decisions,
    duplicates,
    grids,
    labels,
    no_ops,
    regression,
    reporting,
    reversals,
    seeds,
)
from orchestrator.audit.comparisons import base_task, comparisons, labelled_seed, steps_of_runs
from orchestrator.audit.findings import EXPLANATIONS, Check, Finding, share
from orchestrator.audit.judging import audit
from orchestrator.history.entries import Decision, History, LedgerRow, Run

SOURCES = count(1)


def run(config: str = "baseline", accuracy: float | None = 0.5, **changes: Any) -> Run:
    """A measured run; its loss is its own unless it is given."""
    number = next(SOURCES)
    given: dict[str, Any] = {
        "source": f"f:{number}",
        "round": "1",
        "task": "t",
        "stage": "quick",
        "config": config,
        "status": "ok",
        "seed": 0,
        "accuracy": accuracy,
        "loss": 1 + number / 7,
    }
    return Run(**given | changes)


def decision(config: str, status: str, reason: str, **changes: Any) -> Decision:
    given: dict[str, Any] = {
        "source": f"f:{next(SOURCES)}",
        "round": "1",
        "task": "t",
        "stage": "quick",
        "config": config,
        "status": status,
        "reason": reason,
    }
    return Decision(**given | changes)


def row(quick: float, med: float | None = None, task: str = "t_seed1", **changes: Any) -> LedgerRow:
    given: dict[str, Any] = {
        "source": f"l:{next(SOURCES)}",
        "round": "77",
        "task": task,
        "family": "t",
        "quick_delta": quick,
        "quick_config": "head_l8",
        "med_delta": med,
        "med_config": "" if med is None else "head_l8",
    }
    return LedgerRow(**given | changes)


def texts(findings: Any) -> list[str]:
    return [finding.text for finding in findings]


# Belonging together


@pytest.mark.parametrize(
    ("task", "base", "seed"),
    [
        ("arc_mc_seed3_discovery", "arc_mc", 3),
        ("punc_seed12_anchor_recheck2", "punc", 12),
        ("mbpp_low", "mbpp_low", None),
        ("seed5", "seed5", 5),
    ],
)
def test_base_task(task: str, base: str, seed: int | None) -> None:
    assert (base_task(task), labelled_seed(task)) == (base, seed)


@pytest.mark.parametrize(
    "different", [{"seed": 1}, {"round": "2"}, {"task": "u"}, {"batch_size": 4}, {"stage": "med"}]
)
def test_comparisons__only_of_one_arm_and_stage(different: dict[str, Any]) -> None:
    baseline, variant = run(), run("head_l8", 0.75)
    assert [each.delta for each in comparisons([variant, baseline])] == [0.25]
    assert comparisons([run("head_l8", **different), baseline]) == []
    assert comparisons([variant, run(status="fail", accuracy=None)]) == []


def test_steps_of_runs__each_stage_against_its_own_baseline() -> None:
    runs = [
        run(accuracy=0.25),
        run("head_l8", 0.5),
        run(accuracy=0.5, stage="med"),
        run("head_l8", 0.375, stage="med"),
    ]
    (step,) = steps_of_runs(runs)
    assert (step.earlier, step.later) == (0.25, -0.125)
    assert step.records == (runs[1].source, runs[0].source, runs[3].source, runs[2].source)


def test_steps_of_runs__repeated_runs_count_once() -> None:
    runs = [
        run(accuracy=accuracy, config=config, stage=stage, round=round_, loss=accuracy)
        for round_ in ("1", "2")
        for stage, config, accuracy in [
            ("quick", "baseline", 0.25),
            ("quick", "head_l8", 0.5),
            ("med", "baseline", 0.375),
            ("med", "head_l8", 0.5),
        ]
    ]
    assert len(steps_of_runs(runs)) == 1


# Duplicates


def test_duplicates__under_another_name() -> None:
    first, again = run(loss=2.0), run(loss=2.0, round="2", task="u")
    summary, found = duplicates.judge(History([first, again, run("head_l8")]))
    assert summary.figures == {"repeats": 1, "measured": 3, "under_another_name": 1, "groups": 1}
    assert found.text == "bit-identical in round 1 t, round 2 u: quick baseline"
    assert found.records == [first.source, again.source]


def test_duplicates__a_result_from_the_store_is_none() -> None:
    assert not list(duplicates.judge(History([run(loss=2.0), run(loss=2.0, round="2", status="cached")])))


def test_duplicates__equal_accuracy_alone_is_none() -> None:
    assert not list(
        duplicates.judge(History([run(), run(round="2"), run(loss=None), run(loss=None, round="2")]))
    )


def test_duplicates__a_stage_that_repeats_another() -> None:
    _, found = duplicates.judge(History([run("head_l8", loss=2.0), run("head_l8", loss=2.0, stage="med")]))
    assert found.text.startswith("round 1 t head_l8: med is quick over again")


def test_duplicates__rows_of_one_seed_only() -> None:
    same = [row(0.0125, 0.03), row(0.0125, 0.03, "u_seed1_again", round="80", family="u")]
    of_another_seed = row(0.0125, 0.03, "t_seed2")
    zeros = [row(0.0, 0.0), row(0.0, 0.0)]
    summary, found, _ = duplicates.judge(History(ledger=[*same, of_another_seed, *zeros]))
    assert (summary.figures["quick_repeats"], summary.figures["med_repeats"]) == (1, 1)
    assert found.text.endswith("are one result, filed under the families t and u")
    assert found.records == [each.source for each in same]


def test_duplicates__replayed_rows() -> None:
    (found,) = duplicates.judge(History(ledger=[row(0.01, 0.01), row(0.02, 0.01), row(0.01)]))
    assert (found.figures["replayed"], found.figures["both"]) == (1, 2)


# No-ops and ties


def test_no_ops__a_layer_that_the_model_has_not() -> None:
    history = History([run(loss=2.0), run("scalar_l12_sched_cos", loss=2.0)])
    (found,) = no_ops.judge(history, 12)
    assert found.text == (
        "round 1 t quick scalar_l12_sched_cos is the baseline, bit for bit in loss and accuracy: the model has 12 "
        "layers, so it seeds none"
    )
    assert "so it seeds none" not in next(no_ops.judge(history, 24)).text


def test_no_ops__a_layer_that_the_model_has_not_and_yet_a_difference() -> None:
    (found,) = no_ops.judge(History([run(), run("scalar_l12", 0.6)]), 12)
    assert "differs from the baseline" in found.text


def test_no_ops__equal_variants() -> None:
    (found,) = no_ops.judge(History([run("a", loss=2.0), run("b", loss=2.0)]), 12)
    assert found.text == "round 1 t quick: a and b are one variant, bit for bit"


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


# Baselines


def test_baselines__only_a_shorter_one() -> None:
    base, variant = run(accuracy=0.1), run("head_l8", 0.3, stage="med")
    summary, found = baselines.judge(History([base, variant]))
    assert summary.figures == {"unmatched": 1, "variants": 1}
    assert found.text.startswith(
        "round 1 t med seed 0: head_l8 can only be held against the shorter quick baseline"
    )
    assert found.figures["highest"] == pytest.approx(0.2)
    assert found.records == [variant.source, base.source]


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([], "no baseline at all"),
        ([{"seed": 1}], "only baselines of another seed or batch size, or failed ones"),
        ([{"batch_size": 8}], "only baselines of another seed or batch size, or failed ones"),
        (
            [{"status": "fail", "accuracy": None}],
            "only baselines of another seed or batch size, or failed ones",
        ),
    ],
)
def test_baselines__none_that_matches(others: list[dict[str, Any]], why: str) -> None:
    _, found = baselines.judge(History([run("head_l8"), *(run(**other) for other in others)]))
    assert found.text == f"round 1 t quick seed 0: head_l8: {why}"


def test_baselines__unequal_steps() -> None:
    (found,) = baselines.judge(
        History([run(steps=100), run("head_l8", steps=160), run("head_l10", steps=101)])
    )
    assert "was trained for 160 steps, its baseline for 100" in found.text


def test_baselines__two_that_differ() -> None:
    (found,) = baselines.judge(History([run(accuracy=0.25), run(accuracy=0.5)]))
    assert found.text == "round 1 t quick has baselines that differ: 25.00 %, 50.00 %"


# Grids


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
    (found,) = grids.judge(
        History([run(n_tokens=40), run("a", n_tokens=40), run(task="fine", n_tokens=5_000)])
    )
    assert found.text.startswith("round 1 t: the validation set has 40 answer tokens; one of 40 is 2.50 pp")


# Chance


@given(st.integers(1, 60), st.floats(0.05, 0.9), st.integers(1, 20))
def test_expected_best__rises_with_tries(questions: int, guess: float, evaluations: int) -> None:
    once = chance.expected_best(questions, guess, 1)
    assert once == pytest.approx(guess)
    assert once - 1e-9 <= chance.expected_best(questions, guess, evaluations) <= 1


def test_expected_best__as_simulated() -> None:
    rng = random.Random(0)
    best = [max(sum(rng.random() < 0.25 for _ in range(24)) for _ in range(9)) for _ in range(20_000)]
    assert chance.expected_best(24, 0.25, 9) == pytest.approx(sum(best) / len(best) / 24, abs=0.002)


def test_chance__guesses() -> None:
    runs = [run(task="arc_mc_seed1", accuracy=9 / 24), run("head_l8", 7 / 24, task="arc_mc_seed1")]
    (found,) = chance.judge(History(runs))
    assert "a guess (one of four options) is right in 25.00 %" in found.text
    well_above = [run(task="arc_mc_seed1", accuracy=20 / 24), run("head_l8", 19 / 24, task="arc_mc_seed1")]
    assert not list(chance.judge(History(well_above)))


def test_chance__constant_answers() -> None:
    (found,) = chance.judge(History([run(), run("a"), run("b")]))
    assert found.figures == {"arms": 3, "accuracy": 0.5}
    assert not list(chance.judge(History([run(), run("a"), run("b", 0.6)])))
    assert not list(
        chance.judge(History([run(loss=2.0), run("a", loss=2.0), run("b", loss=2.0)]))
    )  # duplicates


def test_chance__families_that_never_react_and_own_caveats() -> None:
    history = History([run(caveats=("at_chance",)), run("a", 0.6)], ledger=[row(0.0) for _ in range(5)])
    family, own = chance.judge(history)
    assert family.text == "ledger: t never reacted: the best delta is exactly zero in all 5 rows"
    assert own.text.startswith("1 of 2 (50.0 %) records carry the caveat at_chance")


# From one stage to the next

DELTAS = st.integers(-2000, 2000).map(lambda number: number / 10_000)
ROWS = st.lists(st.builds(row, DELTAS, st.none() | DELTAS), max_size=30)


@given(ROWS)
def test_reversals__counts(rows: list[LedgerRow]) -> None:
    found = [each for each in reversals.judge(History(ledger=rows)) if "gate" in each.figures]
    for each in found:
        gate = float(each.figures["gate"] or 0)
        promoted = [one for one in rows if one.med_delta is not None and one.quick_delta >= gate - 1e-9]
        gone = [one for one in promoted if (one.med_delta or 0) <= 0]
        assert (each.figures["followed_up"], each.figures["reversed"]) == (len(promoted), len(gone))
        assert list(each.records) == [one.source for one in (gone or promoted)]
    assert [each.figures["followed_up"] for each in found] == sorted(
        (each.figures["followed_up"] for each in found), reverse=True
    )


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


# Seeds


@given(st.lists(DELTAS, max_size=20))
def test_pattern__counts_every_delta(values: list[float]) -> None:
    up, level, down = (int(part[:-1]) for part in seeds.pattern(values).split("/"))
    assert up + level + down == len(values)
    assert seeds.disagree(values) == (up > 0 and down > 0)
    assert seeds.pattern([-value for value in values]) == f"{down}+/{level}=/{up}-"


def test_seeds__disagree() -> None:
    runs = [run(seed=seed) for seed in range(3)]
    runs += [run("head_l8", 0.5 + delta, seed=seed) for seed, delta in enumerate((0.25, 0.0, -0.125))]
    (found,) = seeds.judge(History(runs))
    assert found.text == "round 1 t quick head_l8: 1+/1=/1- (+25.00 pp, +0.00 pp, -12.50 pp)"
    assert len(found.records) == 6
    assert not list(seeds.judge(History([*runs[:2], *runs[3:5]])))


def test_seeds__over_the_rounds_of_the_ledger() -> None:
    rows = [row(0.01, task="t_seed1"), row(-0.01, task="t_seed2"), row(0.01, task="u_seed1_again")]
    (found,) = seeds.judge(History(ledger=rows))
    assert found.text == "ledger: t quick head_l8: 1+/0=/1- (+1.00 pp, -1.00 pp)"


# Decisions


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("quick_drop -4.17pp < -0.50pp", (-4.17, "<", "", -0.5)),
        ("best_quick scalar_l8_train1e4 +0.78pp < promote_gate +0.80pp", (0.78, "<", "promote_gate", 0.8)),
        ("strong_med_negative -6.45pp <= -0.50pp", (-6.45, "<=", "", -0.5)),
        ("quick_d_acc=-0.61 < prune_pp=-0.50", (-0.61, "<", "prune_pp", -0.5)),
        ("+0.25 pp reaches +0.10 pp", (0.25, "reaches", "", 0.1)),
        ("+0.00 pp is below +0.10 pp", (0.0, "is below", "", 0.1)),
        ("quick_baseline_failed", None),
        ("cooldown_active_until_round_115", None),
    ],
)
def test_statement(reason: str, expected: tuple[float, str, str, float] | None) -> None:
    said = decisions.statement(reason)
    assert (said and said[:4]) == expected


@given(st.floats(-20, 20), st.floats(-5, 5))
def test_statement__what_is_said_of_a_delta_holds(delta: float, threshold: float) -> None:
    said = decisions.statement(f"quick_drop {delta:+.2f}pp < {threshold:+.2f}pp")
    assert said is not None
    if abs(delta - said.threshold) > 0.01:
        assert said.holds(delta) == (delta < threshold)


def decided(reason: str, accuracy: float, status: str = "pruned", **changes: Any) -> list[str]:
    runs = [run(accuracy=0.5), run("head_l8", accuracy)]
    return texts(decisions.judge(History(runs, [decision("head_l8", status, reason, **changes)])))


def test_decisions__in_order() -> None:
    assert decided("quick_drop -0.75pp < -0.50pp", 0.4925) == []
    assert decided("+0.75 pp reaches +0.10 pp", 0.5075, "promoted") == []
    assert decided("quick_drop -2.00pp < -0.50pp", 0.48, cooldown_until=9) == []


@pytest.mark.parametrize(
    ("reason", "accuracy", "status", "says"),
    [
        ("quick_drop -2.00pp < -0.50pp", 0.4925, "pruned", "while the records say -0.75 pp"),
        ("quick_drop -0.25pp < -0.50pp", 0.4975, "pruned", "which is not so"),
        ("+0.75 pp reaches +0.10 pp", 0.5075, "pruned", "which says the opposite"),
        ("+0.00 pp is below +0.10 pp", 0.5, "promoted", "which says the opposite"),
        ("quick_drop -2.00pp < -0.50pp", 0.48, "pruned", "no cooldown; the rule gives until round 9"),
    ],
)
def test_decisions__contradicted(reason: str, accuracy: float, status: str, says: str) -> None:
    (found,) = decided(reason, accuracy, status)
    assert says in found


def test_decisions__a_cooldown_for_nothing() -> None:
    (found,) = decided("quick_drop -0.75pp < -0.50pp", 0.4925, cooldown_until=9)
    assert found.endswith("a cooldown until round 9; the rule gives none")


def test_decisions__not_the_best() -> None:
    runs = [run(accuracy=0.5), run("a", 0.5025), run("b", 0.505)]
    reason = "best_quick a +0.25pp < promote_gate +0.80pp"
    (found,) = decisions.judge(History(runs, [decision("a", "pruned", reason, stage="med")]))
    assert found.text.endswith("while b was better at +0.50 pp")


def test_decisions__two_of_one() -> None:
    pair = [decision("a", "pruned", ""), decision("a", "promoted", "")]
    (found,) = decisions.judge(History(decisions=pair))
    assert found.text == "round 1 t quick a was decided pruned and promoted"


def test_decisions__what_was_not_pruned() -> None:
    runs = [run(accuracy=0.5), run("a", 0.4925), run("b", 0.4925)]
    (found,) = decisions.judge(History(runs, [decision("a", "pruned", "quick_drop -0.75pp < -0.50pp")]))
    assert found.text == "round 1 t quick b: -0.75 pp is below the stated -0.50 pp, and nothing was decided"


def test_decisions__pruned_and_named_best() -> None:
    pair = [
        decision("a", "pruned", "quick_drop -0.75pp < -0.50pp"),
        decision("a", "pruned", "best_quick a -0.75pp < promote_gate +0.80pp", stage="med"),
    ]
    (found,) = decisions.judge(History(decisions=pair))
    assert found.records == [each.source for each in pair]


def test_decisions__against_the_gate_of_a_round() -> None:
    """Round 27 kept MBPP variants from +0.40 pp on."""
    runs = [
        run(accuracy=0.5, round="27", task="mbpp_low"),
        run("a", 0.5025, round="27", task="mbpp_low"),
        run("a", 0.6, round="27", task="mbpp_low", stage="med"),
        run("b", 0.505, round="27", task="mbpp_low"),
    ]
    assert texts(decisions.judge(History(runs))) == [
        "round 27 mbpp_low a went on at +0.25 pp; the gate was +0.40 pp",
        "round 27 mbpp_low b did not go on at +0.50 pp; the gate was +0.40 pp",
    ]


# Labels

PUNC = {"run_dir": "runs/1/punc_restore_sft/no_fs", "dataset": "hotpot_qa"}


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (
            [run(task="hotpot_seed1", seed=1, **PUNC)],
            "tasks labelled hotpot ran punc_restore_sft on hotpot_qa",
        ),
        ([run(task="t_seed1", seed=2)], "round 1 t_seed1 quick baseline was run with seed 2"),
        ([run(mode="prompt_fs")], "round 1 t quick baseline ran as prompt_fs"),
        ([run("head_l8", run_dir="runs/1/x_sft/no_fs")], "round 1 t quick head_l8 ran as no_fs"),
        ([run(status="fail")], "is 'fail' with numbers"),
        ([run(accuracy=None, loss=None)], "is 'ok' without numbers"),
        ([run(run_dir="x"), run("a", run_dir="x")], "2 records name the same folder x"),
        ([run(task="(no task)")], "round 1: 1 records do not say which task they are of"),
        ([run(source="_round20_x.jsonl:3")], "_round20_x.jsonl holds 1 records of round 1"),
    ],
)
def test_labels__of_runs(runs: list[Run], says: str) -> None:
    (found,) = labels.judge(History(runs))
    assert says in found.text


def test_labels__in_order() -> None:
    runs = [
        run(task="punc_seed1", seed=1, **PUNC),
        run("a", task="punc_seed1", seed=1, run_dir="runs/2/punc_restore_sft/prompt_fs", mode="prompt_fs"),
        run("bsz", None, loss=None, stage="probe"),
        run("b", None, loss=None, status="fail"),
    ]
    assert texts(labels.judge(History(runs))) == []


def test_labels__of_the_ledger() -> None:
    rows = [row(0.01, -0.01, is_reversal=False), row(0.01, 0.01, "u_seed3", is_reversal=False)]
    family, mark = labels.judge(History(ledger=rows))
    assert family.text == "ledger: the family t holds several kinds of task: t 1, u 1"
    assert mark.text == "ledger: round 77 t_seed1 is marked no reversal; its deltas say otherwise"


@pytest.mark.parametrize(
    ("ledger", "says"),
    [
        (row(0.25, 0.125, quick_config="a"), []),
        (row(0.5, 0.125, quick_config="a"), ["has the quick delta +50.00 pp; the records give +25.00 pp"]),
        (row(0.25, 0.5, quick_config="a"), ["has the med delta +50.00 pp; the records give +12.50 pp"]),
        (row(0.25, 0.125, quick_config="b"), ["names b the best at quick; it is a"]),
    ],
)
def test_labels__the_ledger_against_the_records(ledger: LedgerRow, says: list[str]) -> None:
    of = {"round": "77", "task": "t_seed1", "seed": 1}
    runs = [
        run(**of),
        run("a", 0.75, **of),
        run("b", 0.5, **of),
        run(stage="med", **of),
        run("a", 0.625, stage="med", **of),
    ]
    found = texts(labels.judge(History(runs, ledger=[ledger])))
    assert len(found) == len(says)
    assert all(text in one for text, one in zip(says, found, strict=True))


# All together

NAMES = st.sampled_from(["baseline", "head_l8", "scalar_l12"])
RUNS = st.builds(
    run,
    NAMES,
    st.none() | st.sampled_from([0.0, 1.0, 0.25, 0.5]) | st.floats(0, 1),
    loss=st.none() | st.sampled_from([1.0, 2.0]) | st.floats(-10, 10),
    round=st.sampled_from(["20", "98", "r"]),
    task=st.sampled_from(["mbpp", "arc_mc_seed1", "(x)"]),
    stage=st.sampled_from(["quick", "med", "probe", ""]),
    seed=st.none() | st.integers(0, 2),
    status=st.sampled_from(["ok", "fail", "cached", ""]),
    steps=st.none() | st.integers(0, 100),
    n_tokens=st.none() | st.integers(0, 100),
)
DECISIONS = st.builds(
    decision,
    NAMES,
    st.sampled_from(["pruned", "promoted", "flagged"]),
    st.sampled_from(
        ["", "quick_drop -1.00pp < -0.50pp", "best_quick x +1.00pp < promote_gate +0.80pp", "1 < 2"]
    ),
    round=st.sampled_from(["20", "98", "r"]),
    task=st.sampled_from(["mbpp", "arc_mc_seed1"]),
    stage=st.sampled_from(["quick", "med"]),
)
HISTORIES = st.builds(
    History,
    st.lists(RUNS, max_size=25),
    st.lists(DECISIONS, max_size=5),
    st.lists(st.builds(row, DELTAS), max_size=5),
)


@given(HISTORIES)
def test_audit__every_finding_rests_on_records_that_are_there(history: History) -> None:
    found = audit(history)
    known = {each.source for each in (*history.runs, *history.decisions, *history.ledger)}
    assert set(found.findings) == set(Check)
    for check, findings in found.findings.items():
        for finding in findings:
            assert finding.check is check
            assert finding.text.isprintable()
            assert finding.records
            assert set(finding.records) <= known
    json.dumps(reporting.as_json(found), allow_nan=False)
    assert reporting.as_text(found).count("\n  - ") == sum(map(len, found.findings.values()))
    assert reporting.as_markdown(found).count("\n- ") == sum(map(len, found.findings.values()))


@given(HISTORIES)
def test_audit__is_the_same_every_time(history: History) -> None:
    assert reporting.as_json(audit(history)) == reporting.as_json(audit(history))


def test_audit__of_nothing() -> None:
    assert not any(audit(History()).findings.values())
    assert reporting.as_text(audit(History())).startswith("0 findings on 0 runs")


def test_explanations__of_every_check() -> None:
    assert set(EXPLANATIONS) == set(Check)


# How it is told


@pytest.mark.parametrize(
    ("records", "cited"),
    [
        (["a:3", "a:1", "a:2", "a:9", "a:1"], "a:1-3, 9"),
        (["a:1", "b:1"], "a:1; b:1"),
        (["job 7", "job 8", "job 12"], "jobs 7-8, 12"),
        (["job 7", "job 7 (decision)"], "job 7; job 7 (decision)"),
        ([], ""),
    ],
)
def test_cite(records: list[str], cited: str) -> None:
    assert reporting.cite(records) == cited


@given(st.sets(st.integers(0, 10**12)))
def test_cite__names_every_line(numbers: set[int]) -> None:
    cited = reporting.cite([f"a:{number}" for number in numbers])
    spelled: set[int] = set()
    for part in cited.removeprefix("a:").split(", ") if cited else []:
        first, _, last = part.partition("-")
        spelled |= {int(first), int(last or first)} | (
            set(range(int(first), int(last or first) + 1))
            if int(last or first) - int(first) < 10**6
            else set()
        )
    assert spelled == numbers


def test_markdown__text_is_only_text() -> None:
    finding = Finding(Check.LABELS, "task_a <b> [x](y) |", ["f|_:1"])
    found = audit(History())
    found.findings[Check.LABELS].append(finding)
    assert r"- task\_a \<b\> \[x\](y) \|" in reporting.as_markdown(found)


def test_share() -> None:
    assert (share(72, 237), share(0, 0)) == ("72 of 237 (30.4 %)", "0 of 0")
