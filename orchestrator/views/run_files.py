"""What jobs leave on disk."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import NotFound
from orchestrator.views.shapes import JobView
from worker.job import LOG_FILE, RUNS, run_dir


def log_tail(home: Path, job: JobView, size: int) -> str:
    """The last `size` bytes of a job's log, from the start of a line on; raises NotFound.

    Never of a file outside the folder of the runs, wherever links lead.
    """
    folder = (home / RUNS).resolve()
    path = (home / run_dir(job.round, job.task, job.stage, job.config, job.seed) / LOG_FILE).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise NotFound(f"job {job.id} has no log on this machine")
    try:
        content, start = _end(path, size)
    except OSError as error:
        raise NotFound(f"the log of job {job.id} cannot be read: {error.strerror}") from None
    text = content.decode("utf-8", "replace")
    _, newline, rest = text.partition("\n")
    return rest if start and newline else text


def _end(path: Path, size: int) -> tuple[bytes, int]:
    """The last bytes of a file, and where they start."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - size)
        file.seek(start)
        return file.read(size), start
