"""Records and summary of a round, whole records compared."""

from __future__ import annotations

import csv
import json
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest

from db.session import Database
from orchestrator import exports
from orchestrator.planner import JobKey
from orchestrator.records import Record, records
from orchestrator.summary import has_failures
from tests.orchestrator.factories import USAGE, Rig, resolve, result
from worker.job import BASELINE, JobResult, Outcome

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
        "protocol": resolved.job(JobKey("s4", "quick", "l1", 7)).protocol,  # whatever the seed
        "d_acc_se": None,
        "p_value": None,
        "baseline_val_tok_acc": 0.2,
        "final_val_tok_acc": 0.5,
        "best_val_seq_acc": 0.25,
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
        "caveats": ["at_chance", "below_resolution", "single_seed"],
        "started_at": "2026-01-01T00:00:00.000+00:00",
        "finished_at": "2026-01-01T00:00:00.000+00:00",
        "device": "cpu",
        "kernel": "chunked",
        "version": version("fsq"),
    }
    assert set(job) >= {*PREDECESSOR_KEYS.split(), *ADDED_KEYS.split()}
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
    assert not {"at_chance", "single_seed"} & set(job["caveats"])


def test_summary__accuracies_and_deltas_are_of_the_metric_that_decides(
    database: Database, tmp_path: Path
) -> None:
    rig = Rig(database)
    rule = {"rule": "threshold", "metric": "best_val_seq_acc", "min_delta": 0.0}
    rig.submit(resolve(tmp_path, prune=rule))
    rig.run_all({("quick", "l1"): 0.5})
    text = "\n".join(exports.lines(database, "r1", "summary"))
    assert "acc and delta: best_val_seq_acc" in text
    # a result's accuracy by sequence is half of that by token
    assert "baseline                        0 quick      10.00%          -" in text
    assert "l1                              0 quick      25.00%  +15.00 pp" in text


def test_exports__one_file_of_any_form(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({})
    ask = partial(exports.lines, database)
    written = exports.write_file(ask, "r1", "csv", tmp_path / "x.csv")
    table = list(csv.DictReader(written.read_text().splitlines()))
    assert [row["config"] for row in table] == [line["config"] for line in exported(database)]
    names = {path.name for path in exports.write_files(ask, "r1", tmp_path / "out", is_csv=True)}
    assert names == {"_r1_records.jsonl", "_r1_records.csv", "_summary_r1.txt"}


def test_exports__files_and_csv(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({("quick", "l1"): 0.5})
    jsonl, text = exports.write_files(partial(exports.lines, database), "r1", tmp_path / "out")
    table = list(csv.DictReader(exports.lines(database, "r1", "csv")))
    lines = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert jsonl.name == "_r1_records.jsonl"
    assert text.name == "_summary_r1.txt"
    assert lines == exported(database)
    assert [row["config"] for row in table] == [line["config"] for line in lines]
    summary = text.read_text()
    for expected in (
        "r1: finished",
        "l1                              0 quick      50.00%  +30.00 pp",
        "no_op (1): s4/noop",
    ):
        assert expected in summary, summary
