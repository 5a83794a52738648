"""Chained rounds through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.conftest import Fsq, records_of, write_round


def states(fsq: Fsq) -> dict[str, str]:
    return {row["round"]: row["state"] for row in json.loads(fsq("status", "--json").stdout)["rounds"]}


def test_work__runs_a_chain_in_order(fsq: Fsq, tmp_path: Path) -> None:
    assert fsq("submit", write_round(tmp_path)).returncode == 0
    second = write_round(tmp_path, round="second", seeds=[1], after={"round": "small"})
    waiting = fsq("run", second)
    assert (waiting.returncode, waiting.stderr.splitlines()[-1]) == (
        0,
        "second: waits for round small; `fsq work --drain` runs both",
    )
    third = write_round(tmp_path, round="third", seeds=[2])
    assert fsq("submit", third, "--after", "second").returncode == 0
    assert states(fsq) == {"small": "active", "second": "waiting", "third": "waiting"}

    assert fsq("work", "--drain").returncode == 0

    assert set(states(fsq).values()) == {"finished"}
    ends = [
        max(r["finished_at"] for r in records_of(fsq, name) if r["stage"] != "decision")
        for name in states(fsq)
    ]
    assert ends == sorted(ends)


def test_cancel__blocks_the_rounds_after(fsq: Fsq, tmp_path: Path) -> None:
    assert fsq("submit", write_round(tmp_path)).returncode == 0
    second = write_round(tmp_path, round="second", after={"round": "small"})
    assert fsq("submit", second).returncode == 0

    done = fsq("cancel", "small", "--json")
    assert (done.returncode, json.loads(done.stdout)["changed"]) == (0, True)

    assert fsq("status", "second").stdout.startswith("second: blocked (round small was cancelled)")
    blocked = fsq("run", second)
    assert (blocked.returncode, blocked.stderr.splitlines()[-1]) == (
        1,
        "second: blocked: round small was cancelled",
    )
    assert fsq("retry", "second").stdout == "second: still blocked; `fsq status second` says why\n"


def test_run__a_round_that_was_cancelled_before_it_began_is_not_done(fsq: Fsq, tmp_path: Path) -> None:
    assert fsq("submit", write_round(tmp_path)).returncode == 0
    second = write_round(tmp_path, round="second", after={"round": "small"})
    assert fsq("submit", second).returncode == 0
    assert fsq("cancel", "second").returncode == 0
    cancelled = fsq("run", second)
    assert cancelled.returncode == 1  # though no job of it has failed
    assert "it was cancelled; `fsq retry second` lets it go on" in cancelled.stderr


def test_submit__after_an_unknown_round(fsq: Fsq, tmp_path: Path) -> None:
    done = fsq("submit", write_round(tmp_path), "--after", "nothing")

    assert done.returncode == 3
    assert done.stderr == "fsq: there is no round named 'nothing' (`fsq status` lists them)\n"
