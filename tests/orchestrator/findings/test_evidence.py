"""Intervals, noise floor, confirmation and many variants at once, from the store to what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from db.session import Database
from db.tables import Decision, Job
from orchestrator import engine
from orchestrator.evidence import Pair, of_pairs
from orchestrator.findings import caveats, past_runs
from orchestrator.findings.exports import lines
from orchestrator.findings.records import Record, records
from orchestrator.rounds import selections
from orchestrator.rounds.reading import parse_round
from orchestrator.rounds.resolved_round import CONTROL_SEEDS
from orchestrator.rounds.spec import MOST_FRESH
from orchestrator.search import JobKey
from orchestrator.statistics.examples import Outcomes, compare
from orchestrator.statistics.seeds import estimate
from orchestrator.terminal import status
from orchestrator.views import lookup, progress
from orchestrator.web import shown_decisions
from tests.orchestrator.factories import NOW, Rig, resolve, round_data
from worker.job import BASELINE, RESULT_VERSION
from worker.preparation import Unusable

OF = (4,) * 10
STAGES = round_data()["stages"]
CONFIRM = [*STAGES, {"name": "confirm", "steps": 8, "eval_every": 2, "confirm": {"seeds": 5}}]


def outcomes(right: int) -> Outcomes:
    return Outcomes(tuple(min(4, max(0, right - 4 * example)) for example in range(10)), OF)


def exported(database: Database, name: str = "r1") -> dict[tuple[str, str, int, str], Record]:
    """Records by stage, variant, seed and kind."""
    return {
        (
            one.get("decided_stage") or one["stage"],
            one["config"],
            one["seed"],
            "decision" if one["stage"] == "decision" else "job",
        ): one
        for one in records(database, name)
    }


def decided(database: Database) -> dict[tuple[str, str, int], str]:
    with database.read() as session:
        return {(one.stage, one.variant, one.seed): one.decision for one in session.scalars(select(Decision))}


def summary(database: Database, name: str = "r1") -> str:
    return "\n".join(lines(database, name, "summary"))


def test_spread__only_within_one_version_of_results() -> None:
    payload = {
        "examples_digest": "e",
        "model_facts": {"digest": "m"},
        "model": {"dtype": "float32"},
        "budget": {"steps": 4},
        "task": {"batch_size": 2},
        "optimizer": {"lr": 0.1},
    }
    runs = [
        (str(n), payload, {"metrics": {"best_val_tok_acc": n / 10}, "result_version": version})
        for n, version in enumerate([RESULT_VERSION, RESULT_VERSION, RESULT_VERSION - 1, None, None])
    ]
    groups = past_runs._groups(payload, runs, "best_val_tok_acc")
    assert groups == [[0.0, 0.1], [0.2], [0.3, 0.4]]


def test_of_pairs__one_seed_and_several() -> None:
    prints = ("a", "b")
    pairs = [Pair(seed, 0.1, outcomes(24), outcomes(20), prints) for seed in (0, 1)]
    one, both = of_pairs(pairs[:1]), of_pairs(pairs)
    found = compare(outcomes(24), outcomes(20), prints)
    assert found is not None
    assert (one.d_acc_ci, one.p_value) == (pytest.approx(found.interval), found.p_value)
    over = estimate([0.1, 0.1], [found.standard_error] * 2)
    assert (both.d_acc_ci, both.p_value) == (pytest.approx(over.interval()), over.p_value)
    unknown = of_pairs([Pair(0, 0.1, None, None, ("", ""))])
    assert (unknown.d_acc_ci, unknown.p_value, unknown.seeds[0].d_acc) == (None, None, 0.1)


def test_threshold__the_same_interval_wherever_the_delta_is_shown(database: Database, tmp_path: Path) -> None:
    rig = Rig(database, by_example=True)
    resolved = resolve(tmp_path)
    round_id = rig.submit(resolved)
    rig.run_all({("quick", "l1"): 0.3, ("med", "l1"): 0.2})
    found = exported(database)
    prints = [resolved.job(JobKey("s4", "quick", variant, 0)).fingerprint for variant in ("l1", BASELINE)]
    expected = compare(outcomes(12), outcomes(8), (prints[0], prints[1]))
    assert expected is not None
    interval = pytest.approx(list(expected.interval))
    decision, job = found["quick", "l1", 0, "decision"], found["quick", "l1", 0, "job"]
    assert (decision["d_acc_ci"], job["d_acc_ci"]) == (interval, interval)
    assert (decision["p_value"], decision["n_tried"], decision["seeds"]) == (expected.p_value, 2, [0])
    assert "not_significant" in found["med", "l1", 0, "decision"]["caveats"]
    shown = f"[{100 * expected.interval.low:+.2f}, {100 * expected.interval.high:+.2f}] pp"
    assert shown in summary(database)
    with database.read() as session:
        views = progress.decisions(session, "r1", lookup.Slice()).items
        assert shown in status.round_text(lookup.rounds(session, lookup.Slice()).items[0], [], views)
        on_page = shown_decisions.of_task(session, round_id, resolved, "s4")
        assert on_page.shown[0].d_acc_ci == pytest.approx(tuple(expected.interval))
        assert on_page.chart.deltas[0].interval == on_page.shown[0].d_acc_ci


def test_threshold__over_seeds_and_over_all_variants(database: Database, tmp_path: Path) -> None:
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path, seeds=[0, 1, 2], stages=STAGES[:1]))
    rig.run_all({("quick", "l1", 0): 0.3, ("quick", "l1", 1): 0.25, ("quick", BASELINE, 2): 0.225})
    found = exported(database)["quick", "l1", 2, "decision"]
    assert {key: found[key] for key in ("n_seeds", "seed_pattern", "positive_seeds", "n_tried")} == {
        "n_seeds": 3,
        "seed_pattern": "2+/0=/1-",
        "positive_seeds": 2,
        "n_tried": 2,
    }
    assert found["d_acc_mean"] == pytest.approx(0.125 / 3)
    assert found["sign_test_p"] == pytest.approx(0.5)
    assert 0 < found["q_value"] <= 1
    assert (found["adjusted_by"], found["run_sd_degrees"]) == ("holm", 2)
    text = summary(database)
    assert "l1 at quick: mean +4.17 pp over 3 seeds, sd 6.29 pp, 2+/0=/1-, 95 % t interval" in text
    assert "gains among the 2 tried at quick, at most 5% of them false: none" in text
    assert "run-to-run spread of the baseline at quick: 1.44 pp (2 degrees of freedom" in text


def test_threshold__seeds_that_passed_are_no_sample_of_seeds(database: Database, tmp_path: Path) -> None:
    rig = Rig(database, by_example=True)
    resolved = resolve(tmp_path, seeds=[0, 1, 2])
    round_id = rig.submit(resolved)
    passed = {(stage, "l1", 0): 0.5 for stage in ("quick", "med")}
    two = {(stage, "l2", seed): 0.5 + seed / 40 for stage in ("quick", "med") for seed in (0, 1)}
    rig.run_all(passed | two)
    found = exported(database)
    for kind in ("decision", "job"):
        caveats_of_it = found["med", "l1", 0, kind]["caveats"]
        assert {"selected_seeds", "single_seed"} <= set(caveats_of_it)
        assert "single_seed" not in found["med", "l2", 0, kind]["caveats"]
        assert not {"selected_seeds", "single_seed"} & set(found["quick", "l1", 0, kind]["caveats"])
    for variant, n in (("l1", 1), ("l2", 2)):
        told = found["med", variant, 0, "decision"]
        assert (told["n_seeds"], told["d_acc_mean"] is None, told["n_tried"]) == (n, False, 2)
        assert {told[key] for key in ("q_value", "adjusted_p", "sign_test_p", "d_acc_t_ci")} == {None}
    assert "over 2 seeds, sd 1.77 pp, 2+/0=/0-, only those that an earlier stage promoted" in summary(
        database
    )
    with database.read() as session:
        doubts = shown_decisions.of_task(session, round_id, resolved, "s4").doubts
    assert list(doubts[caveats.Caveat.SELECTED_SEEDS]) == ["l1", "l2"]


def test_evidence__one_decision_on_all_seeds(database: Database, tmp_path: Path) -> None:
    rig = Rig(database, by_example=True)
    round_id = rig.submit(resolve(tmp_path, prune={"rule": "evidence", "max_seeds": 3}, stages=STAGES[:1]))
    order = rig.run_all(
        {("quick", "l1", seed): 0.3 + 0.025 * seed for seed in range(3)} | {("quick", "l2"): 0.1}
    )
    assert [(key.variant, key.seed) for key in order][:5] == [
        (BASELINE, 0),
        ("l1", 0),
        (BASELINE, 1),
        ("l1", 1),
        (BASELINE, 2),
    ]
    assert decided(database) == {
        ("quick", "l1", 0): "promoted",
        ("quick", "l2", 0): "pruned",
        ("quick", "noop", 0): "no_op",
    }
    found = exported(database)
    assert found["quick", "l1", 0, "decision"]["seeds"] == [0, 1, 2]
    assert found["quick", "l1", 0, "decision"]["d_acc"] == pytest.approx(0.125)
    assert found["quick", "l1", 2, "job"]["d_acc_ci"] is not None
    assert [key.seed for key in order if key.variant == "l2"] == [0, 1, 2]
    assert "single_seed" not in found["quick", "l2", 0, "decision"]["caveats"]
    with database.read() as session:
        assert progress.arms(session, ["r1"])["r1"].total == 3
        job = session.scalars(select(Job).where(Job.variant == "l1", Job.seed == 2)).one()
        on_job = shown_decisions.on_job(session, lookup.job(session, job.id))
        assert on_job is not None
        assert on_job.seeds == "3 seeds, 3+/0=/0-"
    with database.write() as session:
        assert engine.advance(session, round_id, now=NOW) == engine.NOTHING


def test_baseline_seeds__as_many_as_the_square_root_of_the_variants(
    database: Database, tmp_path: Path
) -> None:
    variants = {f"l1_{i}": {"layer_start": 1, "alpha_init": -float(i)} for i in range(1, 6)}
    rig = Rig(database)
    rig.submit(resolve(tmp_path, variants=variants, baseline_seeds="auto"))
    order = rig.run_all({("quick", "l1_2"): 0.3, ("med", "l1_2"): 0.3, ("quick", BASELINE, 2): 0.25})
    last = [(key.stage, key.variant, key.seed) for key in order[-4:]]
    assert last == [(stage, BASELINE, seed) for seed in (1, 2) for stage in ("quick", "med")]
    assert exported(database)["quick", "l1_2", 0, "decision"]["run_sd_degrees"] == 2
    # another round on the same examples need not run them again, and its spread rests on both
    rig.submit(resolve(tmp_path, round="r2", variants=variants, baseline_seeds=5))
    again = rig.run_all({("quick", "l1_2"): 0.3, ("med", "l1_2"): 0.3})
    assert {(key.variant, key.seed) for key in again} == {(BASELINE, 3), (BASELINE, 4)}
    assert exported(database, "r2")["quick", "l1_2", 0, "decision"]["run_sd_degrees"] == 4


def test_control__its_promotions_are_the_noise_floor(database: Database, tmp_path: Path) -> None:
    resolved = resolve(tmp_path, control="aa", seeds=[0, 1], stages=STAGES[:1])
    arm = resolved.job(JobKey("s4", "quick", "aa", 1))
    baseline = resolved.job(JobKey("s4", "quick", BASELINE, 1))
    assert (arm.future_seed, arm.seed, baseline.seed) == (None, 1 + CONTROL_SEEDS, 1)
    assert arm.model_copy(update={"seed": 1}).fingerprint == baseline.fingerprint
    rig = Rig(database, by_example=True)
    rig.submit(resolved)
    rig.run_all({("quick", "aa", 1): 0.3})
    assert "noise floor: the baseline under another seed was promoted 1 of 2 times" in summary(database)
    found = exported(database)["quick", "aa", 1, "decision"]
    assert (found["status"], found["mode"], found["q_value"], found["n_tried"]) == (
        "promoted",
        "no_fs",
        None,
        2,
    )
    with database.read() as session:
        floor = progress.round_(session, "r1").noise_floor
        assert floor is not None
        assert (floor.judged, floor.promoted) == (2, 1)
    child = resolve(tmp_path, round="r2", variants=[{"from": "r1"}, "scalar_l8_trainable"])
    with database.read() as session:
        assert [one.name for one in selections.with_selected(session, child).spec.named] == [
            "scalar_l8_trainable"
        ]


@pytest.mark.parametrize(("gain", "verdict"), [(0.6, "confirmed"), (0.0, "rejected")])
def test_confirm__fresh_seeds_on_unseen_examples(
    database: Database, tmp_path: Path, gain: float, verdict: str
) -> None:
    resolved = resolve(tmp_path, stages=CONFIRM)
    first = resolved.spec.first_fresh_seed
    rig = Rig(database, by_example=True)
    rig.submit(resolved)
    scores: dict[Any, float] = {(stage, "l1"): 0.4 for stage in ("quick", "med")}
    for seed in range(5):
        scores["confirm", "l1", first + seed] = 0.2 + gain + 0.025 * (seed % 2)
    rig.run_all(scores)
    found = exported(database)
    last = found["confirm", "l1", first, "decision"]
    assert last["status"] == verdict
    assert last["seeds"] == [first + seed for seed in range(5)]
    assert "false-discovery level" in last["reason"]
    assert not {"selected_of_n", "single_seed"} & set(last["caveats"])
    assert "single_seed" not in found["confirm", "l1", first, "job"]["caveats"]  # one of five
    assert {"selected_of_n", "single_seed"} <= set(found["med", "l1", 0, "decision"]["caveats"])
    assert (last["d_acc_ci"][0] > 0) == (verdict == "confirmed")
    assert last["q_value"] == pytest.approx(last["p_value"])
    assert (last["n_tried"], last["q_level"], found["med", "l1", 0, "decision"]["q_level"]) == (1, 0.05, None)
    gains = f"s4/l1 (q {last['q_value']:.3f})" if verdict == "confirmed" else "none"
    assert f"gains among the 1 tried at confirm of s4, at most 5% of them false: {gains}" in summary(database)
    assert found["med", "l1", 0, "decision"]["status"] == "promoted"
    val = resolved.report("s4", "confirm").val
    assert f"  confirm: {val.kept} other examples, {val.n_tokens} answer tokens; majority answer" in summary(
        database
    )
    with database.read() as session:
        view = progress.round_(session, "r1")
        assert (view.confirm_stage, view.funnel.promoted) == ("confirm", 1)
        assert view.funnel.confirmed == (verdict == "confirmed")


def test_confirm__another_round_measures_anew(tmp_path: Path) -> None:
    one, other = (resolve(tmp_path, round=name, stages=CONFIRM) for name in ("r1", "r2"))
    fresh = [set(of.search.confirmation.seeds) for of in (one, other) if of.search.confirmation]
    assert fresh[0].isdisjoint(fresh[1])
    known = {one.job(key).fingerprint for key in one.largest_plan() if key.stage == "confirm"}
    assert known.isdisjoint(other.job(key).fingerprint for key in other.largest_plan())
    assert resolve(tmp_path, round="r1", stages=CONFIRM).digest == one.digest


@given(st.text("abc123", min_size=1, max_size=20))
def test_confirm__its_seeds_are_seeds_and_no_control_arm_s(name: str) -> None:
    spec = parse_round(yaml.safe_dump(round_data(round=name, stages=CONFIRM)).encode(), "r.yaml")[0]
    assert 1000 <= spec.first_fresh_seed < CONTROL_SEEDS - 2 * MOST_FRESH


def test_confirm__neither_its_examples_nor_its_seeds_are_those_of_the_selection(tmp_path: Path) -> None:
    from model.tokenizers import get_tokenizer
    from tasks import build

    resolved = resolve(tmp_path, stages=CONFIRM)
    seen, unseen = (
        build(resolved.job(JobKey("s4", stage, BASELINE, 0)).task, get_tokenizer("bytes"))
        for stage in ("med", "confirm")
    )
    assert {one.id for one in unseen[1]}.isdisjoint({one.id for one in (*seen[0], *seen[1])})
    assert len(unseen[1]) == 10
    assert unseen[2].digest == resolved.report("s4", "confirm").digest != seen[2].digest
    assert resolved.search.confirmation
    assert set(resolved.search.confirmation.seeds).isdisjoint(resolved.spec.seeds)


def test_confirm__refused_where_the_data_cannot_give_unseen_examples(tmp_path: Path) -> None:
    letters = str.maketrans("0123456789", "abcdefghij")
    rows = [f"{n:>04}, ".translate(letters) * 24 for n in range(60)]
    (tmp_path / "train.txt").write_text("\n".join(rows[:40]))
    (tmp_path / "val.txt").write_text("\n".join(rows[45:]))
    data = {"train": str(tmp_path / "train.txt"), "val": str(tmp_path / "val.txt")}
    task = {"kind": "punctuation", "data": data, "train": 20, "val": 8, "notes": {"fill": False}}
    assert resolve(tmp_path, stages=STAGES, tasks={"p": task}).facts.tasks["p"].val.kept == 8
    with pytest.raises(Unusable, match="the data do not give the confirm stage a validation set"):
        resolve(tmp_path, stages=CONFIRM, tasks={"p": task})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [CONFIRM[2], *STAGES]}, "a stage that confirms comes last"),
        ({"stages": [{"name": "confirm", "steps": 4}]}, "a stage that confirms comes last"),
        ({"control": "aa", "variants": {"aa": {"layer_start": 1}}}, "'aa' is the name of the control arm"),
        ({"prune": {"rule": "evidence", "max_seed": 3}}, "unknown key 'max_seed'; did you mean 'max_seeds'?"),
        ({"prune": {"rule": "nearest"}}, "there is no prune rule 'nearest'"),
        ({"baseline_seeds": 0}, "baseline_seeds"),
    ],
)
def test_round__what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    from orchestrator.errors import BadRound

    with pytest.raises(BadRound, match=message.replace("?", r"\?")):
        resolve(tmp_path, **changes)


def test_evidence__is_bounded_by_what_was_right_of_each_example(database: Database, tmp_path: Path) -> None:
    """Without the stored examples no bound is known, and every seed would be bought."""
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path, prune={"rule": "evidence"}, stages=STAGES[:1]))
    order = rig.run_all({("quick", "l1"): 1.0, ("quick", "l2"): 0.1}, default=0.6)
    assert [key.seed for key in order if key.variant == "l1"] == [0, 1]
    assert [key.seed for key in order if key.variant == "l2"] == [0]
    decisions = {
        one: record["reason"] for (_, one, _, kind), record in exported(database).items() if kind != "job"
    }
    assert "2 seeds, 90% bounds [" in decisions["l1"]
    assert "1 seed, 90% bounds [" in decisions["l2"]
