"""Finding out before training what fits into memory.

Where memory has a limit the largest batch there can be is tried once, with room left for the optimizer, so that a run
dies of it at its start or never, and arms of one kind start with the same micro-batch. Where it has none, activations
are recomputed once they would take much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from tasks import Example
from worker.child.evaluation import try_evaluation
from worker.child.memory import TOO_LARGE, is_limited, is_out_of_memory, kept_bytes
from worker.child.passes import Batch, answer_states, autocast
from worker.child.run import Run
from worker.child.training import gradients, lengths
from worker.errors import OutOfMemory
from worker.job import JobSpec
from worker.process_memory import give_back


class Shapes(NamedTuple):
    """What decides how much memory a run takes."""

    model: tuple[int, ...]
    dtype: str
    has_future_seed: bool
    longest_batch: tuple[tuple[int, int], ...]  # prompt and answer tokens of each example
    longest_evaluated: tuple[int, int]


class Fitting(NamedTuple):
    """What fitted."""

    micro_batch: int
    evaluation_tokens: int
    recompute: bool


def fit(
    run: Run,
    spec: JobSpec,
    train_set: Sequence[Example],
    val_set: Sequence[Example],
    known: dict[Shapes, Fitting],
    activation_bytes: int,
) -> None:
    """Sets how a fresh run goes about its batches.

    Activations of more than `activation_bytes` are recomputed in the backward pass; where memory has a limit, the
    micro-batch and the evaluation batches are those that fit. `known` remembers. Raises OutOfMemory when not even
    one example fits.
    """
    batch = _largest(train_set, spec.task.batch_size)
    evaluated = max(val_set, key=_length)
    facts = spec.model_facts
    shapes = Shapes(
        model=(facts.n_layer, facts.n_embd, facts.n_head, facts.vocab_size),
        dtype=spec.model.dtype,
        has_future_seed=run.future_seed is not None,
        longest_batch=tuple((len(e.prompt), len(e.answer)) for e in batch),
        longest_evaluated=(len(evaluated.prompt), len(evaluated.answer)),
    )
    if shapes not in known:
        give_back()  # blocks of other sizes than this run takes
        try:
            run.recompute = _takes_more(run, spec, batch, activation_bytes)
            known[shapes] = _try(run, spec, batch, val_set) if is_limited(run.device) else _fitting(run)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise OutOfMemory(f"{TOO_LARGE}: {error}") from error
            raise
    run.micro_batch, run.evaluation_tokens, run.recompute = known[shapes]


def _largest(examples: Sequence[Example], size: int) -> list[Example]:
    """A batch at least as long as any, once padded: the longest prompts, each beside one of the longest answers."""
    prompts = sorted((example.prompt for example in examples), key=len)[-size:]
    answers = sorted((example.answer for example in examples), key=len)[-size:]
    return [Example("largest", *parts) for parts in zip(prompts, answers, strict=True)]


def _takes_more(run: Run, spec: JobSpec, batch: Sequence[Example], activation_bytes: int) -> bool:
    try:
        one = activations(run, spec, [batch[-1]])
        if len(batch) == 1 or one > activation_bytes:
            return one > activation_bytes
        # without what is kept once: weights in bfloat16
        further = activations(run, spec, [batch[-1]] * 2) - one
        return one + (len(batch) - 1) * further > activation_bytes
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return True
        raise


def activations(run: Run, spec: JobSpec, batch: Sequence[Example]) -> int:
    """Bytes that the forward pass over a batch keeps for the backward pass when nothing is recomputed."""
    with autocast(spec, run.device), kept_bytes(run.model.parameters()) as kept:
        answer_states(run.model, run.future_seed, Batch.of(batch, run.device))
    return kept()


def _length(example: Example) -> int:
    return lengths([example])[0]


def _try(run: Run, spec: JobSpec, batch: Sequence[Example], val_set: Sequence[Example]) -> Fitting:
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    room = [torch.empty_like(p) for p in parameters for _ in range(2)]  # AdamW's two moments
    gradients(run, spec, batch)
    run.optimizer.zero_grad(set_to_none=True)
    try_evaluation(run, spec, val_set)
    del room
    run.progress.positions = run.progress.real_positions = 0
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    return _fitting(run)


def _fitting(run: Run) -> Fitting:
    return Fitting(run.micro_batch, run.evaluation_tokens, run.recompute)
