"""A run that is stopped early, from the round file to the records, in real processes."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.conftest import Fsq, records_of, write_round

PAST = {"grid": {"alpha_init": [-1.0, -2.0, -3.0]}}
NEW = {"new": {"layer_start": 1, "norm": False}}
ROUND = {
    "stages": [{"name": "quick", "steps": 8, "eval_every": 2}, {"name": "med", "steps": 12, "eval_every": 2}],
    "prune": {"min_delta": 0.5},  # out of reach, as is known after two steps
}


def test_run__a_variant_that_will_not_reach_the_threshold_is_stopped(
    fsq: Fsq, home: Path, tmp_path: Path
) -> None:
    past = fsq("run", write_round(tmp_path, **ROUND, round="past", variants=PAST))
    early_stop = {"error_rate": 0.25, "min_runs": 3}
    done = fsq("run", write_round(tmp_path, **ROUND, variants=NEW, early_stop=early_stop))
    whole = fsq("run", write_round(tmp_path, **ROUND, round="whole", variants=NEW))

    assert (past.returncode, done.returncode, whole.returncode) == (0, 0, 0), done.stderr
    baseline, job, decision = records_of(fsq)
    assert (baseline["status"], baseline["steps"]) == ("cached", 8)
    assert (job["status"], job["steps"], job["stopped_at"]) == ("stopped", 2, 2)
    assert (job["best_val_tok_acc"], job["d_acc"], decision["d_acc"]) == (None, None, None)
    assert job["caveats"] == decision["caveats"] == ["stopped_early"]
    assert decision["status"] == "pruned"
    assert decision["reason"].startswith("stopped: at step 2, ")
    assert decision["reason"].endswith("(error rate 0.25, from 3 pairs of whole runs)")
    assert "stopped: at step 2, " in done.stdout
    assert "ended: stopped: at step 2, " in (home / "runs/small/s4/quick/new/seed0/log.txt").read_text()
    assert "stopped" in fsq("status", "small").stdout
    assert list((home / "snapshots").iterdir()) == []
    again = next(one for one in records_of(fsq, "whole") if one["config"] == "new")
    assert (again["fingerprint"], again["status"], again["steps"]) == (job["fingerprint"], "ok", 8)
