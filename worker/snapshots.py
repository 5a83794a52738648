"""Where a run stopped, so that a later stage goes on from there: weights, optimizer, progress.

One file per trajectory, written atomically. A snapshot only ever saves time: a run that finds none, or one
that does not fit, trains from scratch and ends with the same bits.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from worker.job import Evaluation, JobSpec
from worker.snapshot_files import snapshot_path
from worker.training import Progress, Run

log = logging.getLogger(__name__)


class Snapshots:
    """The snapshots under one home folder."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def save(self, spec: JobSpec, run: Run) -> None:
        """Keeps where `run` stopped, in place of an earlier snapshot of the same trajectory.

        Where it cannot be written, the log says so and the later stage trains from scratch.
        """
        path = snapshot_path(self._home, spec.trajectory)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with unfinished.open("wb") as file:
                torch.save(_as_tensors(run), file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            log.warning("no snapshot of %s: %s", spec.trajectory, error)
            unfinished.unlink(missing_ok=True)

    def restore(self, spec: JobSpec, run: Run) -> bool:
        """Puts a fresh run where the trajectory's snapshot ends, if there is one within the job's budget."""
        path = snapshot_path(self._home, spec.trajectory)
        if not path.exists():
            return False
        try:
            stored = torch.load(path, weights_only=True, map_location=run.device)
            progress = _progress(stored["progress"], spec)
        except Exception as error:  # a torn file makes torch raise almost anything
            log.warning("the snapshot %s cannot be read (%s); training from scratch", path, error)
            path.unlink(missing_ok=True)
            return False
        if not _is_within(progress, spec):
            return False
        run.model.load_state_dict(stored["model"])
        if run.future_seed is not None:
            run.future_seed.load_state_dict(stored["future_seed"])
        run.optimizer.load_state_dict(stored["optimizer"])
        run.micro_batch = stored["micro_batch"]
        run.progress = progress
        return True


def _as_tensors(run: Run) -> dict[str, Any]:
    progress = asdict(run.progress) | {
        "evaluations": [e.model_dump(mode="json") for e in run.progress.evaluations]
    }
    return {
        "model": run.model.state_dict(),
        "future_seed": run.future_seed.state_dict() if run.future_seed is not None else {},
        "optimizer": run.optimizer.state_dict(),
        "micro_batch": run.micro_batch,
        "progress": progress,
    }


def _progress(stored: dict[str, Any], spec: JobSpec) -> Progress:
    """Evaluations that only the shorter stage's end called for are left out."""
    evaluations = [Evaluation.from_json(evaluation) for evaluation in stored["evaluations"]]
    kept = [evaluation for evaluation in evaluations if spec.budget.evaluates_at(evaluation.step)]
    return Progress(**(stored | {"evaluations": kept}))


def _is_within(progress: Progress, spec: JobSpec) -> bool:
    steps, seconds = spec.budget.steps, spec.budget.seconds
    return (steps is None or progress.step <= steps) and (seconds is None or progress.seconds < seconds)
