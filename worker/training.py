"""The training run: AdamW on answer tokens, evaluated on the whole validation set as it goes.

`train` is the experiment, readable top to bottom. It knows nothing of queues, processes or databases: what it
measures it hands to `report`, and everything it needs comes in as arguments.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from model import RWKV7, FutureSeed
from tasks import Example
from worker.batches import BatchOrder, evaluation_batches, padded_positions
from worker.errors import Diverged, OutOfMemory
from worker.job import Evaluation, JobSpec, Stop
from worker.memory import is_out_of_memory
from worker.optimizer import AdamW

LOGITS_AT_ONCE = 1024  # answer positions per slice of the loss: bounds the (positions, vocabulary) tensor
TOO_LARGE = "one example at a time does not fit into the device's memory"
EVALUATION_TOKENS = 16384  # positions per evaluation batch, where they fit

T = TypeVar("T")


class Report(Protocol):
    """Receives what a run measures while it runs."""

    def evaluated(self, evaluation: Evaluation) -> None: ...
    def progressed(self, step: int, seconds: float, loss: float) -> None: ...
    def alive(self) -> None: ...


def _nothing() -> None:
    """Where nobody keeps the run."""


@dataclass
class Progress:
    """How far a run has come: all that a snapshot needs beside weights and optimizer."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0  # real ones
    real_positions: int = 0  # positions computed that hold a token
    positions: int = 0  # padding included
    loss_sum: float = 0.0  # of the steps since the last multiple of eval_every
    loss_steps: int = 0
    peak_memory_bytes: int = 0  # of the accelerator
    continued_from: int = 0  # steps taken over from an earlier stage
    evaluations: list[Evaluation] = field(default_factory=list)


@dataclass
class Run:
    """The state of one training run."""

    model: RWKV7
    future_seed: FutureSeed | None
    optimizer: AdamW
    progress: Progress = field(default_factory=Progress)
    micro_batch: int = 0
    evaluation_tokens: int = EVALUATION_TOKENS
    recompute: bool = False  # activations, in the backward pass

    @property
    def device(self) -> torch.device:
        return self.model.emb.weight.device


def start_run(spec: JobSpec, model: RWKV7) -> Run:
    """A run at step 0 on freshly loaded weights."""
    # nothing here draws random numbers; what a plug-in draws is at least the same
    torch.manual_seed(spec.seed)
    future_seed = None
    device = model.emb.weight.device
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in model.parameters() if p.requires_grad],
            "lr": spec.optimizer.lr,
            "weight_decay": spec.optimizer.weight_decay,
        }
    ]
    if spec.future_seed is not None:
        future_seed = FutureSeed(spec.future_seed, model.shape).to(device)
        groups += [dict(group) for group in future_seed.parameter_groups()]
    for group in groups:
        group["base_lr"] = group["lr"]
    optimizer = AdamW(groups, spec.optimizer.betas)
    return Run(model, future_seed, optimizer, micro_batch=spec.task.examples_a_step)


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
    while not _is_over(progress, spec):
        examples = [train_set[index] for index in order.batch(progress.step)]
        loss = _step(run, spec, examples)
        progress.step += 1
        progress.loss_sum += loss
        progress.loss_steps += 1
        progress.seconds = before + clock() - start
        report.progressed(progress.step, progress.seconds, loss)
        if budget.evaluates_at(progress.step) or _is_over(progress, spec):
            evaluation = _evaluate(run, spec, val_set, report)
            progress.seconds = before + clock() - start
            evaluation = evaluation.model_copy(update={"seconds": progress.seconds})
            progress.evaluations.append(evaluation)
            if run.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(run.device)
                progress.peak_memory_bytes = max(progress.peak_memory_bytes, peak)
            if progress.step % budget.eval_every == 0:  # a continuing run forgets an evaluation off this grid
                progress.loss_sum, progress.loss_steps = 0.0, 0
            report.evaluated(evaluation)
            if not _is_over(progress, spec):
                began = clock()
                keep()
                start += clock() - began


def lengths(examples: Sequence[Example]) -> list[int]:
    """Tokens of each example, prompt and answer."""
    return [len(example.prompt) + len(example.answer) for example in examples]


def _is_over(progress: Progress, spec: JobSpec) -> bool:
    budget = spec.budget
    out_of_steps = budget.steps is not None and progress.step >= budget.steps
    out_of_time = budget.seconds is not None and progress.seconds >= budget.seconds
    return out_of_steps or (out_of_time and progress.step > 0) or stopped(progress, spec) is not None


