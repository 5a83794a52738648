"""Files for people, written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import FsqError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under its name only once it is complete, or into a device or pipe; raises FsqError."""
    unfinished = path.parent / f"{path.name}.{os.getpid()}.tmp"
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise FsqError(f"{path} cannot be written: {error.strerror}") from error
