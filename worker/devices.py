"""Choosing the device to work on without importing torch into the supervising process."""

from __future__ import annotations

import re
import shutil
import subprocess

from worker.errors import NoSuchDevice


def choose(wanted: str) -> str:
    """The device's name: the first CUDA device for `auto` where there is one, else the CPU.

    `cpu:N` are names for several workers on one CPU. Raises NoSuchDevice.
    """
    if wanted == "auto":
        return "cuda:0" if cuda_devices() else "cpu"
    if wanted == "cuda":
        wanted = "cuda:0"
    match = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", wanted)
    if match is None:
        raise NoSuchDevice(f"{wanted!r} is no device; expected auto, cpu, cuda or cuda:N")
    if match[1] == "cuda" and int(match[2]) >= len(cuda_devices()):
        raise NoSuchDevice(f"{wanted} does not exist: this machine has {len(cuda_devices())} CUDA devices")
    return wanted


def torch_name(device: str) -> str:
    """What torch calls it: all names of the CPU mean one device."""
    return "cpu" if device.startswith("cpu") else device


def cuda_devices() -> list[str]:
    """The CUDA devices that the driver lists."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    listed = subprocess.run([command, "--list-gpus"], capture_output=True, text=True, check=False)  # noqa: S603
    return [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