def stopped(progress: Progress, spec: JobSpec) -> Stop | None:
    """Where a run ended because it was too far below its baseline."""
    return None if spec.early_stop is None else spec.early_stop.stop(progress.evaluations)


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
    while True:
        try:
            return _accumulate(run, spec, examples)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = str(error)
        if not run.recompute:  # outside the handler: it would keep the failed step's tensors alive
            run.recompute = True
        elif run.micro_batch == 1:
            raise OutOfMemory(f"{TOO_LARGE}: {said}")
        else:
            run.micro_batch //= 2
        torch.cuda.empty_cache()


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
    share = (step - warmup) / max(1, spec.budget.steps - warmup)
    return (1 + math.cos(math.pi * min(1.0, share))) / 2


@dataclass(frozen=True)
class Batch:
    """Examples as tensors, padded on the right.

    The answer's last token is only a target, its first one is predicted from the prompt's last position. What is
    known of the shape is known on the CPU: nothing in a pass has to wait for the device.
    """

    prompt: Tensor  # (B, Tp) int64
    prompt_lengths: Tensor  # (B,), on the CPU
    answer: Tensor  # (B, Ta) int64: the answer without its last token
    targets: Tensor  # (N,) int64: all answer tokens, example by example
    predicting: Tensor  # (N,) int64: which of B (1 + Ta) positions, from prompts' ends on, predicts each
    sizes: tuple[int, ...]  # answer tokens of each example

    @classmethod
    def of(cls, examples: Sequence[Example], device: torch.device) -> Batch:
        prompt, prompt_lengths = _padded([e.prompt for e in examples])
        answer, answer_lengths = _padded([e.answer[:-1] for e in examples])
        targets = torch.cat([torch.as_tensor(e.answer, dtype=torch.int64) for e in examples])
        positions = torch.arange(1 + answer.shape[1])
        predicting = (positions <= answer_lengths.unsqueeze(1)).flatten().nonzero().squeeze(1)
        return cls(
            prompt.to(device),
            prompt_lengths,
            answer.to(device),
            targets.to(device),
            predicting.to(device),
            tuple(len(e.answer) for e in examples),
        )

    @property
    def positions(self) -> int:
        """Positions computed, padding included."""
        return self.prompt.numel() + self.answer.numel()

    @property
    def real_positions(self) -> int:
        return int(self.prompt_lengths.sum()) + len(self.targets) - len(self.sizes)


def _padded(rows: Sequence[object]) -> tuple[Tensor, Tensor]:
    tensors = [torch.as_tensor(row, dtype=torch.int64) for row in rows]
    lengths = torch.tensor([len(row) for row in tensors])
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), lengths


def answer_states(
    model: RWKV7, future_seed: FutureSeed | None, batch: Batch, *, recompute: bool = False
) -> Tensor:
    """The hidden state that predicts each answer token: (N, C), example by example.

    Future-Seed acts on the prompts only; the state that they end in, whole, starts the answers.
    """
    hidden = model.teacher_forced(
        batch.prompt, batch.answer, future_seed, batch.prompt_lengths, recompute=recompute
    )
    return hidden.flatten(0, 1)[batch.predicting]


def answer_loss(model: RWKV7, hidden: Tensor, targets: Tensor) -> Tensor:
    """The summed cross-entropy of (N, C) states; at most LOGITS_AT_ONCE rows of logits exist at a time."""
    losses = [
        torch.utils.checkpoint.checkpoint(_sliced_loss, model, states, goals, use_reentrant=False)
        if len(targets) > LOGITS_AT_ONCE
        else _sliced_loss(model, states, goals)
        for states, goals in zip(hidden.split(LOGITS_AT_ONCE), targets.split(LOGITS_AT_ONCE), strict=True)
    ]
    return torch.stack(losses).sum()


def _sliced_loss(model: RWKV7, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model.logits(hidden).float(), targets, reduction="sum")


def _evaluate(run: Run, spec: JobSpec, val_set: Sequence[Example], report: Report) -> Evaluation:
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


def _in_fitting_batches(run: Run, val_set: Sequence[Example], evaluate: Callable[[], T]) -> T:
    """Evaluates in smaller and smaller batches until they fit; raises OutOfMemory when not even one example does."""
    while True:
        try:
            return evaluate()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = str(error)
        if all(len(batch) == 1 for batch in _evaluation_batches(run, val_set)):
            raise OutOfMemory(f"{TOO_LARGE}: {said}")
        run.evaluation_tokens //= 2
        torch.cuda.empty_cache()


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


def autocast(spec: JobSpec, device: torch.device) -> torch.autocast:
    """bf16 matrix products on CUDA; on CPU `bfloat16` means float32."""
    mixed = spec.model.dtype == "bfloat16" and device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)
