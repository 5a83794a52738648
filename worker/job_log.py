"""One job's log file: bounded in size however much a job prints, its end read when the job died."""

from __future__ import annotations

import os
from pathlib import Path

KEPT = 4  # of a log too long, a quarter of the limit is kept at each end


class JobLog:
    """The log of one attempt, which goes on where the last attempt's ended.

    Raises OSError where the folder cannot be written to.
    """

    def __init__(self, path: Path, limit: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            self._begin = file.tell()
        self._path = path
        self._limit = limit

    def bound(self) -> None:
        """Cuts the middle out of a log that has outgrown the limit. The child goes on appending meanwhile."""
        size = self._path.stat().st_size
        if size <= self._limit:
            return
        keep = self._limit // KEPT
        note = f"\n[... {size - 2 * keep} bytes cut out: the log outgrew its limit ...]\n".encode()
        with self._path.open("r+b") as file:
            file.seek(size - keep)
            end = file.read(keep)
            file.seek(keep)
            file.truncate()
            file.write(note + end)
        if self._begin > keep:
            self._begin = keep + len(note) + max(0, self._begin - (size - keep))

    def end(self, length: int) -> str:
        """What the attempt wrote last, at most `length` bytes; nothing where the log is gone."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._begin, size - length))
                return file.read(length).decode(errors="replace")
        except OSError:
            return ""
