"""The supervisor's handle on its child process: starts it, hands it jobs, reads its messages, ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from worker.job import JobSpec
from worker.limits import Limits

_DEFAULTS = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # reproducible matrix products
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait crawl when another process needs a core
}


class Message(NamedTuple):
    """What a child reports: `alive`, `evaluated`, `progressed` or `ended`, with its content."""

    kind: str
    content: Any


class ChildDied(Exception):
    """The child process ended in the middle of a job."""


class Child:
    """One training process, started when the first job needs it and kept warm for the next."""

    def __init__(self, device: str, home: Path, limits: Limits) -> None:
        self._device = device
        self._home = home
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def start_job(self, spec: JobSpec, log: Path) -> None:
        """Hands a job to the child; what it prints meanwhile goes to `log`. Raises OSError."""
        request = json.dumps({"job": spec.model_dump(mode="json"), "log": str(log)}).encode()
        if self._process is not None and self._process.poll() is None and self._connection is not None:
            with suppress(BrokenPipeError, ConnectionResetError):  # it died while it waited
                self._connection.send_bytes(request)
                return
        self._start(log).send_bytes(request)

    def next_message(self, timeout: float) -> Message | None:
        """The next message of the running job, or None after `timeout` seconds; raises ChildDied."""
        assert self._connection is not None  # noqa: S101  (a job was started)
        try:
            if not self._connection.poll(timeout):
                return None
            return Message(**json.loads(self._connection.recv_bytes()))
        except (EOFError, OSError):  # OSError: in the middle of a message
            raise ChildDied(self._epitaph()) from None

    def stop(self) -> None:
        """Ends the child at once; a job it was running is cut short."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _start(self, log: Path) -> Connection:
        self.stop()
        ours, theirs = Pipe()
        self._connection = ours
        command = [sys.executable, "-P", "-m", "worker.child"]  # -P: no module of the current folder
        arguments = [str(theirs.fileno()), str(os.getpid()), self._device, str(self._home)]
        arguments.append(str(self._limits.snapshot_bytes))
        environment = _DEFAULTS | os.environ
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                command + arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        theirs.close()
        return ours

    def _epitaph(self) -> str:
        assert self._process is not None  # noqa: S101  (its connection just closed)
        code = self._process.wait()
        return (
            f"the training process ended with signal {-code}" if code < 0 else f"it exited with code {code}"
        )
