"""What the log of a dead training process says about its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import BadFailureTable
from worker.failures import outcome_of, read_table
from worker.job import Outcome


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("OSError: [Errno 28] No space left on device", Outcome.INFRA_FAILED),
        ("OSError: [Errno 30] Read-only file system: '/data/x'", Outcome.INFRA_FAILED),
        ("RuntimeError: No CUDA GPUs are available; CUDA driver initialization failed", Outcome.INFRA_FAILED),
        ("torch.AcceleratorError: CUDA error: unspecified launch failure", Outcome.INFRA_FAILED),
        ("RuntimeError: No CUDA GPUs are available", Outcome.INFRA_FAILED),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 1)", Outcome.INFRA_FAILED),
        ("AssertionError: Torch not compiled with CUDA enabled", Outcome.INFRA_FAILED),
        ("RuntimeError: CUDA unknown error - this may be due to an incorrect setup", Outcome.INFRA_FAILED),
        (
            "torch.AcceleratorError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
            Outcome.INFRA_FAILED,
        ),
        ("torch.AcceleratorError: CUDA error: initialization error", Outcome.INFRA_FAILED),
        ("torch.AcceleratorError: CUDA error: invalid device ordinal", Outcome.INFRA_FAILED),
        (
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
            Outcome.INFRA_FAILED,
        ),
        ("torch.AcceleratorError: CUDA error: an illegal memory access was encountered", Outcome.CRASHED),
        ("RuntimeError: CUDA error: device-side assert triggered", Outcome.CRASHED),
        ("RuntimeError: Failed to find C compiler. Please specify via CC environment", Outcome.INFRA_FAILED),
        (
            "subprocess.CalledProcessError: Command '['/usr/bin/gcc', '/tmp/x/cuda_utils.c', '-O3']' returned 1",
            Outcome.INFRA_FAILED,
        ),
        ("subprocess.CalledProcessError: Command '['ls', '/gcc']' returned 1", Outcome.CRASHED),
        ("requests.exceptions.ConnectionError: [Errno 104] Connection reset by peer", Outcome.INFRA_FAILED),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", Outcome.OOM),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory",
            Outcome.OOM,
        ),
        ("RuntimeError: CUDA driver error: out of memory", Outcome.OOM),
        (
            "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(h)`",
            Outcome.INFRA_FAILED,
        ),
        ("terminate called after throwing an instance of 'std::bad_alloc'", Outcome.OOM),
        ("MemoryError", Outcome.OOM),
        ("ZeroDivisionError: division by zero", Outcome.CRASHED),
        ("Segmentation fault (core dumped)", Outcome.CRASHED),
        ("", Outcome.CRASHED),
    ],
)
def test_outcome_of__built_in(line: str, outcome: Outcome) -> None:
    assert outcome_of(1, f"step 3: loss 1.2\n{line}\nsomething else\n") is outcome


def test_outcome_of__the_last_line_counts() -> None:
    assert outcome_of(1, "No space left on device\nCUDA out of memory\nbye") is Outcome.OOM


def test_outcome_of__a_signal_from_outside_is_not_explained_by_the_log() -> None:
    assert outcome_of(-9, "RuntimeError: CUDA out of memory") is Outcome.CRASHED
    assert outcome_of(-11, "OSError: No space left on device") is Outcome.CRASHED


def test_outcome_of__what_was_survived_is_not_what_it_died_of() -> None:
    survived = "2026-11-24 10:00:00 WARNING: step 7: out of memory, micro-batch 2 from now on\n"
    assert outcome_of(1, survived) is Outcome.CRASHED
    warned = "UserWarning: out of memory once\nTraceback (most recent call last):\nKeyError: 'x'\n"
    assert outcome_of(1, warned) is Outcome.CRASHED
    handled = "Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory\n"
    assert outcome_of(1, handled + "Traceback (most recent call last):\nKeyError: 'x'\n") is Outcome.CRASHED


def test_outcome_of__own_patterns_come_first(tmp_path: Path) -> None:
    table = tmp_path / "failures.yaml"
    table.write_text("'out of memory': infra_failed\n'loss is (nan|inf)': diverged\n")
    own = read_table(table)
    assert outcome_of(1, "CUDA out of memory", own) is Outcome.INFRA_FAILED
    assert outcome_of(1, "ValueError: Loss is NaN", own) is Outcome.DIVERGED
    assert outcome_of(-6, "std::bad_alloc", own) is Outcome.OOM


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a list", "no mapping"),
        ("x: ok", "'ok' is none of infra_failed, oom, diverged, crashed"),
        ("x: [1]", "is none of"),
        ("'(': oom", "no regular expression"),
        ("a: b: c", "cannot be read"),
        ("\udc80", "cannot be read"),
    ],
)
def test_read_table__refused(tmp_path: Path, content: str, message: str) -> None:
    table = tmp_path / "failures.yaml"
    table.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadFailureTable, match=message):
        read_table(table)


def test_read_table__missing(tmp_path: Path) -> None:
    with pytest.raises(BadFailureTable, match="cannot be read"):
        read_table(tmp_path / "none.yaml")
