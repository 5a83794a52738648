"""The process that trains: takes one job after another from its supervisor and stays warm between them.

Weights, examples and kernels are loaded once. What a job prints, native code included, goes to that job's
log. Messages are JSON over one connection; when the supervisor dies, this process dies with it.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from socket import gethostname
from threading import Lock, Thread
from typing import Any

import torch

from model import RWKV7, default_backend, get_tokenizer, random_state_dict
from model.checkpoint import digest, read
from model.errors import ModelError
from tasks import DataUnavailable, Example, TaskConfig, TaskError, build
from worker.downloads import checkpoint_file
from worker.errors import BuildFailed, InfrastructureFailed, JobFailed, OutOfMemory, Unreachable
from worker.fitting import Fitting, Shapes, fit
from worker.job import (
    Evaluation,
    HubCheckpoint,
    JobResult,
    JobSpec,
    Metrics,
    Outcome,
    RandomCheckpoint,
    Usage,
)
from worker.memory import is_held_by_others, is_limited, is_out_of_memory
from worker.process import Said
from worker.process_memory import give_back
from worker.snapshots import Keeping, Snapshots
from worker.training import Report, Run, start_run, stopped, train

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25
IDLE_SECONDS = 2.0  # without a job, after which memory goes back to the system
SIGN_SECONDS = 2.0  # between signs of life while loading
LONGEST_LOADING = 3600.0
REMEDY = f"; `fsq retry` once {gethostname()} has what was there then, or submit it under a new name"
ONE_THREAD_BELOW = 256  # model width under which a second thread costs more than it brings


class Resources:
    """What stays loaded between jobs: one set of base weights, and the examples used last."""

    def __init__(self, device: torch.device, cache: Path, activation_bytes: int) -> None:
        self.device = device
        self.activation_bytes = activation_bytes
        self._threads = torch.get_num_threads()
        self._cache = cache
        self._digest = ""
        self._weights: dict[str, torch.Tensor] = {}
        self._model: RWKV7 | None = None
        self._examples: dict[str, tuple[Sequence[Example], Sequence[Example]]] = {}
        self.fitting: dict[Shapes, Fitting] = {}  # what fitted into memory

    def model(self, spec: JobSpec) -> RWKV7:
        """The model with its weights as in the checkpoint."""
        if self._model is None or self._digest != spec.model_facts.digest:
            self._weights, self._model, self._digest = {}, None, ""  # not both in memory
            self._weights = _weights(spec)
            self._model = RWKV7.from_state_dict(self._weights, device=self.device)
            self._digest = spec.model_facts.digest
            # the kernel is tested, in a thread, while there is memory
            default_backend(self.device, head_size=self._model.shape.head_size)
        self._model.load_state_dict(self._weights)
        self._model.zero_grad(set_to_none=True)
        return self._model

    def use_threads_for(self, spec: JobSpec) -> None:
        """Lets torch, in the whole process, have as many threads as a model of this size gains from."""
        torch.set_num_threads(1 if spec.model_facts.n_embd < ONE_THREAD_BELOW else self._threads)

    def rest(self) -> None:
        """Holds no more memory than weights and examples take, until the next job."""
        if self._model is not None:
            self._model.zero_grad(set_to_none=True)
        give_back()
        torch.cuda.empty_cache()

    def examples(self, spec: JobSpec) -> tuple[Sequence[Example], Sequence[Example]]:
        """Training and validation examples; raises BuildFailed when they are not those of the submission."""
        if spec.examples_digest not in self._examples:
            try:
                tokenizer = get_tokenizer(spec.model.tokenizer)
                train_set, val_set, report = build(spec.task, tokenizer, cache_dir=self._cache)
            except DataUnavailable as error:
                raise InfrastructureFailed(str(error)) from error
            except TaskError as error:
                raise BuildFailed(str(error)) from error
            if report.digest != spec.examples_digest:
                raise BuildFailed(
                    f"the data ({_places(spec.task)}), or the code of task kind {spec.task.kind!r}, "
                    f"changed since the round was submitted{REMEDY}"
                )
            self._examples = {spec.examples_digest: (train_set, val_set)}
        return self._examples[spec.examples_digest]


def _weights(spec: JobSpec) -> dict[str, torch.Tensor]:
    source = spec.model.checkpoint
    if isinstance(source, RandomCheckpoint):
        return random_state_dict(source.random.shape, source.random.seed)
    path, wanted = spec.model_facts.path, spec.model_facts.digest
    assert path is not None  # noqa: S101  (only random models have no file)
    try:
        if not isinstance(source, HubCheckpoint):
            found = digest(path)
        elif not path.exists() or (found := digest(path)) != wanted:
            path, found = _fetched(source, spec.model_facts.revision)
        if found != wanted:
            raise BuildFailed(f"the checkpoint changed since the round was submitted{REMEDY}")
        # copies: what is read may be the file itself, mapped into memory, and change with it
        return {name: tensor.clone() for name, tensor in read(path).items()}
    except (ModelError, OSError, Unreachable) as error:
        raise InfrastructureFailed(str(error)) from error


def _fetched(source: HubCheckpoint, revision: str | None) -> tuple[Path, str]:
    try:
        return checkpoint_file(source, revision)
    except ModelError as error:  # the hub no longer has it
        raise BuildFailed(str(error)) from error


def _places(task: TaskConfig) -> str:
    """Where a task's rows come from."""
    data = task.data
    if data is None:
        return "generated"
    if data.hub is not None:
        return data.hub.repo
    return ", ".join(map(str, data.files.values()))


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


