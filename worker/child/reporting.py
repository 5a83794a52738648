"""What a job tells while it runs: to its supervisor, over one connection, and to its log."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from threading import Lock, Thread
from typing import Any

from worker.child.run import Report, Run
from worker.job import Evaluation, JobResult
from worker.process import Said

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25
SIGN_SECONDS = 2.0  # between signs of life while loading
LONGEST_LOADING = 3600.0


class ConnectionReport:
    """Sends what a run measures to the supervisor; progress at most every PROGRESS_SECONDS.

    Its thread starts with it, while there is memory: Python waits for ever for a thread that has none to start with.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = Lock()  # the thread speaks too
        self._sent_at = 0.0
        self._busy_until = 0.0
        Thread(target=self._speak_while_busy, daemon=True).start()

    def evaluated(self, evaluation: Evaluation) -> None:
        self._send(Said.EVALUATED, evaluation.model_dump(mode="json"))

    def progressed(self, step: int, seconds: float, loss: float) -> None:
        now = time.monotonic()
        if now - self._sent_at >= PROGRESS_SECONDS:
            self._sent_at = now
            self._send(Said.PROGRESSED, {"step": step, "seconds": seconds, "loss": loss})

    def alive(self) -> None:
        now = time.monotonic()
        if now - self._sent_at >= PROGRESS_SECONDS:
            self._sent_at = now
            self._send(Said.ALIVE, None)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Says now and then that something is under way that cannot say so: loading, downloading, saving.

        Not for ever: what takes longer than LONGEST_LOADING hangs.
        """
        self._busy_until = time.monotonic() + LONGEST_LOADING
        try:
            yield
        finally:
            with self._lock:  # nothing is said after this
                self._busy_until = 0.0

    def _speak_while_busy(self) -> None:
        while not self._connection.closed:
            time.sleep(SIGN_SECONDS)
            with suppress(OSError, MemoryError), self._lock:
                if time.monotonic() < self._busy_until:
                    self._write(Said.ALIVE, None)

    def while_busy(self, call: Callable[[], None]) -> Callable[[], None]:
        """The same call, with signs of life."""

        def busily() -> None:
            with self.busy():
                call()

        return busily

    def ended(self, result: JobResult) -> None:
        self._sent_at = 0.0
        self._send(Said.ENDED, result.model_dump(mode="json"))

    def _send(self, kind: Said, content: Any) -> None:
        with self._lock:
            self._write(kind, content)

    def _write(self, kind: Said, content: Any) -> None:
        self._connection.send_bytes(json.dumps({"kind": kind, "content": content}).encode())


class LoggedReport:
    """Writes to the job's log what a run measures, and passes it on."""

    def __init__(self, run: Run, report: Report) -> None:
        self._run = run
        self._report = report
        self._micro_batch = run.micro_batch
        self._recompute = run.recompute

    def evaluated(self, evaluation: Evaluation) -> None:
        log.info(
            "step %d: token accuracy %.2f%%, sequence accuracy %.2f%%, loss %.4f, training loss %.4f, after %.0f s",
            evaluation.step,
            100 * evaluation.val_tok_acc,
            100 * evaluation.val_seq_acc,
            evaluation.val_loss,
            evaluation.train_loss,
            evaluation.seconds,
        )
        self._report.evaluated(evaluation)

    def progressed(self, step: int, seconds: float, loss: float) -> None:
        if self._run.micro_batch != self._micro_batch:
            log.warning("step %d: out of memory, micro-batch %d from now on", step, self._run.micro_batch)
            self._micro_batch = self._run.micro_batch
        if self._run.recompute and not self._recompute:
            log.warning("step %d: out of memory, activations are recomputed from now on", step)
            self._recompute = True
        self._report.progressed(step, seconds, loss)

    def alive(self) -> None:
        self._report.alive()
