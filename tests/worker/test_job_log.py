"""A log stays bounded while its process goes on writing, and its end can be read."""

from __future__ import annotations

import os
from pathlib import Path

from worker.job_log import JobLog


def test_bound__keeps_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "run" / "log.txt"
    log = JobLog(path, 1000)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)  # as the child has it
    for number in range(1000):
        os.write(descriptor, f"line {number:04}\n".encode())
        log.bound()
        assert path.stat().st_size < 1100
    os.close(descriptor)
    text = path.read_text()
    assert text.startswith("line 0000\n")
    assert text.endswith("line 0999\n")
    assert "bytes cut out: the log outgrew its limit" in text


def test_bound__leaves_a_short_log_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    log = JobLog(path, 1000)
    path.write_text("x" * 1000)
    log.bound()
    assert path.read_text() == "x" * 1000


def test_end__is_of_this_attempt_only(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("No space left on device\n")
    log = JobLog(path, 1000)
    assert log.end(100) == ""
    with path.open("a") as file:
        file.write("a\nb\n")
    assert log.end(100) == "a\nb\n"
    assert log.end(2) == "b\n"


def test_end__of_this_attempt_only_also_after_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("CUDA out of memory\n" * 100)
    log = JobLog(path, 1000)
    with path.open("a") as file:
        file.write("fine\n")
    log.bound()
    assert log.end(500) == "fine\n"


def test_end__of_a_log_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    log = JobLog(path, 1000)
    path.unlink()
    assert log.end(100) == ""
