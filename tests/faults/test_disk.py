"""Disks that are full, read-only, flooded by a log, or that lose what was not synced."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import NewNight
from tests.faults.harness import Night, Undisturbed
from tests.faults.preloads import Disk
from tests.faults.rounds import EVALUATIONS, MIDDLE, write_round

MIB = 2**20


def test_disk__full(night: Night, calm: Undisturbed, tmp_path: Path) -> None:
    """Nothing can be written for a while, neither logs nor snapshots nor the database."""
    with small_disk(night.home, 24 * MIB):
        name = night.submit(write_round(tmp_path))
        worker = night.work()
        night.wait_for(lambda: worker.count("evaluated") >= MIDDLE)
        ballast = fill(night.home)
        night.wait_for(lambda: "is full" in worker.text() or os.strerror(errno.ENOSPC) in worker.text())
        ballast.unlink()

        worker.finish()
        night.assert_equals(calm, name)


def test_run_directory__read_only(night: Night, calm: Undisturbed, tmp_path: Path) -> None:
    name = night.submit(write_round(tmp_path))
    runs = night.home / "runs"
    runs.mkdir()
    with read_only(runs):
        worker = night.work()
        night.wait_for(lambda: worker.count("job ended", outcome="infra_failed", will_retry=True))

    worker.finish()
    night.assert_equals(calm, name)


def test_log__of_a_gigabyte(new_night: NewNight, calm: Undisturbed, tmp_path: Path) -> None:
    """Printed through the child's own standard output, as a chatty library would."""
    night = new_night(FSQ_LOG_MIB="1")
    name = night.submit(write_round(tmp_path))
    worker = night.work()
    night.wait_for(lambda: worker.count("evaluated") >= 1)
    log = night.home / "runs/night/s4/quick/baseline/seed0/log.txt"

    child = worker.child()
    assert child
    os.kill(child, signal.SIGSTOP)  # its job of a second would be over
    flood(child, 1024 * MIB)
    night.wait_for(lambda: log.stat().st_size < 2 * MIB)
    os.kill(child, signal.SIGCONT)

    worker.finish()
    assert sum(path.stat().st_size for path in (night.home / "runs").rglob("*")) < 8 * MIB
    text = night.log("quick/baseline")
    assert text.count(" job ") == 1  # how it began
    assert "cut out" in text
    assert text.endswith("ended: ok\n")
    night.assert_equals(calm, name)


def flood(process: int, size: int) -> None:
    """Prints so many bytes to what a process prints to."""
    line = b"all work and no play\n" * (MIB // 21)
    with Path(f"/proc/{process}/fd/1").open("ab", buffering=0) as output:
        for _ in range(size // len(line) + 1):
            output.write(line)


def test_power__lost_twice(new_night: NewNight, calm: Undisturbed, tmp_path: Path) -> None:
    """After the submission, and in the middle of the second job: only what was synced is there afterwards."""
    home = tmp_path / "home"
    disk = Disk(tmp_path, home)
    night = new_night(**disk.environment)

    night.run("submit", str(write_round(tmp_path)))
    disk.forget()
    first = night.work()
    night.wait_for(lambda: first.count("evaluated") >= EVALUATIONS + MIDDLE)
    first.kill()
    night.wait_for(lambda: not night.processes())
    disk.forget()
    assert night.log("quick/baseline") == ""  # never synced: the cut was one

    second = night.work()
    second.finish()
    assert second.count("job ended", outcome="ok") == 3  # what had ended was not run again
    assert "continues from the snapshot" in night.log("quick/l1")
    night.assert_equals(calm, "night")


def test_forgetful_disk__keeps_what_was_synced_only(tmp_path: Path) -> None:
    """The instrument of the test above."""
    home = tmp_path / "home"
    disk = Disk(tmp_path, home)
    script = """
import os, sys
def write(name, content, sync):
    with open(name, "w") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
def sync_folder():
    folder = os.open(".", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
os.chdir(sys.argv[1])
write("synced", "yes", True)
write("synced then changed", "old", True)
write("synced then changed", "new", False)
write("replaced.tmp", "whole", True)
os.rename("replaced.tmp", "replaced")
write("named only.tmp", "never synced", False)
os.rename("named only.tmp", "named only")
write("removed", "yes", True)
os.unlink("removed")
sync_folder()
write("not synced", "no", False)
write("renamed.tmp", "whole", True)
os.rename("renamed.tmp", "renamed but the folder not synced")
"""
    subprocess.run([sys.executable, "-c", script, home], env=disk.environment, check=True)
    disk.forget()
    assert {path.name: path.read_text() for path in home.iterdir()} == {
        "synced": "yes",
        "synced then changed": "old",
        "replaced": "whole",
        "named only": "",
        "renamed.tmp": "whole",
    }


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mounts a file system of so many bytes."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody can write there, root included."""
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def mount(*arguments: str | Path) -> None:
    if shutil.which("mount") is None:
        pytest.skip("nothing can be mounted here")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


def fill(folder: Path) -> Path:
    """Takes all the room that is left on a file system; returns the file that does."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast
