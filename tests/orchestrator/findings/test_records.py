"""Records and summary of a round, whole records compared."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db.session import Database
from db.tables import Decision, Job, JobState
from orchestrator import engine, interventions
from orchestrator.errors import BrokenRound
from orchestrator.evidence import Evidence
from orchestrator.findings import caveats, doubts
from orchestrator.findings.records import Record, has_failures, records, to_jsonl
from orchestrator.search import JobKey
from orchestrator.views import progress
from orchestrator.views.lookup import Slice
from tests.orchestrator.factories import NOW, USAGE, Rig, resolve, result, round_data
from worker.job import BASELINE, RESULT_VERSION, JobResult, Outcome

PREDECESSOR_KEYS = (
    "round task stage config mode status bsz best_val_loss best_val_tok_acc run_dir error reason"
)
ADDED_KEYS = """
    seed variant_of d_acc d_loss d_acc_ci baseline_val_tok_acc final_val_tok_acc best_val_seq_acc n_val n_val_tokens
    steps tokens seconds peak_memory_bytes micro_batch fingerprint cached_from caveats started_at finished_at device
    kernel version
"""


def exported(database: Database, name: str = "r1") -> list[Record]:
    return list(records(database, name))


def test_records__whole(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    resolved = resolve(tmp_path)
    rig.submit(resolved)
    rig.run_all({("quick", "l1"): 0.5, ("med", "l1"): 0.5})
    found = exported(database)
    assert [(r["stage"], r["config"], r["status"]) for r in found] == [
        ("quick", BASELINE, "ok"),
        ("quick", "l1", "ok"),
        ("decision", "l1", "promoted"),
        ("med", BASELINE, "ok"),
        ("med", "l1", "ok"),
        ("decision", "l1", "promoted"),
        ("quick", "l2", "ok"),
        ("decision", "l2", "pruned"),
        ("decision", "noop", "no_op"),
    ]
    job = found[1]
    assert job == {
        "round": "r1",
        "task": "s4",
        "stage": "quick",
        "config": "l1",
        "variant_of": "baseline",
        "seed": 0,
        "mode": "prompt_fs",
        "bsz": 4,
        "status": "ok",
        "best_val_loss": 1.5,
        "best_val_tok_acc": 0.5,
        "run_dir": "runs/r1/s4/quick/l1/seed0",
        "error": None,
        "reason": None,
        "d_acc": 0.3,
        "d_loss": -0.3,
        "d_acc_ci": None,  # the runs of this test have no evaluations
        "protocol": resolved.job(JobKey("s4", "quick", "l1", 7)).protocol(
            RESULT_VERSION
        ),  # whatever the seed
        "d_acc_se": None,
        "p_value": None,
        "baseline_val_tok_acc": 0.2,
        "final_val_tok_acc": 0.5,
        "best_val_seq_acc": 0.25,
        "best_step": 4,
        "n_val": 10,
        "n_val_tokens": 40,
        "steps": 4,
        "stopped_at": None,
        "tokens": 400,
        "seconds": 4.0,
        "peak_memory_bytes": None,
        "micro_batch": 4,
        "padding_share": 0.1,
        "fingerprint": job["fingerprint"],
        "cached_from": None,
        "caveats": ["at_chance", "below_resolution", "not_significant", "single_seed"],
        "started_at": "2026-01-01T00:00:00.000+00:00",
        "finished_at": "2026-01-01T00:00:00.000+00:00",
        "device": "cpu",
        "kernel": "chunked",
        "version": version("fsq"),
    }
    keys = {*PREDECESSOR_KEYS.split(), *ADDED_KEYS.split()}
    assert all(keys <= set(record) for record in found)
    decision = found[5]
    assert decision["decided_stage"] == "med"
    assert decision["reason"] == "+30.00 pp reaches +0.10 pp"
    assert "selected_of_n" in decision["caveats"]
    assert found[8]["d_acc"] is None


def test_records__cached_name_their_source(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({})
    rig.submit(resolve(tmp_path, round="r2"))
    first = exported(database, "r2")[0]
    assert (first["status"], first["cached_from"]) == ("cached", "r1/s4/quick/baseline/seed0")
    assert first["best_val_tok_acc"] == 0.2
    assert first["run_dir"] == "runs/r1/s4/quick/baseline/seed0"


def test_records__failures_say_why(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_next(JobResult(outcome=Outcome.OOM, reason="too large"))
    job, *decisions = exported(database)
    assert (job["status"], job["error"], job["best_val_tok_acc"]) == ("oom", "too large", None)
    assert {d["status"] for d in decisions} == {"undecided", "no_op"}
    assert has_failures([job])


@pytest.mark.parametrize(
    ("variant", "caveat"),
    [
        (result(0.5, steps=8), "unmatched_steps"),
        (result(0.5, distinct=1), "degenerate"),
        (result(0.5, usage=USAGE.model_copy(update={"micro_batch": 2})), "shrunk_micro_batch"),
    ],
)
def test_records__caveats_of_a_run(
    database: Database, tmp_path: Path, variant: JobResult, caveat: str
) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[0, 1]))
    rig.run_next(result(0.4))
    rig.run_next(variant)
    _, job, decision = exported(database)
    assert caveat in job["caveats"]
    assert caveat in decision["caveats"]
    assert "at_chance" not in job["caveats"]


def staged(of_med: dict[str, Any], **of_quick: Any) -> list[dict[str, Any]]:
    """The stages of the factories' round, changed."""
    quick, med = round_data()["stages"]
    return [quick | of_quick, med | of_med]


