"""Choosing the device to work on without importing torch into the supervising process."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from worker.errors import NoSuchDevice

DRIVER = Path("/proc/driver/nvidia/version")
"""There where NVIDIA's driver is loaded."""
PATIENCE_SECONDS = 20  # a driver that takes longer is stuck


class DriverFailed(Exception):
    """NVIDIA's driver does not answer as it should."""


def choose(wanted: str) -> str:
    """The device's name: the first CUDA device for `auto` where there is one, else the CPU.

    `cpu:N` are names for several workers on one CPU. Raises NoSuchDevice, for `auto` too where a driver fails: a
    night on the CPU is not what its owner wants.
    """
    if wanted == "auto":
        return "cuda:0" if cuda_devices() else "cpu"
    if wanted == "cuda":
        wanted = "cuda:0"
    match = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", wanted)
    if match is None:
        raise NoSuchDevice(f"{wanted!r} is no device; expected auto, cpu, cuda or cuda:N")
    if match[1] == "cuda" and int(match[2]) >= (found := len(cuda_devices())):
        raise NoSuchDevice(f"{wanted} does not exist: this machine has {found} CUDA devices")
    return wanted


def torch_name(device: str) -> str:
    """What torch calls it: all names of the CPU mean one device."""
    return "cpu" if device.startswith("cpu") else device


def cuda_devices() -> list[str]:
    """The CUDA devices that the driver lists; raises NoSuchDevice where it cannot say."""
    try:
        listed = nvidia_smi("--list-gpus") or []
    except DriverFailed as error:
        if not DRIVER.exists():  # its tool is there, and no device that it would be loaded for
            return []
        raise NoSuchDevice(f"{error}; to work without CUDA devices, choose the device `cpu`") from error
    return [line for line in listed if line.startswith("GPU ")]


def nvidia_smi(*query: str) -> list[str] | None:
    """What NVIDIA's driver answers, line by line; None where its tool is not installed. Raises DriverFailed."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    try:
        answered = subprocess.run(  # noqa: S603
            [command, *query], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DriverFailed(_failure(error)) from error
    return answered.stdout.splitlines()


def _failure(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"nvidia-smi has not answered for {PATIENCE_SECONDS} s"
    if isinstance(error, subprocess.CalledProcessError):
        said = " ".join(f"{error.stderr} {error.stdout}".split())
        return f"nvidia-smi ended with {error.returncode}: {said[:300]}"
    return f"nvidia-smi cannot be run: {error}"
