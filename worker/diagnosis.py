"""What `fsq doctor` looks at: home folder, database, disk, device, kernels, optional packages."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from db.errors import DatabaseError
from db.session import HEAD, Database
from worker.devices import cuda_devices

ENOUGH_DISK = 5 * 2**30  # bytes: a few snapshots of the 0.1B model


class Finding(NamedTuple):
    """One thing that was checked; `advice` says what to do when it is not fine."""

    what: str
    is_fine: bool
    found: str
    advice: str = ""


def examine(home: Path, database_url: str) -> list[Finding]:
    """Checks everything, slow things included; takes a few seconds."""
    return [_python(), _home(home), _disk(home), _database(database_url), _device(), _kernels(), _hub()]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    is_fine = sys.version_info >= (3, 11)
    return Finding("python", is_fine, version, "" if is_fine else "fsq needs Python 3.11 or later")


def _home(home: Path) -> Finding:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        return Finding(
            "home", False, f"{home}: {error.strerror}", "set FSQ_HOME to a folder you can write to"
        )
    return Finding("home", True, str(home))


def _disk(home: Path) -> Finding:
    existing = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    advice = "" if free >= ENOUGH_DISK else "free some space, or set FSQ_HOME to a larger disk"
    return Finding("disk", free >= ENOUGH_DISK, f"{free / 2**30:.0f} GiB free", advice)


def _database(url: str) -> Finding:
    try:
        database = Database(url)
        revision = database.revision()
    except DatabaseError as error:
        return Finding("database", False, str(error), "check FSQ_DATABASE_URL, and that the server runs")
    advice = "" if revision in (HEAD, None) else "run `fsq db upgrade`"
    found = f"{database.engine.url.render_as_string()}, revision {revision or 'none yet'}"
    return Finding("database", revision in (HEAD, None), found, advice)


def _device() -> Finding:
    devices = cuda_devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = "; ".join(devices) if devices else f"no CUDA device; {cores} CPU cores"
    return Finding("device", True, found)


def _kernels() -> Finding:
    """Runs every backend on a small problem against the recurrence in float64."""
    import torch

    from model import available_backends, default_backend, wkv7

    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(2, 40, 2, 64, generator=generator, dtype=torch.float64) for _ in range(3))
    w = -0.6 * torch.rand(2, 40, 2, 64, generator=generator, dtype=torch.float64)
    a = torch.nn.functional.normalize(
        torch.randn(2, 40, 2, 64, generator=generator, dtype=torch.float64), dim=-1
    )
    inputs = (r, w, k, v, -a, 0.5 * a)
    exact, _ = wkv7(*inputs, None, "reference")
    errors = {}
    for backend in available_backends():
        r, w, k, v, a, b = (x.float() for x in inputs)
        found, _ = wkv7(r, w, k, v, a, b, backend=backend)
        errors[backend] = ((found - exact).abs().max() / exact.abs().max()).item()
    report = ", ".join(f"{backend} {error:.0e}" for backend, error in errors.items())
    is_fine = max(errors.values()) < 1e-4
    advice = "" if is_fine else "do not trust results of this machine; report the backend"
    return Finding(
        "kernels", is_fine, f"relative error {report}; {default_backend('cpu')} is used on CPU", advice
    )


def _hub() -> Finding:
    there = find_spec("datasets") is not None
    return Finding(
        "hub", True, "available" if there else "not installed (pip install 'fsq[hub]' for hub data)"
    )
