"""The accelerator: what the driver says, what torch says, and whether the two agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from worker.devices import DRIVER, DriverFailed, nvidia_smi
from worker.diagnosis.finding import Finding

_QUERY = ("--query-gpu=name,memory.free,memory.total", "--format=csv,noheader")


class Torch(NamedTuple):
    """What this torch can do with CUDA."""

    version: str
    built_for: str | None  # version of CUDA; None: a build for the CPU only
    n_devices: int


def examine() -> Iterator[Finding]:
    """Checks that CUDA devices, where there are any, can be used."""
    import torch

    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield device(Torch(torch.__version__, torch.version.cuda, n_devices))


def device(torch: Torch, driver: Path = DRIVER) -> Finding:
    """What jobs will run on; `driver` is the file that exists where NVIDIA's driver is loaded."""
    try:
        listed = nvidia_smi(*_QUERY)
    except DriverFailed as error:
        return Finding.problem("device", str(error), "reload NVIDIA's driver, or restart the machine")
    if listed is None and driver.exists():
        return Finding.problem(
            "device",
            "NVIDIA's driver is loaded, but there is no nvidia-smi: jobs run on the CPU",
            "install the driver's tools and put nvidia-smi on the PATH; fsq finds devices with it",
        )
    if listed is None:
        return Finding.fine("device", f"no CUDA device; {_cores()} CPU cores")
    return _usable(torch, [line.strip() for line in listed if line.strip()])


def _usable(torch: Torch, devices: list[str]) -> Finding:
    """Whether torch can use what the driver lists: name, free memory, memory."""
    if not devices:
        return Finding.fine("device", f"the driver lists no CUDA device; {_cores()} CPU cores")
    found = "; ".join(map(_described, devices))
    if torch.built_for is None:
        return Finding.problem(
            "device",
            f"{found}; but torch {torch.version} is built for the CPU only",
            "install a CUDA build of torch (pytorch.org names the command), or work with `--device cpu`",
        )
    if torch.n_devices < len(devices):
        limited = os.environ.get("CUDA_VISIBLE_DEVICES")
        return Finding.problem(
            "device",
            f"{found}; but torch {torch.version} for CUDA {torch.built_for} can use {torch.n_devices} of them",
            f"fsq does not look at CUDA_VISIBLE_DEVICES ({limited}): unset it, and choose with `--device cuda:N`"
            if limited is not None
            else f"update the driver to one that knows CUDA {torch.built_for}, or install an older build of torch",
        )
    return Finding.fine("device", found)


def _described(line: str) -> str:
    name, free, total = (part.strip() for part in line.rsplit(",", 2))
    return f"{name}, {free} of {total} free"


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
