"""How far a run has come, so that another attempt or a later stage goes on from there: weights, optimizer, progress.

One file per trajectory, written atomically and checked by its digest. A snapshot only ever saves time: a run that
finds none, or one that does not fit, trains from scratch and ends with the same bits.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from worker.child.memory import is_out_of_memory
from worker.child.run import Progress, Run
from worker.job import Evaluation, JobSpec
from worker.snapshot_files import (
    is_intact,
    make_room,
    publish,
    snapshot_folder,
    snapshots_of,
)

log = logging.getLogger(__name__)

FORMAT = 2  # of the file: a snapshot in another one is not continued
SHARE = 20  # a run trains at least so many times as long as keeping it takes: 5 % at most are spent on that


class Snapshots:
    """The snapshots under one home folder, at most `quota` bytes of them."""

    def __init__(self, home: Path, quota: int) -> None:
        self._home = home
        self._quota = quota

    def save(self, spec: JobSpec, run: Run) -> None:
        """Keeps where `run` is, in place of an earlier snapshot of the same trajectory.

        Where it cannot be written, the log says so, and whoever would go on from it trains from scratch.
        """
        unfinished = snapshot_folder(self._home) / f"{spec.trajectory}.{os.getpid()}.tmp"
        content = _as_tensors(spec, run)
        size = _size(content)
        try:
            if not make_room(self._home, spec.trajectory, size, self._quota):
                log.warning("no snapshot: %d bytes are more than the quota of %d", size, self._quota)
                return
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            publish(unfinished, self._home, spec.trajectory)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            log.warning("no snapshot of %s: %s", spec.trajectory, error)
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def has(self, spec: JobSpec) -> bool:
        """Whether this trajectory has been trained here before."""
        return bool(snapshots_of(self._home, spec.trajectory))

    def restore(self, spec: JobSpec, run: Run) -> bool:
        """Puts a fresh run where the trajectory's snapshot ends, if there is one within the job's budget."""
        for path in snapshots_of(self._home, spec.trajectory):
            stored = None
            try:
                stored = _read(path, run.device)
            except FileNotFoundError:
                pass  # let go since it was looked for: it trains from the start
            except OSError as error:
                if is_out_of_memory(error):
                    raise
                log.warning("the snapshot %s cannot be read: %s", path, error)
            if stored is not None:
                return _restore(stored, spec, run)
        return False


class Keeping:
    """Keeps a run at its evaluations, as often as costs little."""

    def __init__(
        self, snapshots: Snapshots, spec: JobSpec, run: Run, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._snapshots = snapshots
        self._spec = spec
        self._run = run
        self._clock = clock
        self._kept_at = self._took = 0.0

    def __call__(self) -> None:
        now = self._clock()
        if now - self._kept_at >= SHARE * self._took:
            self._snapshots.save(self._spec, self._run)
            self._kept_at = self._clock()
            self._took = self._kept_at - now


def _read(path: Path, device: torch.device) -> dict[str, Any] | None:
    """What a snapshot holds; None, and it is gone, when its content is not what was written.

    Raises OSError, or what torch raises for want of memory.
    """
    if is_intact(path):
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        return content
    log.warning("the snapshot %s is damaged", path)
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return None


def _restore(stored: dict[str, Any], spec: JobSpec, run: Run) -> bool:
    if stored.get("format") != FORMAT:
        return False
    progress = _progress(stored["progress"], spec)
    if not _is_within(progress, spec):
        return False
    if stored["fingerprint"] != spec.fingerprint:  # of an earlier stage, not of an earlier attempt
        progress.continued_from = progress.step
    run.model.load_state_dict(stored["model"])
    if run.future_seed is not None:
        run.future_seed.load_state_dict(stored["future_seed"])
    run.optimizer.load_state_dict(stored["optimizer"])
    run.micro_batch = stored["micro_batch"]
    run.evaluation_tokens = stored["evaluation_tokens"]
    run.recompute = stored["recompute"]
    torch.set_rng_state(stored["random"]["cpu"].cpu())
    if run.device.type == "cuda" and "cuda" in stored["random"]:
        torch.cuda.set_rng_state(stored["random"]["cuda"].cpu(), run.device)
    run.progress = progress
    return True


def _size(content: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(map(_size, content.values()))
    return sum(map(_size, content)) if isinstance(content, list | tuple) else 0


def _as_tensors(spec: JobSpec, run: Run) -> dict[str, Any]:
    progress = asdict(run.progress) | {
        "evaluations": [e.model_dump(mode="json") for e in run.progress.evaluations]
    }
    random = {"cpu": torch.get_rng_state()}
    if run.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(run.device)
    return {
        "format": FORMAT,
        "fingerprint": spec.fingerprint,
        "random": random,
        "model": run.model.state_dict(),
        "future_seed": run.future_seed.state_dict() if run.future_seed is not None else {},
        "optimizer": run.optimizer.state_dict(),
        "micro_batch": run.micro_batch,
        "evaluation_tokens": run.evaluation_tokens,
        "recompute": run.recompute,
        "progress": progress,
    }


def _progress(stored: dict[str, Any], spec: JobSpec) -> Progress:
    """Evaluations that only the shorter stage's end called for are left out, and those past a stop.

    The snapshot may be of a run that had no bounds; what is made of it must not depend on how far that came.
    """
    evaluations = [Evaluation.from_json(evaluation) for evaluation in stored["evaluations"]]
    kept = [evaluation for evaluation in evaluations if spec.budget.evaluates_at(evaluation.step)]
    if spec.early_stop is not None and (stop := spec.early_stop.stop(kept)) is not None:
        kept = [evaluation for evaluation in kept if evaluation.step <= stop.step]
    return Progress(**(stored | {"evaluations": kept}))


def _is_within(progress: Progress, spec: JobSpec) -> bool:
    steps, seconds = spec.budget.steps, spec.budget.seconds
    return (steps is None or progress.step <= steps) and (seconds is None or progress.seconds < seconds)
