"""Decisions, and what their reasons say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import decisions
from orchestrator.history.entries import History
from tests.orchestrator.audit.made import decision, run, texts


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


@pytest.mark.parametrize(
    ("relation", "below", "at", "above"),
    [
        ("<", True, False, False),
        ("is below", True, False, False),
        ("<=", True, True, False),
        (">", False, False, True),
        (">=", False, True, True),
        ("reaches", False, True, True),
    ],
)
def test_statement__at_its_threshold(relation: str, below: bool, at: bool, above: bool) -> None:
    said = decisions.statement(f"d_acc +1.00pp {relation} +0.30pp")
    assert said is not None
    assert (said.holds(0.29), said.holds(0.31)) == (below, above)
    assert said.holds(0.1 + 0.2) is said.holds(0.3) is at  # the first is a little more in binary


def decided(
    reason: str, accuracy: float, status: str = "pruned", round_: str = "77", **changes: Any
) -> list[str]:
    runs = [run(accuracy=0.5, round=round_), run("head_l8", accuracy, round=round_)]
    one = decision("head_l8", status, reason, round=round_, **changes)
    return texts(decisions.judge(History(runs, [one])))


def test_decisions__in_order() -> None:
    assert decided("quick_drop -0.75pp < -0.50pp", 0.4925) == []
    assert decided("+0.75 pp reaches +0.10 pp", 0.5075, "promoted") == []
    assert decided("quick_drop -2.00pp < -0.50pp", 0.48, cooldown_until=85) == []
    assert decided("quick_drop -0.75 < -0.50", 0.4925) == []
    assert decided("quick_drop -0.0050 < 0.0030", 0.495) == []
    assert decided("quick_drop 0.0020 < 0.0030", 0.502) == []


@pytest.mark.parametrize(
    ("reason", "accuracy", "status", "says"),
    [
        ("quick_drop -2.00pp < -0.50pp", 0.4925, "pruned", "while the records say -0.75 pp"),
        ("quick_drop -0.0075pp < -0.0050pp", 0.4925, "pruned", "while the records say -0.75 pp"),
        ("quick_d_acc=-0.0075 < prune_pp=-0.0050", 0.4925, "pruned", "while the records say -0.75 pp"),
        ("quick_drop -0.25pp < -0.50pp", 0.4975, "pruned", "which is not so"),
        ("quick_drop -0.0025 < -0.0050", 0.4975, "pruned", "which is not so"),
        ("+0.75 pp reaches +0.10 pp", 0.5075, "pruned", "which says the opposite"),
        ("+0.00 pp is below +0.10 pp", 0.5, "promoted", "which says the opposite"),
        ("quick_drop -2.00pp < -0.50pp", 0.48, "pruned", "no cooldown; the rule gives until round 85"),
    ],
)
def test_decisions__contradicted(reason: str, accuracy: float, status: str, says: str) -> None:
    (found,) = decided(reason, accuracy, status)
    assert says in found


def test_decisions__a_cooldown_for_nothing() -> None:
    (found,) = decided("quick_drop -0.75pp < -0.50pp", 0.4925, cooldown_until=85)
    assert found.endswith("a cooldown until round 85; the rule gives none")


def test_decisions__no_cooldowns_before_round_77() -> None:
    assert decided("quick_drop -2.00pp < -0.50pp", 0.48, round_="76") == []
    assert decided("quick_drop -2.00pp < -0.50pp", 0.48, round_="night") == []


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
    assert (
        found.text
        == "round 1 t quick b seed 0: -0.75 pp is below the stated -0.50 pp, and nothing was decided"
    )


@pytest.mark.parametrize(
    ("round_", "reason", "unpruned"),
    [
        ("63", "quick_drop -0.75pp < -0.50pp", ["a"]),
        ("63", "quick_drop -0.0075 < -0.0050", ["a"]),
        ("76", "quick_drop -0.75pp < -0.50pp", ["a"]),
        ("77", "quick_drop -0.75pp < -0.50pp", ["a", "b"]),
    ],
)
def test_decisions__thresholds_of_a_task_and_of_a_round(
    round_: str, reason: str, unpruned: list[str]
) -> None:
    """Those of rounds 62 to 76 hold for one task each; a delta of -0.25 pp is below none of them."""
    punc: dict[str, Any] = {"round": round_, "task": "punc_seed0"}
    arc: dict[str, Any] = {"round": round_, "task": "arc_mc_seed0"}
    runs = [
        run(accuracy=0.5, **punc),
        run("said", 0.4925, **punc),
        run("a", 0.492, **punc),
        run("c", 0.4975, **punc),
        run(accuracy=0.5, **arc),
        run("b", 0.492, **arc),
    ]
    found = texts(decisions.judge(History(runs, [decision("said", "pruned", reason, **punc)])))
    assert [text.partition(":")[0].split()[-1] for text in found] == unpruned
    assert all("-0.80 pp is below the stated -0.50 pp, and nothing was decided" in text for text in found)


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
        "round 27 mbpp_low a seed 0 went on at +0.25 pp; the gate was +0.40 pp",
        "round 27 mbpp_low b seed 0 did not go on at +0.50 pp; the gate was +0.40 pp",
    ]


@pytest.mark.parametrize(
    ("round_", "task", "deltas", "went_on", "says"),
    [
        ("34", "punc_mbpp", [0.0009, 0.002], "a", ["a went on at +0.09 pp", "b did not go on at +0.20 pp"]),
        ("34", "punc_mbpp", [0.001, 0.0009], "a", []),
        ("35", "punc_hotpot", [0.004, 0.005], "b", []),
        (
            "35",
            "punc_hotpot",
            [0.004, 0.005],
            "a",
            ["a went on at +0.40 pp; it was not among the best 1", "b did not go on"],
        ),
        ("36", "punc_squad", [0.006, 0.007], "b", []),
        ("36", "punc_squad", [0.006, 0.004], "ab", ["b went on at +0.40 pp; the gate was +0.50 pp"]),
        ("37", "punc_agnews", [0.0029, 0.003], "ab", ["a went on at +0.29 pp; the gate was +0.30 pp"]),
        ("38", "punc_squad[L768]", [0.009], "a", ["a went on at +0.90 pp; the gate was +1.00 pp"]),
        ("39", "punc_mbpp", [0.02, 0.01, 0.005], "ab", []),
        (
            "39",
            "punc_mbpp",
            [0.02, 0.01, 0.005],
            "ac",
            ["b did not", "c went on at +0.50 pp; it was not among the best 2"],
        ),
        ("40", "punc_squad", [0.006, 0.005], "ab", []),
        ("40", "hotpot_longctx_qafter", [0.003, 0.002], "a", []),
        (
            "40",
            "mbpp_longctx_qafter",
            [0.006, 0.005],
            "ab",
            ["b went on at +0.50 pp; it was not among the best 1"],
        ),
        ("41", "punc_squad", [-0.01], "a", []),
        ("42", "punc_mbpp", [0.008, 0.007], "ab", ["b went on at +0.70 pp; the gate was +0.80 pp"]),
        ("42", "punc_hotpot", [0.005, 0.007], "ab", []),
        ("42", "mbpp_longctx", [0.004, 0.0039], "a", []),
    ],
)
def test_decisions__against_the_gates_of_rounds_33_to_42(
    round_: str, task: str, deltas: list[float], went_on: str, says: list[str]
) -> None:
    of: dict[str, Any] = {"round": round_, "task": task, "seed": None}
    runs = [run(accuracy=0.5, **of), *(run(c, 0.5 + d, **of) for c, d in zip("abc", deltas, strict=False))]
    runs += [run(config, 0.6, stage="med", **of) for config in went_on]
    found = texts(decisions.judge(History(runs)))
    assert len(found) == len(says)
    assert all(text in one for text, one in zip(says, found, strict=True))


def test_decisions__own_rounds_are_judged_by_their_own_rule() -> None:
    """Whatever the round is called, the gates and cooldowns of the predecessor are not its own."""
    own: dict[str, Any] = {"round": "29", "is_own": True}
    runs = [run(**own), run("a", 0.505, **own), run("b", 0.48, **own), run("b", 0.6, stage="med", **own)]
    pruned = [
        decision("a", "pruned", "+0.50 pp is below +1.00 pp", **own),
        decision("b", "pruned", "-2.00 pp is below +1.00 pp", **own),
    ]
    assert texts(decisions.judge(History(runs, pruned))) == []
    wrong = decision("a", "pruned", "+0.50 pp is below +0.10 pp", **own)
    (found,) = decisions.judge(History(runs, [wrong]))
    assert found.text.endswith("which is not so")