@pytest.mark.parametrize(
    ("changes", "best", "of_baseline", "is_new"),
    [
        ({}, 4, 2, False),
        ({}, 6, 2, True),
        ({}, 4, 8, True),
        ({"optimizer": {"lr": 1e-3, "schedule": "cosine"}}, 4, 2, True),  # trained anew, by another schedule
        ({"prune": {"rule": "threshold", "metric": "final_val_tok_acc"}}, 4, 2, True),
        (
            {"prune": {"rule": "threshold", "metric": "best_val_seq_acc"}},
            4,
            2,
            True,
        ),  # at which step is not known
        ({"stages": staged({"eval_every": 1})}, 4, 2, True),  # other evaluations, maybe better ones
        ({"stages": staged({"eval_every": 3}, eval_every=3)}, 3, 3, True),  # that of step 4 is not among them
        ({"stages": staged({"seconds": 9, "steps": 99}, seconds=5)}, 4, 2, True),  # the clock says how many
    ],
)
def test_records__a_stage_after_which_nothing_got_better_brings_nothing_new(
    database: Database, tmp_path: Path, changes: dict[str, Any], best: int, of_baseline: int, is_new: bool
) -> None:
    """Its delta, interval and p are those of the stage before it."""
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[0, 1], variants={"l1": {"layer_start": 1}}, **changes))

    def run(accuracy: float, *, steps: int, best_step: int) -> JobResult:
        found = result(accuracy, steps=steps)
        assert found.metrics is not None
        return found.model_copy(update={"metrics": found.metrics.model_copy(update={"best_step": best_step})})

    for accuracy, best_step in ((0.4, of_baseline), (0.5, best)):
        rig.run_next(run(accuracy, steps=4, best_step=min(4, best_step)))
    for accuracy, best_step in ((0.4, of_baseline), (0.5, best)):
        rig.run_next(run(accuracy, steps=8, best_step=best_step))
    quick, med = [
        record for record in exported(database) if record.get("decided_stage") and not record["seed"]
    ]
    told = [record for record in exported(database) if record["stage"] == "med" and record["config"] == "l1"]
    assert [one["best_step"] for one in told] == [best]
    assert "nothing_new" not in quick["caveats"]
    assert ("nothing_new" in med["caveats"]) is not is_new


def test_records__single_seed_is_about_what_was_measured(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[0, 1], variants={"l1": {"layer_start": 1}}))
    rig.run_next(result(0.4))
    rig.run_next(result(0.3))
    told = [record["caveats"] for record in exported(database)[1:]]
    assert all("single_seed" in one for one in told)  # so far
    rig.run_next(result(0.4))
    rig.run_next(result(0.3))
    told = [record["caveats"] for record in exported(database) if record["config"] == "l1"]
    assert len(told) == 4
    assert not any("single_seed" in one for one in told)


