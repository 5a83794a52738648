"""The state of one training run, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from model import RWKV7, FutureSeed
from worker.child.optimizer import AdamW
from worker.job import Evaluation, JobSpec, Stop

EVALUATION_TOKENS = 16384  # positions per evaluation batch, where they fit


class Report(Protocol):
    """Receives what a run measures while it runs."""

    def evaluated(self, evaluation: Evaluation) -> None: ...
    def progressed(self, step: int, seconds: float, loss: float) -> None: ...
    def alive(self) -> None: ...


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


def is_over(progress: Progress, spec: JobSpec) -> bool:
    budget = spec.budget
    out_of_steps = budget.steps is not None and progress.step >= budget.steps
    out_of_time = budget.seconds is not None and progress.seconds >= budget.seconds
    return out_of_steps or (out_of_time and progress.step > 0) or stopped(progress, spec) is not None


def stopped(progress: Progress, spec: JobSpec) -> Stop | None:
    """Where a run ended because it was too far below its baseline."""
    return None if spec.early_stop is None else spec.early_stop.stop(progress.evaluations)
