"""A third party's prune rule, installed as users install it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import Fsq, records_of, write_round

PLUG_IN = Path(__file__).resolve().parents[2] / "examples" / "rule_plugin"


def test_plug_in__is_installed_and_decides(fsq: Fsq, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", site, PLUG_IN], check=True)
    env = {"PYTHONPATH": str(site)}
    file = write_round(tmp_path, prune={"rule": "majority", "min_delta": -1.0})

    without = fsq("plan", file)
    ran = fsq("run", file, env=env)
    decided = [record for record in records_of(fsq, env=env) if record["stage"] == "decision"]

    assert without.returncode == 2
    assert "there is no prune rule 'majority'" in without.stderr
    assert ran.returncode == 0, ran.stderr
    assert {one["reason"] for one in decided if one["status"] == "promoted"} == {"2 of 2 seeds up"}
    assert {tuple(one["seeds"]) for one in decided if one["status"] == "promoted"} == {(0, 1)}
    assert (
        "prune.off: unknown key 'off'"
        in fsq("plan", write_round(tmp_path, prune={"rule": "majority", "off": 3}), env=env).stderr
    )
