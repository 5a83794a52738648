"""What a pass through the model takes and gives: a batch as tensors, what predicts its answers, their loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model import RWKV7, FutureSeed
from tasks import Example
from worker.job import JobSpec

LOGITS_AT_ONCE = 1024  # answer positions per slice of the loss: bounds the (positions, vocabulary) tensor


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


def autocast(spec: JobSpec, device: torch.device) -> torch.autocast:
    """bf16 matrix products on CUDA; on CPU `bfloat16` means float32."""
    mixed = spec.model.dtype == "bfloat16" and device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)
