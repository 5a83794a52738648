"""The device that trains."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.worker.diagnosis.findings import is_problem
from worker import devices
from worker.diagnosis import Finding, device
from worker.errors import NoSuchDevice


def nvidia_smi(folder: Path, script: str) -> None:
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


TWO_DEVICES = "echo 'NVIDIA H100, 1000 MiB, 81559 MiB'; echo 'NVIDIA H100, 80000 MiB, 81559 MiB'"

FOR_CPU = device.Torch("2.9.0+cpu", None, 0)


def test_device__none(tools: Path) -> None:
    assert device.device(FOR_CPU, driver=tools / "none") == Finding.fine(
        "device", f"no CUDA device; {len(os.sched_getaffinity(0))} CPU cores"
    )


def test_device__free_memory_of_each(tools: Path) -> None:
    nvidia_smi(tools, TWO_DEVICES)
    found = device.device(device.Torch("2.9.0", "12.8", 2))
    assert found == Finding.fine(
        "device",
        "NVIDIA H100, 1000 MiB of 81559 MiB free; NVIDIA H100, 80000 MiB of 81559 MiB free",
    )


def test_device__torch_for_the_cpu_only(tools: Path) -> None:
    nvidia_smi(tools, TWO_DEVICES)
    assert is_problem(device.device(FOR_CPU), "2.9.0+cpu is built for the CPU only", "install a CUDA build")


def test_device__torch_sees_fewer_than_the_driver(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tools, TWO_DEVICES)
    old_driver = device.Torch("2.9.0", "12.8", 0)
    assert is_problem(device.device(old_driver), "can use 0 of them", "update the driver")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert is_problem(device.device(old_driver), "CUDA_VISIBLE_DEVICES (1)", "--device cuda:N")


def test_device__driver_without_its_tools(tools: Path) -> None:
    (tools / "version").touch()
    assert is_problem(device.device(FOR_CPU, driver=tools / "version"), "no nvidia-smi", "PATH")


def test_device__driver_that_fails(tools: Path) -> None:
    nvidia_smi(tools, "echo 'Driver/library version mismatch' >&2; exit 18")
    assert is_problem(device.device(FOR_CPU), "ended with 18: Driver/library version mismatch", "restart")
    (tools / "nvidia-smi").write_bytes(b"\0not a program")
    assert is_problem(device.device(FOR_CPU), "cannot be run", "restart")


def test_device__driver_that_hangs(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tools, "while :; do :; done")
    monkeypatch.setattr(devices, "PATIENCE_SECONDS", 0.2)
    assert is_problem(device.device(FOR_CPU), "has not answered for 0.2 s", "restart")


def test_choose__no_driver_is_the_cpu(tools: Path) -> None:
    assert devices.choose("auto") == "cpu"
    with pytest.raises(NoSuchDevice, match="has 0 CUDA devices"):
        devices.choose("cuda")


def test_choose__devices_that_the_driver_lists(tools: Path) -> None:
    nvidia_smi(
        tools,
        "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'; echo '  MIG 1g'; echo 'GPU 1: NVIDIA H100 (UUID: GPU-2)'",
    )
    assert [devices.choose(wanted) for wanted in ("auto", "cuda", "cuda:1", "cpu:3")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cpu:3",
    ]
    with pytest.raises(NoSuchDevice, match="cuda:2 does not exist: this machine has 2 CUDA devices"):
        devices.choose("cuda:2")


@pytest.mark.parametrize("wanted", ["auto", "cuda:0"])
def test_choose__a_driver_that_fails_is_not_taken_for_none(
    wanted: str, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tools, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    monkeypatch.setattr(devices, "DRIVER", tools / "version")
    assert devices.cuda_devices() == []  # the tool is there, and no driver
    (tools / "version").touch()
    with pytest.raises(
        NoSuchDevice, match=r"ended with 18: Failed to initialize NVML.*choose the device `cpu`"
    ):
        devices.choose(wanted)
    nvidia_smi(tools, "while :; do :; done")
    monkeypatch.setattr(devices, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(NoSuchDevice, match="has not answered"):
        devices.choose(wanted)
    assert devices.choose("cpu") == "cpu"
