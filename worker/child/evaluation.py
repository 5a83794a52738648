"""Evaluation: teacher-forced, on the whole validation set, in batches that fit, without a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks import Example
from worker.child.batches import evaluation_batches, padded_positions
from worker.child.memory import until_it_fits
from worker.child.passes import LOGITS_AT_ONCE, Batch, answer_states, autocast
from worker.child.run import Report, Run
from worker.errors import Diverged
from worker.job import Evaluation, JobSpec

T = TypeVar("T")


def evaluate(run: Run, spec: JobSpec, val_set: Sequence[Example], report: Report) -> Evaluation:
    """Teacher-forced accuracy and loss on every validation example; raises Diverged, OutOfMemory."""
    return _in_fitting_batches(run, val_set, lambda: _evaluate_all(run, spec, val_set, report))


def try_evaluation(run: Run, spec: JobSpec, val_set: Sequence[Example]) -> None:
    """Finds out in what batches the validation examples fit; raises OutOfMemory.

    Tried are the batch of the longest examples, that of the most positions, and that of the most examples, which each
    bring a state.
    """

    def extremes() -> None:
        batches = list(_evaluation_batches(run, val_set))
        most = max(batches, key=lambda batch: padded_positions(_lengths(val_set, batch)))
        for indices in dict.fromkeys((batches[0], most, max(batches, key=len))):
            predict(run, spec, Batch.of([val_set[index] for index in indices], run.device))

    _in_fitting_batches(run, val_set, extremes)


def _in_fitting_batches(run: Run, val_set: Sequence[Example], attempt: Callable[[], T]) -> T:
    """Evaluates in smaller and smaller batches until they fit; raises OutOfMemory when not even one example does."""

    def halve() -> bool:
        if all(len(batch) == 1 for batch in _evaluation_batches(run, val_set)):
            return False
        run.evaluation_tokens //= 2
        return True

    return until_it_fits(attempt, halve)


def _evaluation_batches(run: Run, val_set: Sequence[Example]) -> Iterator[tuple[int, ...]]:
    return evaluation_batches(_lengths(val_set, range(len(val_set))), run.evaluation_tokens)


def _lengths(examples: Sequence[Example], indices: Iterable[int]) -> list[tuple[int, int]]:
    """Tokens of prompt and answer."""
    return [(len(examples[index].prompt), len(examples[index].answer)) for index in indices]


def _evaluate_all(run: Run, spec: JobSpec, val_set: Sequence[Example], report: Report) -> Evaluation:
    """Counts what is right per example."""
    correct = [0] * len(val_set)
    predicted: set[int] = set()
    loss = 0.0
    for indices in _evaluation_batches(run, val_set):
        report.alive()
        batch = Batch.of([val_set[index] for index in indices], run.device)
        guesses, batch_loss = predict(run, spec, batch)
        loss += batch_loss
        predicted.update(guesses.unique().tolist())
        hits = (guesses == batch.targets).cpu().split(batch.sizes)
        for index, hit in zip(indices, hits, strict=True):
            correct[index] = int(hit.sum())
    if not math.isfinite(loss):
        raise Diverged(f"the validation loss is {loss} at step {run.progress.step}")
    n_tokens = sum(len(e.answer) for e in val_set)
    whole = sum(count == len(e.answer) for count, e in zip(correct, val_set, strict=True))
    return Evaluation(
        step=run.progress.step,
        seconds=run.progress.seconds,
        tokens=run.progress.tokens,
        train_loss=run.progress.loss_sum / run.progress.loss_steps,
        val_loss=loss / n_tokens,
        val_tok_acc=sum(correct) / n_tokens,
        val_seq_acc=whole / len(val_set),
        distinct_predictions=len(predicted),
        correct=tuple(correct),
    )


@torch.no_grad()
def predict(run: Run, spec: JobSpec, batch: Batch) -> tuple[Tensor, float]:
    """The most likely token at each answer position (N,), and the summed loss.

    Scores are float32 also where training has bfloat16: there a near second would often tie with the first.
    """
    with autocast(spec, run.device):
        hidden = answer_states(run.model, run.future_seed, batch)
    guesses, loss = [], 0.0
    for states, goals in zip(hidden.split(LOGITS_AT_ONCE), batch.targets.split(LOGITS_AT_ONCE), strict=True):
        logits = run.model.logits(states.float())
        guesses.append(logits.argmax(-1))
        loss += F.cross_entropy(logits, goals, reduction="sum").item()
    return torch.cat(guesses), loss
