"""Under a real limit of memory a run shrinks its micro-batch, comes to the same gradients, and remembers."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import CHECKOUT
from worker.child.memory import is_held_by_others, is_out_of_memory
from worker.process_memory import KEEPING, SPARING

MEMORY_OF_STEPS = """
from pathlib import Path
import resource, torch
from worker.process_memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

torch.ones(1)
print(resident())
[torch.ones(2**18) for _ in range(200)]
print(resident())
give_back()
print(resident())
"""
"""Prints how much memory the process has before and after a step that takes and frees 200 MiB, and in the end."""


LITTLE = 185
"""MiB in which half of the batch fits: it does in 170 to 200, all of it from 205 on, or a little more."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


@cache
def run_with(folder: Path, megabytes: int) -> dict[str, Any]:
    """What tests/worker/child/limited_memory.py found with so much memory left; 0: no limit."""
    output = folder / f"{megabytes}.json"
    command = [sys.executable, "-m", "tests.worker.child.limited_memory", str(output), str(megabytes)]
    subprocess.run(command, check=True, cwd=CHECKOUT, env=os.environ | SPARING, timeout=300)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def gradients_of(folder: Path, megabytes: int) -> dict[str, torch.Tensor]:
    run_with(folder, megabytes)
    stored = torch.load(folder / f"{megabytes}.pt", weights_only=True)
    return {
        name: gradient for name, gradient in stored.items() if gradient is not None
    }  # the first layer's v0


def test_fit__shrinks_the_micro_batch_to_the_same_gradients(folder: Path) -> None:
    assert run_with(folder, 0)["fitted"][0] == 16
    micro_batch = run_with(folder, LITTLE)["fitted"][0]
    assert 1 <= micro_batch < 16
    assert (
        run_with(folder, LITTLE)["micro_batch"] == micro_batch
    )  # nothing in the run was larger than what was tried
    whole, shrunk = gradients_of(folder, 0), gradients_of(folder, LITTLE)
    assert whole.keys() == shrunk.keys()
    for name, gradient in whole.items():
        assert gradient.any(), name
        assert torch.allclose(gradient, shrunk[name], rtol=0, atol=1e-5 * float(gradient.abs().max())), name


def test_fit__the_same_evaluation(folder: Path) -> None:
    whole, shrunk = run_with(folder, 0), run_with(folder, LITTLE)
    assert shrunk["accuracy"] == whole["accuracy"]
    assert shrunk["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)


def test_fit__is_remembered_for_the_same_shapes(folder: Path) -> None:
    found = run_with(folder, LITTLE)
    assert found["remembered"] == found["fitted"]


def test_fit__too_little_for_one_example_is_found_out_before_training(folder: Path) -> None:
    found = run_with(folder, 15)
    assert "one example at a time does not fit" in found["out_of_memory"]
    assert "accuracy" not in found


def test_memory__that_sufficed_for_an_earlier_stage_is_in_other_hands(folder: Path) -> None:
    assert run_with(folder, 15)["outcomes"] == ["oom", "infra_failed"]


def test_is_out_of_memory__tells_it_from_other_errors() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as huge:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(huge.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(other.value)
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not is_out_of_memory(OSError(errno.EIO, "Input/output error"))


@pytest.mark.parametrize(("free", "expected"), [(2**20, True), (2**33, False)])
def test_is_out_of_memory__a_library_that_finds_no_room(
    free: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 2**36))
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(("free", "own", "expected"), [(10, 60, True), (10, 85, False), (99, 0, False)])
def test_is_held_by_others(free: int, own: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a device of 100 GiB."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * 2**30, 100 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: own * 2**30)
    assert is_held_by_others(torch.device("cuda:0")) is expected
    assert not is_held_by_others(torch.device("cpu"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc keeps what it likes")
def test_give_back__what_steps_keep_for_the_next() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_OF_STEPS],
        check=True,
        cwd=CHECKOUT,
        env=os.environ | KEEPING,
        capture_output=True,
        text=True,
        timeout=300,
    )
    before, kept, given_back = map(int, done.stdout.split())
    assert kept > before + 180 * 2**20
    assert given_back < before + 20 * 2**20
