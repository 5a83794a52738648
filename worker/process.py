"""The supervisor's handle on its child process: starts it, hands it jobs, reads its messages, ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from enum import StrEnum
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from worker import process_memory
from worker.devices import torch_name
from worker.job import JobSpec
from worker.limits import Limits
from worker.snapshot_files import snapshot_folder

_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # reproducible matrix products
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # cuda:N is the N that nvidia-smi lists
}
OF_THREADS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait crawl when another process needs a core
    "GOMP_SPINCOUNT": "4000",  # but a moment of it pays, where OpenMP is GNU's
}
"""How threads wait (decision 2), unless the environment has a word on it: then neither is set."""

LONGEST_DEATH = 10.0  # seconds from SIGKILL to the end


def environment() -> dict[str, str]:
    """The variables of a training process; where this process has one set, its value counts.

    Where memory is limited the process gives back what it frees, so that what fits does not depend on earlier jobs.
    """
    memory = process_memory.SPARING if process_memory.is_limited() else process_memory.KEEPING
    threads = {} if OF_THREADS.keys() & os.environ.keys() else OF_THREADS
    return _ENVIRONMENT | threads | memory | os.environ


class Said(StrEnum):
    """What a training process can say."""

    ALIVE = "alive"  # without content: something is under way that cannot be told of otherwise
    EVALUATED = "evaluated"  # an Evaluation
    PROGRESSED = "progressed"  # step, seconds and loss
    ENDED = "ended"  # a JobResult


class Message(NamedTuple):
    """What a training process says, with its content as JSON."""

    kind: Said
    content: Any


class ChildDied(Exception):
    """The child process ended in the middle of a job; negative codes are signals."""

    def __init__(self, code: int) -> None:
        self.code = code
        how = f"ended with signal {-code}" if code < 0 else f"exited with code {code}"
        super().__init__(f"the training process {how}")


class Child:
    """One training process, started when the first job needs it, or before, and kept warm for the next."""

    def __init__(self, device: str, home: Path, limits: Limits) -> None:
        """`device` is a name as `worker.devices` chooses them."""
        self.device = device
        self._home = home
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._messages: SimpleQueue[Message | None] = SimpleQueue()

    def warm_up(self) -> None:
        """Starts the process ahead of its first job, which then need not wait for its imports. Raises OSError.

        What it prints until then is lost: one that fails to start is started again by the job, with a log.
        """
        self._start(Path(os.devnull))

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
        assert self._process is not None  # noqa: S101  (a job was started)
        try:
            message = self._messages.get(timeout=timeout)
        except Empty:
            if self._process.poll() is not None:
                raise self._death() from None
            return None
        if message is None:
            raise self._death()
        return message

    def stop(self) -> None:
        """Ends the child at once; a job it was running is cut short."""
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it goes when that lets it
                self._process.wait(LONGEST_DEATH)
            self._forget_unfinished(self._process.pid)
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _forget_unfinished(self, pid: int) -> None:
        for path in snapshot_folder(self._home).glob(f"*.{pid}.tmp"):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _start(self, log: Path) -> Connection:
        self.stop()
        ours, theirs = Pipe()
        self._connection = ours
        command = [sys.executable, "-P", "-m", "worker.child"]  # -P: no module of the current folder
        arguments = [str(theirs.fileno()), str(os.getpid()), torch_name(self.device), str(self._home)]
        arguments += [str(self._limits.snapshot_bytes), str(self._limits.activation_bytes)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                command + arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                env=environment(),
            )
        theirs.close()
        self._messages = SimpleQueue()
        Thread(target=_listen, args=(ours, self._messages), daemon=True).start()
        return ours

    def _death(self) -> ChildDied:
        assert self._process is not None  # noqa: S101  (its connection just closed)
        try:
            code = self._process.wait(LONGEST_DEATH)
        except subprocess.TimeoutExpired:  # it closed its connection, and lives
            self._process.kill()
            code = -signal.SIGKILL
        self._forget_unfinished(self._process.pid)
        return ChildDied(code)


def _listen(connection: Connection, messages: SimpleQueue[Message | None]) -> None:
    """Takes the child's messages as they come, so that it never waits for whoever reads them; None: it has gone."""
    try:
        while True:
            told = json.loads(connection.recv_bytes())
            messages.put(Message(Said(told["kind"]), told["content"]))
    except (EOFError, OSError, ValueError, KeyError, TypeError):  # TypeError: closed while it was being read
        messages.put(None)
