"""Paths as people write them. Imports nothing: `fsq status` is quick."""

from pathlib import Path


def expanded(path: Path) -> Path:
    """With ~ as somebody's home folder, if there is such a user."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path
