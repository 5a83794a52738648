"""What guessing gives."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import chance
from orchestrator.history.entries import History
from tests.orchestrator.audit.made import row, run


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
    assert found.text.startswith("round 1 t quick seed 0: all 3 arms have the accuracy 50.0000 %")
    assert found.figures == {"arms": 3, "accuracy": 0.5}
    assert not list(chance.judge(History([run(), run("a"), run("b", 0.6)])))
    assert not list(
        chance.judge(History([run(loss=2.0), run("a", loss=2.0), run("b", loss=2.0)]))
    )  # duplicates


def test_chance__own_arms_that_tie_say_themselves_whether_they_are_constant() -> None:
    arms = ("baseline", "a", "b")
    assert not list(chance.judge(History([run(config, is_own=True) for config in arms])))
    constant = [run(config, is_own=True, caveats=("degenerate",)) for config in arms]
    tie, marked = chance.judge(History(constant))
    assert "a constant answer" in tie.text
    assert marked.text.startswith("3 of 3 (100.0 %) records carry the caveat degenerate")
    assert len(list(chance.judge(History([*constant, run("c", is_own=True)])))) == 1


@pytest.mark.parametrize(
    ("task", "accuracy", "says"),
    [
        ("sudoku4_prefix", 0.07, "a guess (a token of two digits of four) is right in 6.25 %"),
        ("sudoku9_probe", 0.0135, "a guess (a token of two digits of nine) is right in 1.23 %"),
        ("protein_contact_balanced", 0.26, "a guess (a token of two bits) is right in 25.00 %"),
        ("protein_contact_seed3_discovery", 124 / 128, "(no contact anywhere) is right in 96.88 %"),
        ("protein_ss_seed1", 0.2968304843304843, "(one class for all residues) is right in 29.68 %"),
    ],
)
def test_chance__what_a_guess_gives_on_the_predecessor_s_tasks(task: str, accuracy: float, says: str) -> None:
    (found,) = chance.judge(History([run(task=task, accuracy=accuracy)]))
    assert says in found.text
    assert not list(chance.judge(History([run(task=task, accuracy=accuracy, is_own=True)])))
    assert not list(chance.judge(History([run(task=task, accuracy=0.99)])))


def test_chance__families_that_never_react_and_own_caveats() -> None:
    history = History([run(caveats=("at_chance",)), run("a", 0.6)], ledger=[row(0.0) for _ in range(5)])
    family, own = chance.judge(history)
    assert family.text == "ledger: t never reacted: the best delta is exactly zero in all 5 rows"
    assert own.text.startswith("1 of 2 (50.0 %) records carry the caveat at_chance")
