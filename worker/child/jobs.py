"""One job, from its loading to its result, whatever that is."""

from __future__ import annotations

import logging

import torch

from model import default_backend
from worker.child.fitting import fit
from worker.child.memory import is_held_by_others, is_limited, is_out_of_memory
from worker.child.reporting import ConnectionReport, LoggedReport
from worker.child.resources import Resources
from worker.child.run import Run, start_run, stopped
from worker.child.snapshots import Keeping, Snapshots
from worker.child.training import train
from worker.errors import JobFailed, OutOfMemory
from worker.job import JobResult, JobSpec, Metrics, Outcome, Usage

log = logging.getLogger(__name__)


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
    except (OSError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return _out_of_memory(error, fits=fits or is_held_by_others(resources.device))
        if isinstance(error, OSError):
            return JobResult(outcome=Outcome.INFRA_FAILED, reason=str(error))
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
