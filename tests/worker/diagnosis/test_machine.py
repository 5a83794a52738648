"""This machine: its Python, home folder and disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.worker.diagnosis.findings import is_problem
from worker.diagnosis import machine


def test_python__too_old() -> None:
    assert is_problem(machine.python((3, 10, 9)), "3.10.9", "3.11")


def test_home_folder__is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    assert is_problem(machine.home_folder(tmp_path / "home"), str(tmp_path / "home"), "FSQ_HOME")


def test_home_folder__takes_files_but_one_of_its_folders_does_not(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    assert is_problem(machine.home_folder(tmp_path), str(tmp_path / "runs"), os.strerror(errno.ENOTDIR))
    (tmp_path / "runs").unlink()
    (tmp_path / "runs").symlink_to(tmp_path / "disk-that-is-not-mounted")
    assert is_problem(machine.home_folder(tmp_path), os.strerror(errno.ENOENT))


def test_disk__full(tmp_path: Path) -> None:
    assert is_problem(machine.disk("disk of home", tmp_path, wanted=2**70), "GiB free", "free some space")


def test_disk__no_entry_left_for_a_file(tmp_path: Path) -> None:
    if os.statvfs(tmp_path).f_files == 0:
        pytest.skip("this file system has no table of files")
    assert is_problem(
        machine.disk("disk of home", tmp_path, wanted=0, wanted_files=2**70), "more files", "inodes"
    )


def test_disks__one_finding_for_each_file_system_with_the_greatest_need(tmp_path: Path) -> None:
    (found,) = machine.disks([("home", tmp_path / "not" / "yet", 2**70), ("database", tmp_path, 0)])
    assert found.what == "disk of home, database"
    assert not found.is_fine
