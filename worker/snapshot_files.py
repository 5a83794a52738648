"""Where snapshots lie; apart from `worker.snapshots` so that removing one needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path


def snapshot_path(home: Path, trajectory: str) -> Path:
    """The file of a trajectory's snapshot."""
    return home / "snapshots" / f"{trajectory}.pt"


def remove_snapshots(home: Path, trajectories: Iterable[str]) -> None:
    """Drops snapshots that no later stage needs."""
    for trajectory in trajectories:
        snapshot_path(home, trajectory).unlink(missing_ok=True)


def keep_snapshots(home: Path, trajectories: Collection[str]) -> None:
    """Drops the files of every other trajectory, unfinished ones included."""
    for path in (home / "snapshots").glob("*"):
        if path.name.partition(".")[0] not in trajectories:
            path.unlink(missing_ok=True)