def test_records__a_decision_over_seeds_has_the_doubts_of_every_run(
    database: Database, tmp_path: Path
) -> None:
    rig = Rig(database, by_example=True)
    stages, variants = [{"name": "quick", "steps": 10}], {"l1": {"layer_start": 1}}
    prune = {"rule": "top_k", "keep": 1}
    rig.submit(resolve(tmp_path, seeds=[0, 1], stages=stages, variants=variants, prune=prune))
    for outcome in (result(0.9), result(0.95), result(0.2, steps=100), result(0.9, steps=100, distinct=1)):
        rig.run_next(outcome)
    rig.run_all({})
    *_, decision = exported(database)
    assert decision["seeds"] == [0, 1]
    of_seed_1 = {"at_chance", "degenerate"}
    assert of_seed_1 <= set(decision["caveats"])
    assert not of_seed_1 & set(exported(database)[1]["caveats"])
    with database.read() as session:
        shown = progress.decisions(session, "r1", Slice()).items
    assert [list(one.caveats or ()) for one in shown] == [decision["caveats"]]


def test_records__what_is_measured_and_not_decided_yet_takes_no_doubt_away(
    database: Database, tmp_path: Path
) -> None:
    """Neither in the records nor where decisions are shown."""
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[0, 1], variants={"l1": {"layer_start": 1}}))
    for accuracy in (0.4, 0.3, 0.4):  # seed 0, and the baseline of seed 1
        rig.run_next(result(accuracy))
    for advance in (False, True):
        if advance:
            with database.write() as session:
                engine.advance(session, 1, now=NOW)
        else:
            rig.run_next(result(0.3), advance=False)
        told = [record["caveats"] for record in exported(database) if record["stage"] == "decision"]
        with database.read() as session:
            shown = progress.decisions(session, "r1", Slice()).items
        assert [list(one.caveats or ()) for one in shown] == told
        assert ["single_seed" in one for one in told] == ([False, False] if advance else [True])


def test_records__a_jobs_line_doubts_no_delta_that_is_not_on_it(database: Database, tmp_path: Path) -> None:
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path, prune={"rule": "threshold", "metric": "final_val_tok_acc"}))
    rig.run_all({})
    _, job, decision, *_ = exported(database)
    assert (job["d_acc_ci"], "not_significant" in job["caveats"]) == (None, False)
    assert "not_significant" in decision["caveats"]


def test_caveats__two_names_of_one_variant_are_no_selection(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, variants={name: {"layer_start": 1} for name in ("a", "b")}))
    rig.run_all({("quick", "a"): 0.5, ("quick", "b"): 0.5})
    of_med = [one for one in exported(database) if one.get("decided_stage") == "med"]
    assert {one["config"] for one in of_med} == {"a", "b"}
    assert not [one for one in of_med if "selected_of_n" in one["caveats"]]


