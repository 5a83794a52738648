"""A whole round through the command line: its results, again, interrupted, and by a separate worker."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import save_file

from model import ModelShape, random_state_dict
from tests.acceptance.conftest import FSQ, Fsq, environment_in, lasting, records_of, write_round


class Whole(NamedTuple):
    """A round that nothing disturbed."""

    path: Path
    home: Path
    done: subprocess.CompletedProcess[str]

    @property
    def env(self) -> dict[str, str]:
        return {"FSQ_HOME": str(self.home)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The small round, run once; to be read only."""
    folder = tmp_path_factory.mktemp("whole")
    path, home = write_round(folder), folder / "home"
    done = subprocess.run(
        [FSQ, "run", path],
        env=environment_in(home),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Whole(path, home, done)


def test_run__whole_round(fsq: Fsq, whole: Whole) -> None:
    done, home = whole.done, whole.home
    assert done.returncode == 0, done.stderr
    records = records_of(fsq, env=whole.env)
    arms = {(record["stage"], record["config"]) for record in records if record["stage"] != "decision"}
    assert ("quick", "baseline") in arms
    assert not {config for _, config in arms} & {"noop"}
    decisions = {r["config"]: r["status"] for r in records if r.get("decided_stage") == "quick"}
    assert decisions["noop"] == "no_op"
    assert decisions["l1"] in {"promoted", "pruned"}
    assert "small: finished" in done.stdout
    for name in ("_small_records.jsonl", "_summary_small.txt"):
        assert str(home / "results" / name) in done.stdout
        assert (home / "results" / name).stat().st_size > 0
    assert list((home / "snapshots").iterdir()) == []
    assert (home / "runs/small/s4/quick/baseline/seed0/log.txt").read_text().count(" job ") >= 1


def test_run__again_trains_nothing_and_says_so(fsq: Fsq, home: Path, tmp_path: Path, whole: Whole) -> None:
    shutil.copytree(whole.home, home)
    before = records_of(fsq)
    logs = sorted((log, log.stat().st_mtime_ns) for log in home.rglob("log.txt"))
    assert logs
    again = fsq("run", whole.path)
    assert again.returncode == 0
    assert "known already" in again.stderr
    assert records_of(fsq) == before
    renamed = fsq("run", write_round(tmp_path, round="renamed"))
    assert renamed.returncode == 0
    assert {r["status"] for r in records_of(fsq, "renamed") if r["stage"] != "decision"} == {"cached"}
    assert sorted((log, log.stat().st_mtime_ns) for log in home.rglob("log.txt")) == logs


def test_run__killed_and_run_again(
    fsq: Fsq, environment: dict[str, str], home: Path, tmp_path: Path, whole: Whole
) -> None:
    """kill -9 in the middle: nothing of it stays behind, and the records are those of an undisturbed run.

    At more instants: tests/faults and tests/chaos.
    """
    path = write_round(tmp_path)
    with subprocess.Popen([FSQ, "run", path], env=environment, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: running_after(home / "fsq.db", 1))
        child = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        process.kill()
    again = fsq("run", path)
    assert again.returncode == 0, again.stderr
    for pid in map(int, child.stdout.split()):
        assert not is_alive(pid)
    assert lasting(records_of(fsq)) == lasting(records_of(fsq, env=whole.env))


def test_run__interrupted_ends_with_130_and_continues(
    fsq: Fsq, environment: dict[str, str], home: Path, tmp_path: Path
) -> None:
    path = write_round(tmp_path, stages=[{"name": "quick", "steps": 100, "eval_every": 50}])
    with subprocess.Popen(
        [FSQ, "run", path],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # the tests may run in the background of a script, where shells have interrupts ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        wait_until(lambda: running_after(home / "fsq.db", 1))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "interrupted; the running job goes back to the queue"
    assert fsq("run", path).returncode == 0


def test_work__drains_what_was_submitted(fsq: Fsq, tmp_path: Path) -> None:
    assert fsq("submit", write_round(tmp_path)).returncode == 0
    status = fsq("status")
    assert "small" in status.stdout
    assert "1 queued" in status.stdout
    done = fsq("work", "--drain")
    assert done.returncode == 0, done.stderr
    assert "job started" in done.stderr
    for line in done.stderr.splitlines():
        assert "round=small" in line, line
        assert "job='s4 quick " in line or "job='s4 med " in line, line
    assert "decision=no_op job='s4 quick noop seed 0'" in done.stderr
    assert "small  finished" in fsq("status").stdout
    assert "noop seed 0 quick: no_op" in fsq("status", "small").stdout


def test_run__failed_jobs_end_with_1(fsq: Fsq, tmp_path: Path) -> None:
    """Every job of this round diverges."""
    path = write_round(tmp_path, optimizer={"lr": 1e12, "grad_clip": 0.0})
    done = fsq("run", path)
    assert done.returncode == 1
    assert "diverged: " in done.stdout
    assert "the quick baseline failed: diverged" in fsq("status", "small").stdout


def running_after(database: Path, done: int) -> bool:
    """Whether a job is running and `done` have ended."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            states = [state for (state,) in connection.execute("SELECT state FROM jobs")]
    except sqlite3.OperationalError:
        return False
    return "running" in states and states.count("done") >= done


def wait_until(condition: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_run__same_records_on_another_database_and_among_modules_of_the_same_names(
    fsq: Fsq, tmp_path: Path, whole: Whole
) -> None:
    """Modules of the current folder are not imported."""
    for name in ("model.py", "tasks.py", "torch.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the current folder')")
    assert fsq("run", write_round(tmp_path), cwd=tmp_path).returncode == 0
    assert lasting(records_of(fsq)) == lasting(records_of(fsq, env=whole.env))


def test_run__checkpoint_that_changed_is_refused(fsq: Fsq, tmp_path: Path) -> None:
    shape = ModelShape.random(2, 64, 256)
    save_file(random_state_dict(shape, 0), tmp_path / "w.safetensors")
    path = write_round(tmp_path, model={"checkpoint": "w.safetensors", "tokenizer": "bytes"})
    assert fsq("submit", path).returncode == 0
    save_file(random_state_dict(shape, 1), tmp_path / "w.safetensors")
    done = fsq("work", "--drain")
    assert "the checkpoint changed since the round was submitted" in done.stderr
    assert fsq("run", path).returncode == 4
