"""Where snapshots lie; apart from `worker.child.snapshots` so that removing one needs no torch.

A snapshot's name carries its trajectory and the SHA-256 of its content.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from worker.liveness import is_alive


def snapshot_folder(home: Path) -> Path:
    return home / "snapshots"


def snapshots_of(home: Path, trajectory: str) -> list[Path]:
    """The finished snapshots of a trajectory, the newest first; more than one after a crash only."""
    mine = [path for path in _all(home) if path.name.startswith(f"{trajectory}.") and path.suffix == ".pt"]
    return sorted(mine, key=_age)


def publish(unfinished: Path, home: Path, trajectory: str) -> None:
    """Gives a written snapshot its name, for good: it survives a power cut, and replaces earlier ones."""
    earlier = snapshots_of(home, trajectory)
    path = snapshot_folder(home) / f"{trajectory}.{_digest(unfinished)}.pt"
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    for old in earlier:
        if old != path:
            old.unlink(missing_ok=True)


def is_intact(path: Path) -> bool:
    """Whether a snapshot has the content that it was written with; raises OSError."""
    return path.name.split(".")[1] == _digest(path)


def make_room(home: Path, trajectory: str, size: int, quota: int) -> bool:
    """Drops snapshots of other trajectories, the oldest first, until one of `size` bytes is within the quota.

    Returns False, and drops nothing, where it never will be.
    """
    if size > quota:
        return False
    others = [path for path in _all(home) if not path.name.startswith(trajectory)]
    total = sum(_size(path) for path in others)
    for path in sorted(others, key=_age, reverse=True):
        if total + size <= quota:
            break
        total -= _size(path)
        path.unlink(missing_ok=True)
    return True


def remove_snapshots(home: Path, closed: Iterable[str]) -> None:
    """Drops snapshots that no later stage needs; one that cannot be dropped now is at the next start."""
    for trajectory in closed:
        for path in snapshots_of(home, trajectory):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def trajectories(home: Path) -> set[str]:
    """Those that a file here is of, finished or not."""
    return {path.name.partition(".")[0] for path in _all(home)}


def remove_stale(home: Path, stale: Collection[str]) -> None:
    """Drops the files of these trajectories, unfinished ones included, and what nobody will finish."""
    for path in _all(home):
        if path.name.partition(".")[0] in stale or _is_abandoned(path):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    """Whether whoever was writing this file is gone."""
    if path.suffix != ".tmp":
        return False
    try:
        return not is_alive(int(path.name.split(".")[1]))
    except ValueError:  # no process's number
        return False


def _all(home: Path) -> list[Path]:
    return list(snapshot_folder(home).glob("*"))


def _age(path: Path) -> float:
    """Smaller is newer."""
    with suppress(FileNotFoundError):
        return -path.stat().st_mtime
    return float("inf")


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
