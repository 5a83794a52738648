"""Files for people, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import FsqError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under its name only once it is complete; raises FsqError."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise FsqError(f"{path} cannot be written: {error.strerror}") from error
