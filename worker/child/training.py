"""The training run: AdamW on answer tokens, evaluated on the whole validation set as it goes.

`train` is the experiment, readable top to bottom. It knows nothing of queues, processes or databases: what it
measures it hands to `report`, and everything it needs comes in as arguments.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch.nn.utils import clip_grad_norm_

from tasks import Example
from worker.child.batches import BatchOrder
from worker.child.evaluation import evaluate
from worker.child.memory import until_it_fits
from worker.child.passes import LOGITS_AT_ONCE, Batch, answer_loss, answer_states, autocast
from worker.child.run import Report, Run, is_over
from worker.errors import Diverged
from worker.job import JobSpec


def _nothing() -> None:
    """Where nobody keeps the run."""


def train(
    run: Run,
    spec: JobSpec,
    train_set: Sequence[Example],
    val_set: Sequence[Example],
    report: Report,
    *,
    keep: Callable[[], None] = _nothing,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Trains until the budget or a bound ends it, evaluating every `eval_every` steps and at the end.

    `keep` is called after each evaluation but the last; its time is not the run's. Raises Diverged when a loss is
    not finite, OutOfMemory when not even one example fits.
    """
    order = BatchOrder(lengths(train_set), spec.task.batch_size, spec.seed)
    progress, budget = run.progress, spec.budget
    before = progress.seconds
    _import_ahead(run, spec, train_set)
    start = clock()
    while not is_over(progress, spec):
        examples = [train_set[index] for index in order.batch(progress.step)]
        loss = _step(run, spec, examples)
        progress.step += 1
        progress.loss_sum += loss
        progress.loss_steps += 1
        progress.seconds = before + clock() - start
        report.progressed(progress.step, progress.seconds, loss)
        if budget.evaluates_at(progress.step) or is_over(progress, spec):
            evaluation = evaluate(run, spec, val_set, report)
            progress.seconds = before + clock() - start
            evaluation = evaluation.model_copy(update={"seconds": progress.seconds})
            progress.evaluations.append(evaluation)
            if run.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(run.device)
                progress.peak_memory_bytes = max(progress.peak_memory_bytes, peak)
            if progress.step % budget.eval_every == 0:  # a continuing run forgets an evaluation off this grid
                progress.loss_sum, progress.loss_steps = 0.0, 0
            report.evaluated(evaluation)
            if not is_over(progress, spec):
                began = clock()
                keep()
                start += clock() - began


def lengths(examples: Sequence[Example]) -> list[int]:
    """Tokens of each example, prompt and answer."""
    return [len(example.prompt) + len(example.answer) for example in examples]


def _import_ahead(run: Run, spec: JobSpec, train_set: Sequence[Example]) -> None:
    """Imports torch's compiler where something is recomputed: `checkpoint` does so at its first call, for seconds.

    They would be the run's: the first job of a process, a baseline, would have less of its budget than the next.
    """
    longest = sorted(len(example.answer) for example in train_set)[-spec.task.batch_size :]
    if run.recompute or sum(longest) > LOGITS_AT_ONCE:
        importlib.import_module("torch._dynamo")


def _step(run: Run, spec: JobSpec, examples: Sequence[Example]) -> float:
    """One optimizer step on a batch; returns the loss in nats per answer token."""
    for group in run.optimizer.param_groups:
        group["lr"] = group["base_lr"] * learning_rate_factor(spec, run.progress.step)
    loss = gradients(run, spec, examples)
    if not math.isfinite(loss):
        raise Diverged(f"the training loss is {loss} at step {run.progress.step + 1}")
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    if spec.optimizer.grad_clip:
        norm = clip_grad_norm_(parameters, spec.optimizer.grad_clip)
        if not torch.isfinite(norm):
            raise Diverged(f"the gradient's norm is {norm.item()} at step {run.progress.step + 1}")
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)  # an evaluation has their memory
    run.progress.tokens += sum(len(e.prompt) + len(e.answer) for e in examples)
    return loss


def gradients(run: Run, spec: JobSpec, examples: Sequence[Example]) -> float:
    """Gradients of the mean loss over all answer tokens of the batch, in as many micro-batches as memory asks for.

    Where the batch does not fit as it is, activations are recomputed first: that changes no bit. Returns the loss;
    raises OutOfMemory when not even one example fits.
    """

    def spare() -> bool:
        if not run.recompute:
            run.recompute = True
        elif run.micro_batch == 1:
            return False
        else:
            run.micro_batch //= 2
        return True

    return until_it_fits(lambda: _accumulate(run, spec, examples), spare)


def _accumulate(run: Run, spec: JobSpec, examples: Sequence[Example]) -> float:
    run.optimizer.zero_grad(set_to_none=True)
    n_tokens = sum(len(e.answer) for e in examples)
    total = 0.0
    positions = real_positions = 0
    for start in range(0, len(examples), run.micro_batch):
        batch = Batch.of(examples[start : start + run.micro_batch], run.device)
        with autocast(spec, run.device):
            hidden = answer_states(run.model, run.future_seed, batch, recompute=run.recompute)
            loss = answer_loss(run.model, hidden, batch.targets) / n_tokens
        loss.backward()
        total += loss.item()
        positions += batch.positions
        real_positions += batch.real_positions
    run.progress.positions += positions
    run.progress.real_positions += real_positions
    return total


def learning_rate_factor(spec: JobSpec, step: int) -> float:
    """The share of the full learning rate at a step: a linear warm-up, then constant or a cosine to zero."""
    warmup = spec.optimizer.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if spec.optimizer.schedule == "constant":
        return 1.0
    assert spec.budget.steps is not None  # noqa: S101  (a round with another budget is refused)
    share = (step - warmup) / (spec.budget.steps - warmup)
    return (1 + math.cos(math.pi * share)) / 2
