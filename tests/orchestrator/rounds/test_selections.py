"""Variants taken over from rounds that have ended: the pure choice, and the engine on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from db.session import Database
from db.tables import RoundState
from orchestrator import engine, interventions
from orchestrator.errors import BadRound, NotFound
from orchestrator.findings.records import records
from orchestrator.rounds import stored_round
from orchestrator.rounds.chains import Decided, choose
from orchestrator.verdicts import Verdict
from orchestrator.views import forecast, progress
from tests.orchestrator.factories import NOW, Rig, resolve, result, round_data
from tests.orchestrator.rounds.test_chains import BLOCKED, WAITING, WINNERS, states
from worker.job import JobResult, Outcome

DECIDED = [
    Decided("a", Verdict.PROMOTED, (0.01,)),
    Decided("a", Verdict.REJECTED, (-0.03,)),
    Decided("b", Verdict.PROMOTED, (0.004,)),
    Decided("c", Verdict.CONFIRMED, (0.02,)),
    Decided("d", Verdict.REJECTED, (0.0,)),
    Decided("e", Verdict.UNDECIDED),
    Decided("f", Verdict.PROMOTED, (0.004,)),
]


@pytest.mark.parametrize(
    ("where", "top", "expected"),
    [
        ("promoted", None, ["c", "b", "f", "a"]),  # a by its mean, -0.01, not by its better seed
        ("promoted", 2, ["c", "b"]),
        ("confirmed", None, ["c"]),
        ("any", 3, ["c", "b", "f"]),
        ("any", None, ["c", "b", "f", "d", "a"]),
    ],
)
def test_choose(where: Any, top: int | None, expected: list[str]) -> None:
    assert choose(DECIDED, where, top, {}) == expected


def test_choose__one_of_those_that_compute_the_same() -> None:
    assert choose(DECIDED, "promoted", 2, {"c": "b"}) == ["c", "f"]
    assert choose(DECIDED, "confirmed", None, {"c": "b"}) == ["c"]  # b was not


def test_choose__one_with_a_run_without_a_number_comes_last() -> None:
    """What is left of it would flatter it: that seed may have done worst."""
    lucky = [Decided("x", Verdict.PROMOTED, (0.1,)), Decided("x", Verdict.PRUNED, is_unnumbered=True)]
    whole = [Decided("y", Verdict.PROMOTED, (0.07, 0.08))]
    assert choose([*lucky, *whole], "promoted", 1, {}) == ["y"]
    assert choose([*lucky, *whole], "promoted", None, {}) == ["y", "x"]


def test_choose__every_run_counts_alike() -> None:
    x = [Decided("x", Verdict.PROMOTED, (0.2, 0.2)), Decided("x", Verdict.PROMOTED, (0.01,) * 5)]
    y = [Decided("y", Verdict.PROMOTED, (0.1,) * 2), Decided("y", Verdict.PROMOTED, (0.1,) * 5)]
    assert choose([*x, *y], "promoted", 1, {}) == ["y"]


def test_choose__from_nothing() -> None:
    assert choose([], "any", None, {}) == []


def variants_of(database: Database, name: str) -> list[str]:
    with database.read() as session:
        return list(stored_round.resolve(stored_round.find(session, name)).canonical)


def run_r1(rig: Rig) -> None:
    """l1 and l2 both reach med, l2 as the better one."""
    rig.run_all({("quick", "l1"): 0.3, ("quick", "l2"): 0.3, ("med", "l1"): 0.3, ("med", "l2"): 0.4})


def test_submit__variants_of_a_round_that_still_runs(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    check = resolve(tmp_path, round="check", seeds=[1, 2], variants=WINNERS)
    rig.submit(check)
    assert states(database)["check"] == (WAITING, "waits for round r1", 0)  # `after` goes without saying
    with database.read() as session:
        assert progress.round_(session, "check").funnel.planned is None

    run_r1(rig)

    assert variants_of(database, "check") == ["l2"]
    assert states(database)["check"][0] is RoundState.FINISHED
    with database.write() as session:  # once it has its variants, it is still the same round
        assert engine.submit(session, check, "", by="me", now=NOW).is_new is False


@pytest.mark.parametrize(("seeds", "is_doubtful"), [([0], True), ([3], False), ([3, 0], True)])
def test_submit__what_was_selected_on_these_seeds_and_examples(
    database: Database, tmp_path: Path, seeds: list[int], is_doubtful: bool
) -> None:
    """The best of several, measured again where it was chosen; by a round in between, too."""
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    run_r1(rig)
    rig.submit(resolve(tmp_path, round="between", seeds=[0], variants=WINNERS))
    rig.run_all({("quick", "l2"): 0.3, ("med", "l2"): 0.4})
    check = resolve(tmp_path, round="check", seeds=seeds, variants=WINNERS | {"from": "between"})
    with database.read() as session:
        warnings = " ".join(forecast.of_round(session, check).warnings)
    assert ("l2 was the best of several on the same examples with seed 0:" in warnings) is is_doubtful
    rig.submit(check)
    rig.run_all({("quick", "l2"): 0.3, ("med", "l2"): 0.4})
    found = [one for one in records(database, "check") if one["config"] == "l2" and one["seed"] == seeds[-1]]
    assert [one["stage"] for one in found] == ["quick", "decision", "med", "decision"]
    assert {"selected_of_n" in one["caveats"] for one in found} == {is_doubtful}
    with database.write() as session:
        assert engine.submit(session, check, "", by="me", now=NOW).is_new is False


def test_submit__what_was_taken_over_whole_was_not_selected(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    run_r1(rig)
    for name, selection in (("all", {"from": "r1", "where": "any"}), ("best", WINNERS)):
        by_hand = {"mine": {"layer_start": 2}}
        rig.submit(resolve(tmp_path, round=name, variants=[by_hand, selection]))
        with database.read() as session:
            selected_on = stored_round.resolve(stored_round.find(session, name)).facts.selected_on
        places = (("s4", 0),)
        assert selected_on == (
            {} if name == "all" else {"l2": places, "mine": places}
        )  # whatever it is called


def test_submit__variants_of_an_ended_round_beside_others(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    run_r1(rig)

    own = {"l2": {"layer_start": 2, "clip": 3.0}}
    rig.submit(resolve(tmp_path, round="check", variants=[own, WINNERS | {"top": 2}]))

    assert variants_of(database, "check") == ["l2", "l2.r1", "l1"]  # another l2 than its own


@pytest.mark.parametrize(
    ("where", "expected"),
    [("promoted", ["l2", "l1"]), ("any", ["l2", "l1"]), ("confirmed", ["l1"])],
)
def test_submit__a_confirmation_ranks_nothing(
    database: Database, tmp_path: Path, where: str, expected: list[str]
) -> None:
    """l2 is the better one at med, which selects; only l1 is confirmed."""
    confirm = {"name": "confirm", "steps": 8, "eval_every": 2}
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path, stages=[*round_data()["stages"], confirm]))
    scores = {("quick", "l1"): 0.3, ("quick", "l2"): 0.3, ("med", "l1"): 0.3, ("med", "l2"): 0.4}
    rig.run_all(scores | {("confirm", "l1"): 0.9})

    rig.submit(resolve(tmp_path, round="check", variants={"from": "r1", "where": where}))

    assert variants_of(database, "check") == expected
    with pytest.raises(BadRound, match="the stage 'confirm' of r1 confirms"):
        rig.submit(resolve(tmp_path, round="last", variants={"from": "r1", "by": "confirm"}))


def test_submit__nothing_to_take_over(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.submit(resolve(tmp_path, round="check", variants=WINNERS))
    rig.submit(resolve(tmp_path, round="mixed", variants=[WINNERS, "head_l8"]))

    rig.run_all({})

    reason = "round r1 has no variant of the kind asked for"
    assert states(database)["check"] == (BLOCKED, reason, 0)
    assert variants_of(database, "mixed") == ["head_l8"]


def test_start__variants_of_a_round_that_is_run_again_just_then(database: Database, tmp_path: Path) -> None:
    """It says what to do, and that is right later, too."""
    rig = Rig(database)
    rig.submit(resolve(tmp_path, round="source", stages=round_data()["stages"][:1]))
    rig.run_next(result(0.2))
    rig.run_next(result(0.5))
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too large"))
    rig.submit(resolve(tmp_path, round="before", seeds=[9]))
    after = {"round": "before", "when": "any"}
    rig.submit(resolve(tmp_path, round="r3", seeds=[8], after=after, variants={"from": "source"}))
    with database.write() as session:
        assert interventions.retry(session, "source", by="me", now=NOW).changed
        assert interventions.cancel(session, "before", by="me", now=NOW).changed
    assert states(database)["r3"] == (
        BLOCKED,
        "it was to start while round source, which its variants come from, ran again; once that has ended, "
        "`fsq retry r3`",
        0,
    )
    rig.run_all({})
    with database.write() as session:
        assert interventions.retry(session, "r3", by="me", now=NOW).changed
    assert states(database)["r3"][0] is RoundState.ACTIVE


@pytest.mark.parametrize(
    ("selection", "after", "message"),
    [
        (WINNERS | {"by": "long"}, None, "the round r1 has no stage 'long'; it has quick, med"),
        (WINNERS, {"round": "r0"}, "the round r1 has not ended; only the one named in `after` is waited for"),
    ],
)
def test_submit__variants_that_cannot_come(
    database: Database, tmp_path: Path, selection: Any, after: Any, message: str
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, round="r0"))
    rig.submit(resolve(tmp_path))
    with pytest.raises(BadRound, match=message):
        rig.submit(resolve(tmp_path, round="check", variants=selection, after=after))


def test_submit__variants_of_an_unknown_round(database: Database, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no round named 'r1'"):
        Rig(database).submit(resolve(tmp_path, round="check", variants=WINNERS))


def test_read__variants_from_itself(tmp_path: Path) -> None:
    with pytest.raises(BadRound, match="the round 'r1' cannot take its variants from itself"):
        resolve(tmp_path, variants=[WINNERS], after={"round": "r0"})


def test_read__unknown_key_of_a_selection(tmp_path: Path) -> None:
    with pytest.raises(BadRound, match=r"variants.0.were: unknown key 'were'; did you mean 'where'\?"):
        resolve(tmp_path, round="check", variants=[{"from": "r1", "were": "promoted"}])


def test_with_selected__a_name_that_is_taken_twice(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    run_r1(rig)
    own = {"l2": {"layer_start": 2, "clip": 3.0}, "l2.r1": {"layer_start": 2, "clip": 4.0}}

    rig.submit(resolve(tmp_path, round="check", variants=[own, WINNERS]))

    assert variants_of(database, "check") == ["l2", "l2.r1", "l2.r1.2"]


def test_with_selected__a_name_that_the_control_arm_has(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, variants={"aa": {"layer_start": 1}}))
    rig.submit(resolve(tmp_path, round="r2", variants=[{"from": "r1"}], control="aa"))
    order = rig.run_all({("quick", "aa"): 0.9, ("med", "aa"): 0.9})
    assert states(database)["r2"][0] is RoundState.FINISHED
    assert {key.variant for key in order[-4:]} <= {"baseline", "aa", "aa.r1"}
    with database.read() as session:
        row = stored_round.find(session, "r2")
        assert [variant.name for variant in stored_round.resolve(row).spec.named] == ["aa.r1"]
