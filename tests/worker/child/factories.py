"""Jobs on a tiny real model, trained here or as the training process does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path

import torch

from model import RWKV7, FutureSeedSettings, get_tokenizer
from tasks import Example, build
from tests.model.model_samples import live_model
from tests.worker.factories import task_options
from worker.child.jobs import run_job
from worker.child.reporting import ConnectionReport
from worker.child.resources import Resources
from worker.child.run import Run, start_run
from worker.child.snapshots import Snapshots
from worker.child.training import train
from worker.job import Evaluation, JobResult, JobSpec

SEEDED = FutureSeedSettings(layer_start=1, alpha_lr=1e-2)
QUOTA = 2**30


@dataclass
class Recorder:
    evaluations: list[Evaluation] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    alive_signs: int = 0

    def evaluated(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def progressed(self, step: int, seconds: float, loss: float) -> None:
        self.steps.append(step)

    def alive(self) -> None:
        self.alive_signs += 1


class Clock:
    """Advances a second with each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def examples() -> tuple[Sequence[Example], Sequence[Example]]:
    train_set, val_set, _ = build(task_options(), get_tokenizer("bytes"))
    return train_set, val_set


def fresh_model() -> RWKV7:
    """Not by the rules of initialisation: they leave most gradients at zero, and mistakes in them unseen."""
    return live_model(vocab=256, head_size=64)


def train_job(spec: JobSpec, model: RWKV7 | None = None) -> tuple[Run, Recorder]:
    recorder = Recorder()
    run = start_run(spec, model or fresh_model())
    train(run, spec, *examples(), recorder, clock=Clock())
    return run, recorder


def run_stage(spec: JobSpec, snapshots: Snapshots) -> tuple[Run, int]:
    run = start_run(spec, fresh_model())
    snapshots.restore(spec, run)
    started_from = run.progress.step
    train(run, spec, *examples(), Recorder(), clock=Clock())
    return run, started_from


def without_times(evaluations: list[Evaluation]) -> list[Evaluation]:
    return [evaluation.model_copy(update={"seconds": 0.0}) for evaluation in evaluations]


def run_in_child(spec: JobSpec, home: Path) -> JobResult:
    """Runs a job as the training process does."""
    ours, theirs = Pipe()
    with ours, theirs:
        resources = Resources(torch.device("cpu"), home / "cache", 2**40)
        return run_job(spec, resources, Snapshots(home, 2**30), ConnectionReport(theirs))
