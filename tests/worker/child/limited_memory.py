"""A program for test_memory: computes gradients, an evaluation or a whole run under a limit of memory.

`python -m tests.worker.child.limited_memory OUTPUT MEGABYTES`: so many more than with the model loaded; 0: no limit.
"""

from __future__ import annotations

import importlib
import json
import re
import resource
import sys
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from model import default_backend, get_tokenizer
from tasks import build
from tests.model.model_samples import live_model
from tests.worker.child.factories import Recorder
from tests.worker.factories import make_job, task_options
from worker.child.fitting import Fitting, Shapes, fit
from worker.child.jobs import run_job
from worker.child.reporting import ConnectionReport
from worker.child.resources import Resources
from worker.child.run import start_run
from worker.child.snapshots import Snapshots
from worker.child.training import gradients, train
from worker.errors import OutOfMemory
from worker.job import JobSpec, ModelConfig, RandomCheckpoint, RandomInit

MODEL = ModelConfig(
    checkpoint=RandomCheckpoint(random=RandomInit(layers=4, dim=256, vocab=256)),
    tokenizer="bytes",
    dtype="float32",
)
TASK = task_options(size=9, blanks=40, train=16, val=16, batch_size=16)


def data_bytes() -> int:
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def ending(job: JobSpec, report: ConnectionReport) -> str:
    """How the training process ends a job here."""
    with TemporaryDirectory() as home:
        resources = Resources(torch.device("cpu"), Path(home) / "cache", 2**40)
        return run_job(job, resources, Snapshots(Path(home), 0), report).outcome


def main(output: Path, megabytes: int) -> None:
    torch.set_num_threads(1)
    job = make_job(steps=1, eval_every=1, task=TASK, model=MODEL)
    train_set, val_set, _ = build(TASK, get_tokenizer("bytes"))
    run = start_run(job, live_model(4, 256, 256, 64))
    importlib.import_module(
        "torch._dynamo"
    )  # by torch.utils.checkpoint, when first needed: not of the limited memory
    default_backend()  # this and the report as in the training process: their threads start before memory is short
    _ours, theirs = Pipe()
    report = ConnectionReport(theirs)
    if megabytes:
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + megabytes * 2**20,) * 2)
    known: dict[Shapes, Fitting] = {}
    found: dict[str, Any] = {}
    try:
        fit(run, job, train_set, val_set, known, 2**40)
        found["fitted"] = [run.micro_batch, run.evaluation_tokens, run.recompute]
        found["loss"] = gradients(run, job, train_set)
        torch.save({name: p.grad for name, p in run.model.named_parameters()}, output.with_suffix(".pt"))
        recorder = Recorder()
        train(run, job, train_set, val_set, recorder)
        found["micro_batch"] = run.micro_batch
        found["accuracy"] = recorder.evaluations[-1].val_tok_acc
        found["val_loss"] = recorder.evaluations[-1].val_loss
        again = start_run(job, run.model)
        fit(again, job, train_set, val_set, known, 2**40)
        found["remembered"] = [again.micro_batch, again.evaluation_tokens, again.recompute]
    except OutOfMemory as error:
        found["out_of_memory"] = str(error)
        follows = job.model_copy(update={"follows": True})
        found["outcomes"] = [ending(job, report), ending(follows, report)]
    output.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