def run_job(spec: JobSpec, resources: Resources, snapshots: Snapshots, report: ConnectionReport) -> JobResult:
    """Runs one job to its end, whatever that is, and logs it."""
    log.info("job %s: %s", spec.fingerprint[:16], _in_words(spec))
    result = _attempt(spec, resources, snapshots, report)
    log.info("ended: %s%s", result.outcome, f": {result.reason}" if result.reason else "")
    return result


def _in_words(spec: JobSpec) -> str:
    budget = spec.budget
    limits = [f"{budget.steps} steps"] if budget.steps else []
    limits += [f"{budget.seconds:g} s"] if budget.seconds else []
    settings = spec.future_seed and spec.future_seed.model_dump_json(exclude_none=True)
    arm = f"Future-Seed {settings}" if settings else "baseline"
    return f"{spec.task.kind}, {arm}, seed {spec.seed}, at most {' or '.join(limits)}"


def _attempt(
    spec: JobSpec, resources: Resources, snapshots: Snapshots, report: ConnectionReport
) -> JobResult:
    fits = spec.follows or snapshots.has(spec)  # what was trained before fitted
    try:
        with report.busy():
            train_set, val_set = resources.examples(spec)
            log.info("%d training and %d validation examples", len(train_set), len(val_set))
            resources.use_threads_for(spec)
            run = start_run(spec, resources.model(spec))
            if snapshots.restore(spec, run):
                log.info("continues from the snapshot at step %d", run.progress.step)
            else:
                fit(run, spec, train_set, val_set, resources.fitting, resources.activation_bytes)
            fits = fits or is_limited(run.device)  # it was tried, now or before the snapshot
        for evaluation in run.progress.evaluations:
            report.evaluated(evaluation)
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(run.device)
        keeping = Keeping(snapshots, spec, run)
        train(run, spec, train_set, val_set, LoggedReport(run, report), keep=report.while_busy(keeping))
        stop = stopped(run.progress, spec)
        if spec.continues and stop is None:
            report.while_busy(lambda: snapshots.save(spec, run))()
    except OutOfMemory as error:
        return _out_of_memory(error, fits=fits or is_held_by_others(resources.device))
    except JobFailed as failure:
        return JobResult(outcome=failure.outcome, reason=str(failure))
    except OSError as error:
        return JobResult(outcome=Outcome.INFRA_FAILED, reason=str(error))
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return _out_of_memory(error, fits=fits or is_held_by_others(resources.device))
        raise
    metrics = Metrics.of(run.progress.evaluations)
    if stop is not None:
        return JobResult(outcome=Outcome.STOPPED, reason=stop.reason, partial=metrics, usage=_usage(run))
    return JobResult(outcome=Outcome.OK, metrics=metrics, usage=_usage(run))


def _out_of_memory(error: Exception, *, fits: bool) -> JobResult:
    """A run that fitted before, or may well fit, does not because others hold the memory: it waits for them."""
    if fits:
        reason = f"the memory that it needs is in other hands: {error!r}"
        return JobResult(outcome=Outcome.INFRA_FAILED, reason=reason)
    return JobResult(outcome=Outcome.OOM, reason=str(error) or "out of memory")


def _usage(run: Run) -> Usage:
    device = run.device
    on_cuda = device.type == "cuda"
    return Usage(
        device=torch.cuda.get_device_name(device) if on_cuda else "cpu",
        kernel=default_backend(device, head_size=run.model.shape.head_size),
        micro_batch=run.micro_batch,
        padding_share=round(1 - run.progress.real_positions / run.progress.positions, 6),
        peak_memory_bytes=run.progress.peak_memory_bytes if on_cuda else None,
        continued_from=run.progress.continued_from,
    )


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


def be_reproducible() -> None:
    """Has torch compute the same bits again, or refuse."""
    # use_deterministic_algorithms does the same, and imports torch's compiler
    torch.set_deterministic_debug_mode("error")
    # or it would fill what is about to be written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def main(arguments: Sequence[str]) -> None:
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
