"""The process that trains: takes one job after another from its supervisor and stays warm between them.

What a job prints, native code included, goes to that job's log. Messages are JSON over one connection; when the
supervisor dies, this process dies with it.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from worker.child.jobs import run_job
from worker.child.reporting import ConnectionReport
from worker.child.reproducible import be_reproducible
from worker.child.resources import Resources
from worker.child.snapshots import Snapshots
from worker.job import JobSpec

IDLE_SECONDS = 2.0  # without a job, after which memory goes back to the system


def _redirect_output(log: Path) -> None:
    """From now on whatever is printed goes to this job's log, native code's output included."""
    sys.stdout.flush()
    sys.stderr.flush()
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _die_with_parent(parent: int) -> None:
    """Linux kills this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def next_request(connection: Connection, resources: Resources) -> Any:
    """What the supervisor asks for next; memory that is free goes back to the system if that takes a while.

    Raises EOFError when the supervisor is gone.
    """
    if not connection.poll(IDLE_SECONDS):
        resources.rest()
    return json.loads(connection.recv_bytes())


def serve(arguments: Sequence[str]) -> None:
    """Trains until its supervisor is gone.

    arguments: CONNECTION_FD PARENT_PID DEVICE HOME SNAPSHOT_BYTES ACTIVATION_BYTES.
    """
    descriptor, parent, device, home, quota, activation_bytes = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to answer
    _die_with_parent(int(parent))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    be_reproducible()
    connection = Connection(int(descriptor))
    folder = Path(home)
    resources = Resources(torch.device(device), folder / "cache", int(activation_bytes))
    snapshots = Snapshots(folder, int(quota))
    report = ConnectionReport(connection)
    while True:
        try:
            request = next_request(connection, resources)
        except EOFError:
            return
        _redirect_output(Path(request["log"]))
        if resources.device.type == "cuda":
            torch.cuda.init()  # says what is wrong where it cannot be used
            torch.cuda.set_device(resources.device)  # of no other device is memory taken
        spec = JobSpec.from_json(request["job"])
        try:
            report.ended(run_job(spec, resources, snapshots, report))
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None
