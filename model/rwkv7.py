"""RWKV-7 ("Goose", x070) as the official code computes it, with the state as an explicit input and output."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from model import checkpoint
from model.channel_mix import ChannelMix
from model.errors import ShapeError
from model.future_seed import FutureSeed
from model.parts import Parts
from model.settings import FutureSeedSettings
from model.shapes import ModelShape
from model.state import LayerState, State, zero_state
from model.time_mix import TimeMix


def load(path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> "RWKV7":
    """Return the model in a checkpoint file, its parameters in `dtype` whatever the file has.

    Raises `CheckpointError` if the file is not a usable checkpoint.
    """
    return RWKV7.from_state_dict(checkpoint.read(path), dtype=dtype, device=device)


# from the residual stream, the state, the values of block 0 and the parts, to the first three
RunBlock = Callable[[Tensor, LayerState, Tensor | None, Parts], tuple[Tensor, LayerState, Tensor]]


class Block(nn.Module):
    """One layer: attention and FFN, each on a normalised residual stream; the first also normalises embeddings."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.ln0 = nn.LayerNorm(shape.n_embd) if layer == 0 else None
        self.ln1, self.ln2 = nn.LayerNorm(shape.n_embd), nn.LayerNorm(shape.n_embd)
        self.att = TimeMix(shape, layer)
        self.ffn = ChannelMix(shape)

    def forward(
        self, x: Tensor, state: LayerState, v_first: Tensor | None, parts: Parts
    ) -> tuple[Tensor, LayerState, Tensor]:
        """Return the residual stream after this block, the state after the first part and the values of block 0."""
        x, to_att, wkv, v_first = self._attend(x, state, v_first, parts)
        to_ffn = self.ln2(x)
        before = state.ffn_shift.to(x.dtype)
        x = x + self.ffn(to_ffn, before, parts)
        att_shift = parts.last(to_att, state.att_shift.to(x.dtype))
        return x, LayerState(att_shift, wkv, parts.last(to_ffn, before)), v_first

    def without_shifts(
        self, x: Tensor, state: LayerState, v_first: Tensor | None, parts: Parts
    ) -> tuple[Tensor, LayerState, Tensor]:
        """`forward` for a pass whose state nobody continues: the shifts in the returned state are the old ones."""
        x, _, wkv, v_first = self._attend(x, state, v_first, parts)
        x = x + self.ffn(self.ln2(x), state.ffn_shift, parts)
        return x, state._replace(wkv=wkv), v_first

    def to_the_tail(
        self, x: Tensor, state: LayerState, v_first: Tensor | None, parts: Parts
    ) -> tuple[Tensor, LayerState, Tensor]:
        """`forward` for the last block, returning `Parts.tail` only, whose tokens alone go through the FFN."""
        x, _, wkv, v_first = self._attend(x, state, v_first, parts)
        before = parts.or_else(self.ln2(parts.before_last(x)), state.ffn_shift)
        x = parts.tail(x)
        x = x + self.ffn(self.ln2(x), before, Parts(x.shape[0], x.shape[1], None, x.device))
        return x, state._replace(wkv=wkv), v_first

    def _attend(
        self, x: Tensor, state: LayerState, v_first: Tensor | None, parts: Parts
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the residual stream after the attention, its input, wkv and the values of block 0."""
        if self.ln0 is not None:
            x = self.ln0(x)
        to_att = self.ln1(x)
        before = state.att_shift.to(x.dtype)
        mixed, wkv, v_first = self.att(to_att, before, state.wkv, v_first, parts)
        return x + mixed, to_att, wkv, v_first


class RWKV7(nn.Module):
    """The network. Parameters carry the official names; a new one is empty until a state dict is loaded."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        # drawing random weights that hold nothing (on "meta") would import torch's compiler, which takes seconds
        weights = torch.empty(shape.vocab_size, shape.n_embd)
        self.emb: nn.Embedding = nn.Embedding.from_pretrained(weights, freeze=False)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.n_layer))
        self.ln_out = nn.LayerNorm(shape.n_embd)
        self.head = nn.Linear(shape.n_embd, shape.vocab_size, bias=False)

    @classmethod
    def from_state_dict(
        cls,
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Return a model with a copy of official tensors.

        Raises `CheckpointError` if they are not the tensors of one RWKV-7.
        """
        shape = ModelShape.infer({key: tuple(tensor.shape) for key, tensor in tensors.items()})
        with torch.device("meta"):
            model = cls(shape)
        copies = {key: tensor.to(device=device, dtype=dtype, copy=True) for key, tensor in tensors.items()}
        model.load_state_dict(copies, assign=True)
        return model

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        future_seed: FutureSeed | FutureSeedSettings | None = None,
        lengths: Tensor | None = None,
        *,
        recompute: bool = False,
    ) -> tuple[Tensor, State]:
        """Run (B, T) int64 tokens from a state (default: nothing seen yet).

        `lengths` (B,) counts the real tokens of right padded rows: padding leaves the state as it is, and the
        output there has no meaning. `future_seed` (prompt pass only) seeds the memory of each layer, on top of
        `state`; settings instead of a module stand for gates as they are before training. With `recompute` each
        block keeps only its inputs for the backward pass and computes the rest again there (activation
        checkpointing): the same bits for a small part of the memory and more time.

        Returns the hidden states (B, T, C) after the last normalisation, for `logits`, and the new state.
        Raises `ShapeError` for tokens or lengths that do not fit.
        """
        _check(tokens, lengths)
        x = self.emb(tokens)
        if state is None:
            state = zero_state(self.shape, tokens.shape[0], x.dtype, x.device)
        if tokens.shape[1] == 0:
            return x, state
        parts = Parts(tokens.shape[0], tokens.shape[1], lengths, x.device)
        runs: list[RunBlock] = list(self.blocks)
        x, state = self._run(runs, x, state, future_seed, parts, recompute=recompute)
        return self.ln_out(x), state

    def teacher_forced(
        self,
        prompts: Tensor,
        answers: Tensor,
        future_seed: FutureSeed | FutureSeedSettings | None = None,
        lengths: Tensor | None = None,
        *,
        recompute: bool = False,
    ) -> Tensor:
        """Run prompts (B, Tp), seeded as `forward` has it, and from the state that they end in answers (B, Ta).

        In one pass, which takes half as many operations as two, and leaves out of the last block's FFN what nothing
        in the answers depends on. `lengths` (B,) counts the real tokens of the prompts, at least 1. Returns the
        hidden states (B, 1 + Ta, C) from each prompt's last token on, which predict the answer. Raises `ShapeError`.
        """
        _check(prompts, lengths)
        B, Tp = prompts.shape
        if answers.dim() != 2 or len(answers) != B or Tp == 0 or (lengths is not None and 0 in lengths):
            raise ShapeError(
                f"prompts have shape {tuple(prompts.shape)} and answers {tuple(answers.shape)}, lengths are "
                f"{lengths if lengths is None else lengths.tolist()}: expected (B, Tp) and (B, Ta), and at least one "
                "token in each prompt"
            )
        Ta, tokens = answers.shape[1], prompts
        if Ta > 0:
            tokens = torch.cat([prompts.flatten(), answers.flatten()]).unsqueeze(0)
        x = self.emb(tokens)
        state = zero_state(self.shape, B, x.dtype, x.device)
        parts = Parts(B, Tp, lengths, x.device, following=Ta)
        *blocks, last = cast(list[Block], list(self.blocks))
        runs: list[RunBlock] = [*(block.without_shifts for block in blocks), last.to_the_tail]
        x, _ = self._run(runs, x, state, future_seed, parts, recompute=recompute)
        hidden: Tensor = self.ln_out(x)
        return hidden

    def _run(
        self,
        blocks: Sequence[RunBlock],
        x: Tensor,
        state: State,
        future_seed: FutureSeed | FutureSeedSettings | None,
        parts: Parts,
        *,
        recompute: bool,
    ) -> tuple[Tensor, State]:
        """Return the residual stream after all blocks, and the state after the first part."""
        if isinstance(future_seed, FutureSeedSettings):
            future_seed = FutureSeed(future_seed, self.shape).to(x.device)
        v_first: Tensor | None = None
        new_state: list[LayerState] = []
        for layer, (block, old) in enumerate(zip(blocks, state, strict=True)):
            if future_seed is not None and layer in future_seed.layers:
                old = _seeded(old, future_seed, layer, new_state[-1].wkv, x, parts)
            run = _recomputing(block) if recompute and torch.is_grad_enabled() else block
            x, new, v_first = run(x, old, v_first, parts)
            new_state.append(new)
        return x, tuple(new_state)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of the next token, (..., C) -> (..., V)."""
        logits: Tensor = self.head(hidden)
        return logits


def _recomputing(block: RunBlock) -> RunBlock:
    return partial(recomputed, block, use_reentrant=False, preserve_rng_state=False)


def _seeded(
    old: LayerState, future_seed: FutureSeed, layer: int, previous_sT: Tensor, x: Tensor, parts: Parts
) -> LayerState:
    seed = future_seed.initial_state(layer, previous_sT, parts.last(x))
    if parts.begun is not None:  # a row without a prompt has nothing to be seeded from
        seed = seed * parts.begun.view(-1, 1, 1, 1)
    return old._replace(wkv=old.wkv + seed)


def _check(tokens: Tensor, lengths: Tensor | None) -> None:
    if tokens.dim() != 2:
        raise ShapeError(f"tokens have shape {tuple(tokens.shape)}: expected (B, T)")
    if lengths is None:
        return
    B, T = tokens.shape
    if lengths.shape != (B,):
        raise ShapeError(
            f"lengths have shape {tuple(lengths.shape)}: expected ({B},), one for each row of tokens"
        )
    if not bool(((lengths >= 0) & (lengths <= T)).all()):
        raise ShapeError(f"lengths are {lengths.tolist()}: expected 0 to {T}, the number of token positions")
