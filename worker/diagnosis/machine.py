"""Python, the home folder, free disk space, optional packages."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from worker.diagnosis.finding import Finding

GIB = 2**30
OLDEST_PYTHON = (3, 11)
ENOUGH_FOR_HOME = 5 * GIB  # a few snapshots of the 0.1B model
ENOUGH_FOR_MORE = GIB  # a database; what libraries unpack
ENOUGH_FILES = 1000


def examine(home: Path, database_folder: Path | None) -> Iterator[Finding]:
    """Checks this machine; `database_folder` is where an SQLite database lies."""
    yield python(sys.version_info[:3])
    yield home_folder(home)
    needs = [("home", home, ENOUGH_FOR_HOME), ("tmp", Path(tempfile.gettempdir()), ENOUGH_FOR_MORE)]
    if database_folder is not None:
        needs.append(("database", database_folder, ENOUGH_FOR_MORE))
    yield from disks(needs)
    yield hub()


def python(version: tuple[int, ...]) -> Finding:
    """Whether this Python is new enough."""
    found = ".".join(map(str, version))
    if version >= OLDEST_PYTHON:
        return Finding.fine("python", found)
    return Finding.problem("python", found, "fsq needs Python 3.11 or later")


def home_folder(home: Path) -> Finding:
    """Whether the home folder and the folders in it take files, and bring them to the disk."""
    inside = [home / name for name in ("locks", "runs", "snapshots", "cache", "results")]
    try:
        home.mkdir(parents=True, exist_ok=True)
        for folder in (home, *filter(os.path.lexists, inside)):
            write_durably(folder)
    except OSError as error:
        return Finding.problem(
            "home",
            f"cannot write to {error.filename or home}: {error.strerror}",
            "give its folders to the user that runs fsq, free its disk, or set FSQ_HOME to a folder you can write to",
        )
    return Finding.fine("home", f"{home} takes files and brings them to the disk")


def write_durably(folder: Path) -> None:
    """Writes a file that vanishes again, down to the disk; raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"fsq doctor")
        file.flush()
        os.fsync(file.fileno())


def disks(needs: Iterable[tuple[str, Path, int]]) -> Iterator[Finding]:
    """Free space where each (name, folder, bytes wanted) lies, one finding for each file system."""
    folders: dict[int, tuple[Path, list[str], int]] = {}
    for name, folder, wanted in needs:
        existing = nearest_existing(folder)
        device = existing.stat().st_dev
        place, names, most = folders.get(device, (existing, [], 0))
        folders[device] = (place, [*names, name], max(most, wanted))
    for place, names, wanted in folders.values():
        yield disk(f"disk of {', '.join(names)}", place, wanted)


def disk(what: str, folder: Path, wanted: int, wanted_files: int = ENOUGH_FILES) -> Finding:
    """Free space, and free entries in the table of files, of one file system."""
    free = shutil.disk_usage(folder).free
    table = os.statvfs(folder)
    found = f"{free / GIB:.1f} GiB free in {folder}"
    if free < wanted:
        advice = (
            f"free some space ({wanted / GIB:.0f} GiB are enough at first), or move FSQ_HOME to a larger disk"
        )
        return Finding.problem(what, found, advice)
    if table.f_files and table.f_favail < wanted_files:  # some file systems have no such table
        found = f"{found}, but only {table.f_favail} more files"
        return Finding.problem(what, found, "remove files: its inodes are used up")
    return Finding.fine(what, found)


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    absolute = folder.absolute()
    return next(candidate for candidate in (absolute, *absolute.parents) if candidate.is_dir())


def hub() -> Finding:
    """Whether data and checkpoints of the hub can be had."""
    if find_spec("datasets") is None:
        return Finding.fine("hub", "not installed (pip install 'fsq[hub]' for hub data)")
    return Finding.fine("hub", "available")
