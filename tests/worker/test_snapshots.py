"""A later stage that continues from an earlier one's end gives the bits of a run from scratch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.worker.factories import make_job
from tests.worker.test_training import SEEDED, Clock, Recorder, examples, fresh_model
from worker.job import Budget, Evaluation, JobSpec, OptimizerConfig
from worker.snapshot_files import keep_snapshots, remove_snapshots, snapshot_path
from worker.snapshots import Snapshots
from worker.training import Run, start_run, train


def run_stage(spec: JobSpec, snapshots: Snapshots) -> tuple[Run, int]:
    run = start_run(spec, fresh_model())
    snapshots.restore(spec, run)
    started_from = run.progress.step
    train(run, spec, *examples(), Recorder(), Clock())
    return run, started_from


def without_times(evaluations: list[Evaluation]) -> list[Evaluation]:
    return [evaluation.model_copy(update={"seconds": 0.0}) for evaluation in evaluations]


@pytest.mark.parametrize("quick_steps", [4, 5])  # on the evaluation grid, and off it
@pytest.mark.parametrize("future_seed", [None, SEEDED])
def test_restore__continued_equals_from_scratch(
    tmp_path: Path, quick_steps: int, future_seed: object
) -> None:
    quick, med = (make_job(steps=steps, future_seed=future_seed) for steps in (quick_steps, 8))  # type: ignore[arg-type]
    scratch, from_step = run_stage(med, Snapshots(tmp_path / "none"))
    assert from_step == 0
    snapshots = Snapshots(tmp_path)
    run, _ = run_stage(quick, snapshots)
    snapshots.save(quick, run)
    continued, from_step = run_stage(med, snapshots)
    assert from_step == quick_steps
    assert without_times(continued.progress.evaluations) == without_times(scratch.progress.evaluations)
    assert continued.progress.tokens == scratch.progress.tokens
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
    snapshots = Snapshots(tmp_path)
    quick = make_job(steps=4)
    run, _ = run_stage(quick, snapshots)
    snapshots.save(quick, run)
    assert not snapshots.restore(make_job(**({"steps": 8} | other)), start_run(quick, fresh_model()))  # type: ignore[arg-type]


def test_trajectory__of_a_schedule_that_depends_on_length_is_its_own() -> None:
    cosine = OptimizerConfig(schedule="cosine")
    assert make_job(steps=4, optimizer=cosine).trajectory != make_job(steps=8, optimizer=cosine).trajectory
    assert make_job(steps=4).trajectory == make_job(steps=8).trajectory


def test_remove_snapshots(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    quick = make_job(steps=2)
    run, _ = run_stage(quick, snapshots)
    snapshots.save(quick, run)
    remove_snapshots(tmp_path, [quick.trajectory, "unknown"])
    assert list((tmp_path / "snapshots").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 torn"])
def test_restore__unreadable_means_from_scratch(tmp_path: Path, content: bytes) -> None:
    snapshots = Snapshots(tmp_path)
    job = make_job(steps=4)
    path = snapshot_path(tmp_path, job.trajectory)
    path.parent.mkdir()
    path.write_bytes(content)
    assert not snapshots.restore(job, start_run(job, fresh_model()))
    assert not path.exists()


def test_keep_snapshots__drops_the_rest(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    for name in ("a.pt", "a.123.tmp", "b.pt", "c.123.tmp"):
        (tmp_path / "snapshots" / name).touch()
    keep_snapshots(tmp_path, {"a"})
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == {
        "a.pt",
        "a.123.tmp",
    }  # one may be in writing
