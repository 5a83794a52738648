"""`fsq calibrate` on a real round: what its protocol does when there is nothing to find."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.conftest import Fsq, write_round


def test_calibrate__measures_once_and_says_what_the_round_can_tell(fsq: Fsq, tmp_path: Path) -> None:
    path = write_round(tmp_path)
    odd = fsq("calibrate", path, "--runs", "5")
    assert (odd.returncode, odd.stderr) == (
        2,
        "fsq: --runs is 5: expected an even number, half of them those of a control arm\n",
    )
    said = fsq("calibrate", path, "--runs", "4", "--searches", "10")
    assert said.returncode == 0, said.stderr
    assert "s4: 4 runs of the baseline, 10 validation examples" in said.stdout
    assert "smallest effect" in said.stdout or "no effect below" in said.stdout

    again = fsq("calibrate", path, "--runs", "4", "--searches", "10", "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    (task,) = found["tasks"]
    assert (task["runs"], task["n_val"]) == (4, 10)
    assert [rule["rule"] for rule in task["rules"]] == ["threshold", "evidence", "top_k", "halving"]
    assert all(0 <= rule["accepted"] <= rule["searches"] <= 1 for rule in task["rules"])

    jobs = json.loads(fsq("status", "small-calibration-4", "--json").stdout)["jobs"]
    assert len(jobs) == 8
    (planned,) = json.loads(fsq("plan", path, "--json").stdout)["tasks"]
    assert [stage["known"] for stage in planned["stages"].values()] == [1, 1]  # the baselines
