"""RWKV-7 ("Goose", x070) as the official code computes it, with the state as an explicit input and output."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from model import checkpoint
from model.channel_mix import ChannelMix
from model.errors import ShapeError
from model.future_seed import FutureSeed
from model.settings import FutureSeedSettings
from model.shapes import ModelShape
from model.state import LayerState, State, zero_state
from model.time_mix import TimeMix
from model.token_shift import Padding, last_position


def load(path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> "RWKV7":
    """Return the model in a checkpoint file, its parameters in `dtype` whatever the file has.

    Raises `CheckpointError` if the file is not a usable checkpoint.
    """
    return RWKV7.from_state_dict(checkpoint.read(path), dtype=dtype, device=device)


class Block(nn.Module):
    """One layer: attention and FFN, each on a normalised residual stream; the first also normalises embeddings."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.ln0 = nn.LayerNorm(shape.n_embd) if layer == 0 else None
        self.ln1, self.ln2 = nn.LayerNorm(shape.n_embd), nn.LayerNorm(shape.n_embd)
        self.att = TimeMix(shape, layer)
        self.ffn = ChannelMix(shape)

    def forward(
        self, x: Tensor, state: LayerState, v_first: Tensor | None, padding: Padding | None
    ) -> tuple[Tensor, LayerState, Tensor]:
        """Return the residual stream after this block, the new state and the values of block 0."""
        if self.ln0 is not None:
            x = self.ln0(x)
        mixed, att_shift, wkv, v_first = self.att(self.ln1(x), state.att_shift, state.wkv, v_first, padding)
        x = x + mixed
        mixed, ffn_shift = self.ffn(self.ln2(x), state.ffn_shift, padding)
        return x + mixed, LayerState(att_shift, wkv, ffn_shift), v_first


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
        padding = _checked_padding(tokens, lengths)
        x = self.emb(tokens)
        if state is None:
            state = zero_state(self.shape, tokens.shape[0], x.dtype, x.device)
        if tokens.shape[1] == 0:
            return x, state
        if isinstance(future_seed, FutureSeedSettings):
            future_seed = FutureSeed(future_seed, self.shape).to(x.device)
        v_first: Tensor | None = None
        new_state: list[LayerState] = []
        for layer, (block, old) in enumerate(zip(self.blocks, state, strict=True)):
            if future_seed is not None and layer in future_seed.layers:
                old = _seeded(old, future_seed, layer, new_state[-1].wkv, x, padding)
            run = _recomputing(block) if recompute and torch.is_grad_enabled() else block
            x, new, v_first = run(x, old, v_first, padding)
            new_state.append(new)
        return self.ln_out(x), tuple(new_state)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of the next token, (..., C) -> (..., V)."""
        logits: Tensor = self.head(hidden)
        return logits


def _recomputing(block: nn.Module) -> Callable[..., tuple[Tensor, LayerState, Tensor]]:
    return partial(recomputed, block, use_reentrant=False, preserve_rng_state=False)


def _seeded(
    old: LayerState,
    future_seed: FutureSeed,
    layer: int,
    previous_sT: Tensor,
    x: Tensor,
    padding: Padding | None,
) -> LayerState:
    seed = future_seed.initial_state(layer, previous_sT, last_position(x, padding))
    if padding is not None:  # a row without a prompt has nothing to be seeded from
        seed = seed * (padding.lengths > 0).view(-1, 1, 1, 1)
    return old._replace(wkv=old.wkv + seed)


def _checked_padding(tokens: Tensor, lengths: Tensor | None) -> Padding | None:
    if tokens.dim() != 2:
        raise ShapeError(f"tokens have shape {tuple(tokens.shape)}: expected (B, T)")
    if lengths is None:
        return None
    B, T = tokens.shape
    if lengths.shape != (B,):
        raise ShapeError(
            f"lengths have shape {tuple(lengths.shape)}: expected ({B},), one for each row of tokens"
        )
    if not bool(((lengths >= 0) & (lengths <= T)).all()):
        raise ShapeError(f"lengths are {lengths.tolist()}: expected 0 to {T}, the number of token positions")
    return Padding(lengths.to(tokens.device), T)
