"""A later stage that continues from an earlier one's end gives the bits of a run from scratch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from tests.worker.child.factories import (
    QUOTA,
    SEEDED,
    Clock,
    Recorder,
    examples,
    fresh_model,
    run_stage,
    without_times,
)
from tests.worker.factories import make_job
from worker.child.run import Run, start_run
from worker.child.snapshots import FORMAT, Keeping, Snapshots
from worker.child.training import train
from worker.job import Budget, JobSpec, OptimizerConfig
from worker.snapshot_files import make_room, remove_snapshots, remove_stale, snapshots_of


@pytest.mark.parametrize("quick_steps", [4, 5])  # on the evaluation grid, and off it
@pytest.mark.parametrize("future_seed", [None, SEEDED])
def test_restore__continued_equals_from_scratch(
    tmp_path: Path, quick_steps: int, future_seed: object
) -> None:
    quick, med = (make_job(steps=steps, future_seed=future_seed) for steps in (quick_steps, 8))  # type: ignore[arg-type]
    scratch, from_step = run_stage(med, Snapshots(tmp_path / "none", QUOTA))
    assert from_step == 0
    snapshots = Snapshots(tmp_path, QUOTA)
    run, _ = run_stage(quick, snapshots)
    snapshots.save(quick, run)
    continued, from_step = run_stage(med, snapshots)
    assert from_step == quick_steps
    assert without_times(continued.progress.evaluations) == without_times(scratch.progress.evaluations)
    assert continued.progress.tokens == scratch.progress.tokens
    assert continued.progress.continued_from == quick_steps
    for name, parameter in scratch.model.named_parameters():
        assert torch.equal(parameter, continued.model.get_parameter(name)), name
    if continued.future_seed is not None and scratch.future_seed is not None:
        assert torch.equal(
            continued.future_seed.get_parameter("alpha"), scratch.future_seed.get_parameter("alpha")
        )


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"eval_every": 3},
        {"optimizer": OptimizerConfig(lr=2e-3)},
        {"future_seed": SEEDED},
        {"budget": Budget(steps=3, eval_every=2)},  # shorter than what is stored
    ],
)
def test_restore__nothing_of_another_trajectory(tmp_path: Path, other: dict[str, object]) -> None:
    snapshots = Snapshots(tmp_path, QUOTA)
    quick = make_job(steps=4)
    run, _ = run_stage(quick, snapshots)
    snapshots.save(quick, run)
    assert not snapshots.restore(make_job(**({"steps": 8} | other)), start_run(quick, fresh_model()))  # type: ignore[arg-type]


def test_trajectory__of_a_schedule_that_depends_on_length_is_its_own() -> None:
    cosine = OptimizerConfig(schedule="cosine")
    assert make_job(steps=4, optimizer=cosine).trajectory != make_job(steps=8, optimizer=cosine).trajectory
    assert make_job(steps=4).trajectory == make_job(steps=8).trajectory


def test_restore__brings_back_what_fitted_and_the_random_numbers(tmp_path: Path) -> None:
    snapshots, job = Snapshots(tmp_path, QUOTA), make_job()
    run = start_run(job, fresh_model())
    run.micro_batch, run.evaluation_tokens, run.recompute = 2, 100, True
    torch.rand(3)
    snapshots.save(job, run)
    drawn = torch.rand(3)
    again = start_run(job, fresh_model())
    assert snapshots.restore(job, again)
    assert (again.micro_batch, again.evaluation_tokens, again.recompute) == (2, 100, True)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize(("seconds", "within"), [(5.0, False), (5.5, True)])
def test_restore__only_what_ended_before_the_seconds_of_the_job(
    tmp_path: Path, seconds: float, within: bool
) -> None:
    snapshots, job = Snapshots(tmp_path, QUOTA), make_job(budget=Budget(seconds=9.0))
    run = start_run(job, fresh_model())
    run.progress.seconds = 5.0
    snapshots.save(job, run)
    other = make_job(budget=Budget(seconds=seconds))
    assert snapshots.restore(other, start_run(other, fresh_model())) is within


def test_restore__nothing_in_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots, job = Snapshots(tmp_path, QUOTA), make_job()
    snapshots.save(job, start_run(job, fresh_model()))
    monkeypatch.setattr("worker.child.snapshots.FORMAT", FORMAT + 1)
    assert not snapshots.restore(job, start_run(job, fresh_model()))


def test_remove_snapshots(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, QUOTA)
    quick = make_job(steps=2)
    run, _ = run_stage(quick, snapshots)
    snapshots.save(quick, run)
    remove_snapshots(tmp_path, [quick.trajectory, "unknown"])
    assert list((tmp_path / "snapshots").iterdir()) == []


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "empty": b"",
        "torn": content[:middle],
        "one bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }
    path.write_bytes(damaged[how])


@pytest.mark.parametrize("how", ["empty", "torn", "one bit"])
def test_restore__damaged_means_from_scratch(tmp_path: Path, how: str) -> None:
    snapshots = Snapshots(tmp_path, QUOTA)
    quick = make_job(steps=4)
    run, _ = run_stage(quick, snapshots)
    snapshots.save(quick, run)
    (path,) = snapshots_of(tmp_path, quick.trajectory)
    damage(path, how)
    assert not snapshots.restore(quick, start_run(quick, fresh_model()))
    assert not path.exists()


def test_restore__what_the_disk_does_not_give_means_from_scratch(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, QUOTA)
    quick = make_job(steps=4)
    run, _ = run_stage(quick, snapshots)
    snapshots.save(quick, run)
    (path,) = snapshots_of(tmp_path, quick.trajectory)
    path.unlink()
    path.mkdir()
    assert not snapshots.restore(quick, start_run(quick, fresh_model()))


def test_remove_stale__leaves_what_it_was_not_told_of(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    alive, dead = os.getpid(), unused_pid()
    for name in ("a.d.pt", f"a.{alive}.tmp", f"a.{dead}.tmp", "b.d.pt", f"c.{alive}.tmp"):
        (tmp_path / "snapshots" / name).touch()
    remove_stale(tmp_path, {"b", "c"})
    kept = {path.name for path in (tmp_path / "snapshots").iterdir()}
    assert kept == {"a.d.pt", f"a.{alive}.tmp"}  # one may be in writing


def unused_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


@pytest.mark.parametrize(
    ("quota", "left"), [(3000, {"old", "new", "mine"}), (1300, {"mine"}), (999, {"old", "new"})]
)
def test_make_room__drops_the_oldest_of_others(tmp_path: Path, quota: int, left: set[str]) -> None:
    (tmp_path / "snapshots").mkdir()
    for age, name in enumerate(("new", "mine", "old")):
        path = tmp_path / "snapshots" / f"{name}.d.pt"
        path.write_bytes(b"x" * 1000)
        os.utime(path, (1e9 - age, 1e9 - age))
    fits = make_room(tmp_path, "mine", 1000, quota)
    assert fits == (quota >= 1000)
    kept = {path.name.partition(".")[0] for path in (tmp_path / "snapshots").iterdir()}
    assert kept - {"mine"} == left - {"mine"}


def test_save__nothing_where_the_quota_is_too_small(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quick = make_job(steps=2)
    snapshots = Snapshots(tmp_path, 1000)
    run, _ = run_stage(quick, snapshots)
    snapshots.save(quick, run)
    assert snapshots_of(tmp_path, quick.trajectory) == []
    assert "more than the quota of 1000" in caplog.text


class Killed(BaseException):
    """What a kill does to a run, as far as it can be seen from within."""


@pytest.mark.parametrize("future_seed", [None, SEEDED])
@pytest.mark.parametrize("kill_at", [3, 5, 7])
def test_keeping__an_attempt_goes_on_from_the_last_evaluation(
    tmp_path: Path, future_seed: object, kill_at: int
) -> None:
    job = make_job(steps=8, future_seed=future_seed)  # type: ignore[arg-type]
    scratch, _ = run_stage(job, Snapshots(tmp_path / "none", QUOTA))
    snapshots = Snapshots(tmp_path, QUOTA)
    run = start_run(job, fresh_model())
    with pytest.raises(Killed):
        train(
            run,
            job,
            *examples(),
            KilledAt(kill_at),
            keep=Keeping(snapshots, job, run, clock=lambda: 0.0),
            clock=Clock(),
        )

    again, started_from = run_stage(job, snapshots)

    assert started_from == kill_at - 1  # evaluations are at 2, 4, 6
    assert again.progress.continued_from == 0  # an earlier attempt, not an earlier stage
    assert without_times(again.progress.evaluations) == without_times(scratch.progress.evaluations)
    for name, parameter in scratch.model.named_parameters():
        assert torch.equal(parameter, again.model.get_parameter(name)), name


class KilledAt(Recorder):
    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def progressed(self, step: int, seconds: float, loss: float) -> None:
        if step == self._step:
            raise Killed


def test_keeping__costs_at_most_a_twentieth(tmp_path: Path) -> None:
    job = make_job(steps=2)
    kept: list[float] = []
    now = 1000.0

    class Slow(Snapshots):
        def save(self, spec: JobSpec, run: Run) -> None:
            nonlocal now
            kept.append(now)
            now += 2.0

    keep = Keeping(Slow(tmp_path, QUOTA), job, start_run(job, fresh_model()), clock=lambda: now)
    for _ in range(20):
        keep()
        now += 10.0
    assert kept == [1000.0, 1042.0, 1084.0, 1126.0, 1168.0]