def test_records__of_what_ended_stay_while_something_is_tried_again(
    database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    task = round_data()["tasks"]["s4"]
    rig.submit(resolve(tmp_path, tasks={"t1": task, "t2": task | {"blanks": 5}}))
    rig.run_next(result(0.2))
    rig.run_next(JobResult(outcome=Outcome.CRASHED, reason="signal 9"))
    rig.run_all({("quick", "l2"): 0.3})
    finished = list(records(database, "r1"))
    with database.write() as session:
        interventions.retry(session, "r1", by="me", now=NOW)
    tried_again = [one for one in finished if (one["task"], one["config"]) == ("t1", "l1")]
    assert [one["status"] for one in tried_again] == ["crashed", "undecided"]
    rest = sorted(to_jsonl(one) for one in finished if one not in tried_again)
    assert sorted(map(to_jsonl, records(database, "r1"))) == rest
    rig.run_all({})
    assert len(list(records(database, "r1"))) == len(finished)


def test_records__say_which_version_a_result_is_of(database: Database, tmp_path: Path) -> None:
    """Runs whose results differ by version are no runs of one experiment."""
    rig = Rig(database)
    rig.submit(resolve(tmp_path, variants={"l1": {"layer_start": 1}}, seeds=[0, 1, 2]))
    own = {"version": version("fsq"), "result_version": RESULT_VERSION}
    other = {"version": "0.0.9", "result_version": RESULT_VERSION - 1}
    for marks in (own, own, other, other, own, own):
        rig.run_next(result(0.2).model_copy(update=marks))
    ended = [record for record in records(database, "r1") if record["stage"] == "quick"]
    assert [record["version"] for record in ended[2:4]] == ["0.0.9", "0.0.9"]
    assert {record["version"] for record in (*ended[:2], *ended[4:])} == {version("fsq")}
    protocols = [record["protocol"] for record in ended if record["config"] == "l1"]
    assert protocols[0] == protocols[2] != protocols[1]


def test_records__doubt_a_delta_of_two_versions(database: Database, tmp_path: Path) -> None:
    """As when fsq is replaced while a round is not over."""
    rig = Rig(database)
    resolved = resolve(tmp_path, variants={"l1": {"layer_start": 1}, "l2": {"layer_start": 2}})
    rig.submit(resolved)
    own, other = {"result_version": RESULT_VERSION}, {"result_version": RESULT_VERSION - 1}
    for marks in (other, other, own):  # baseline, l1, l2
        rig.run_next(result(0.2).model_copy(update=marks))
    found = exported(database)
    doubted = {(one["config"], one["stage"]) for one in found if "mixed_versions" in one["caveats"]}
    assert doubted == {("l2", "quick"), ("l2", "decision")}
    with database.read() as session:
        on_task = doubts.on_task(session, 1, resolved, "s4", ["l1", "l2"])
        decided = session.scalars(select(Decision)).all()
    for one in decided:
        key = JobKey(one.task, one.stage, one.variant, one.seed)
        told = on_task.on(key, Evidence.from_json(one.evidence))
        assert (caveats.Caveat.MIXED_VERSIONS in told) is (one.variant == "l2")


def test_records__that_this_version_cannot_read(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_next(result(0.2))
    with database.write() as session:
        job = session.scalars(select(Job).where(Job.state == JobState.DONE)).one()
        assert job.result is not None
        job.result = job.result | {"usage": job.result["usage"] | {"colour": "red"}}
    with pytest.raises(
        BrokenRound, match=r"usage of job 1 \(s4/quick/baseline/0\) cannot be read here: colour"
    ):
        exported(database)


def test_records__a_jobs_line_says_how_sure_its_own_delta_is(database: Database, tmp_path: Path) -> None:
    rig = Rig(database, by_example=True)
    rig.submit(resolve(tmp_path))
    rig.run_all({("quick", "l1"): 0.3})
    _, job, decision, *_ = exported(database)
    assert job["p_value"] == decision["p_value"] == 0.5  # one example, won as a whole
    assert job["d_acc_se"] == pytest.approx((4**2 * 10 / 9 * 0.9) ** 0.5 / 40)


def test_records__whole_decision(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({("quick", "l1"): 0.5})
    of_jobs = (
        "best_val_loss run_dir error final_val_tok_acc best_val_seq_acc steps tokens seconds peak_memory_bytes "
        "micro_batch fingerprint cached_from started_at device kernel"
    )
    assert exported(database)[2] == dict.fromkeys(of_jobs.split()) | {
        "round": "r1",
        "task": "s4",
        "stage": "decision",
        "decided_stage": "quick",
        "config": "l1",
        "variant_of": "baseline",
        "seed": 0,
        "seeds": [0],
        "mode": "prompt_fs",
        "bsz": 4,
        "n_val": 10,
        "n_val_tokens": 40,
        "status": "promoted",
        "reason": "+30.00 pp reaches +0.10 pp",
        "metric": "best_val_tok_acc",
        "best_val_tok_acc": 0.5,
        "baseline_val_tok_acc": 0.2,
        "d_acc": 0.3,
        "d_loss": -0.3,
        "d_acc_ci": None,  # the runs of this test have no evaluations
        "p_value": None,
        "n_seeds": 1,
        "d_acc_mean": 0.3,
        "d_acc_sd": None,
        "d_acc_t_ci": None,
        "seed_pattern": "1+/0=/0-",
        "positive_seeds": 1,
        "sign_test_p": 0.5,
        "q_value": None,
        "n_tried": 2,
        "q_level": None,
        "adjusted_p": None,
        "adjusted_by": None,
        "run_sd": None,
        "run_sd_degrees": None,
        "caveats": ["at_chance", "below_resolution", "not_significant", "single_seed"],
        "finished_at": "2026-01-01T00:00:00.000+00:00",
        "version": version("fsq"),
    }


def test_records__baselines_without_a_number_have_no_spread(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path, seeds=[0, 1]))
    for _ in range(2):
        rig.run_next(JobResult(outcome=Outcome.OOM, reason="too large"))
    found = exported(database)
    assert [one["status"] for one in found if one["stage"] == "quick"] == ["oom", "oom"]
    assert {one["run_sd"] for one in found if one["stage"] == "decision"} == {None}
