"""The sizes of an RWKV-7 model, and the official names and shapes of its tensors that follow from them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from model.errors import CheckpointError, ShapeError

Shape = tuple[int, ...]

_BLOCK = re.compile(r"blocks\.(0|[1-9]\d*)\.")
_IDENTIFYING = frozenset({"emb.weight", "blocks.0.att.r_k"})  # names that make a file one of RWKV-7
_VALUE_RESIDUAL = ("v0", "v1", "v2")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """All sizes that determine an RWKV-7 (x070) checkpoint."""

    n_layer: int
    n_embd: int
    """Width of the residual stream, C = n_head * head_size."""
    n_head: int
    head_size: int
    vocab_size: int
    ffn_size: int
    decay_rank: int
    """Low-rank factors w1 w2."""
    rate_rank: int
    """Low-rank factors a1 a2 (in-context learning rate)."""
    value_rank: int
    """Low-rank factors v1 v2 (value residual)."""
    gate_rank: int
    """Low-rank factors g1 g2."""
    block0_value_residual: bool
    """Whether block 0 carries v0 v1 v2, which nothing uses; official files have them, conversions may not."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1 and name not in ("value_rank", "block0_value_residual"):
                raise ShapeError(f"{name} = {value}: expected at least 1")
        if self.n_head * self.head_size != self.n_embd:
            raise ShapeError(
                f"n_embd = {self.n_embd} is not n_head * head_size = {self.n_head} * {self.head_size}: "
                "choose a width that is a multiple of the head size"
            )

    @classmethod
    def random(cls, layers: int, dim: int, vocab: int, head_size: int = 64) -> Self:
        """Return the shape that the official training code gives a new model of this size.

        Raises `ShapeError` if `dim` is not a multiple of `head_size`. Source: RWKV-LM, RWKV-v7/train_temp.
        """
        if head_size < 1 or dim % head_size:
            raise ShapeError(f"dim = {dim} is not a multiple of head_size = {head_size}: choose one that is")
        decay_rank = _suggested_rank(2.5, dim)
        return cls(
            n_layer=layers,
            n_embd=dim,
            n_head=dim // head_size,
            head_size=head_size,
            vocab_size=vocab,
            ffn_size=4 * dim,
            decay_rank=decay_rank,
            rate_rank=decay_rank,
            value_rank=_suggested_rank(1.7, dim),
            gate_rank=_suggested_rank(5.0, dim),
            block0_value_residual=True,
        )

    @classmethod
    def infer(cls, shapes: Mapping[str, Shape]) -> Self:
        """Return the shape of a checkpoint from its tensor names and shapes.

        Raises `CheckpointError` for missing or unknown tensors, and for shapes that contradict each other.
        """
        vocab_size, n_embd = _matrix(shapes, "emb.weight")
        n_head, head_size = _matrix(shapes, "blocks.0.att.r_k")
        n_layer = _count_blocks(shapes)
        block0 = "blocks.0.att.v0" in shapes
        value_block = 0 if block0 else 1
        try:
            shape = cls(
                n_layer=n_layer,
                n_embd=n_embd,
                n_head=n_head,
                head_size=head_size,
                vocab_size=vocab_size,
                ffn_size=_matrix(shapes, "blocks.0.ffn.key.weight")[0],
                decay_rank=_matrix(shapes, "blocks.0.att.w1")[1],
                rate_rank=_matrix(shapes, "blocks.0.att.a1")[1],
                value_rank=_matrix(shapes, f"blocks.{value_block}.att.v1")[1] if n_layer > value_block else 0,
                gate_rank=_matrix(shapes, "blocks.0.att.g1")[1],
                block0_value_residual=block0,
            )
        except ShapeError as error:
            raise CheckpointError(f"the tensors of this checkpoint do not fit together: {error}") from error
        _compare(shapes, shape.tensors())
        return shape

    @property
    def n_params(self) -> int:
        """Number of values in all tensors, the unused ones of block 0 included."""
        return sum(math.prod(shape) for shape in self.tensors().values())

    def tensors(self) -> dict[str, Shape]:
        """Return the official name and shape of every tensor."""
        C = self.n_embd
        named: dict[str, Shape] = {"emb.weight": (self.vocab_size, C)}
        for layer in range(self.n_layer):
            norms = ("ln0", "ln1", "ln2") if layer == 0 else ("ln1", "ln2")
            named |= {f"blocks.{layer}.{norm}.{part}": (C,) for norm in norms for part in ("weight", "bias")}
            named |= {f"blocks.{layer}.att.{name}": shape for name, shape in self._attention(layer).items()}
            named |= {
                f"blocks.{layer}.ffn.x_k": (1, 1, C),
                f"blocks.{layer}.ffn.key.weight": (self.ffn_size, C),
                f"blocks.{layer}.ffn.value.weight": (C, self.ffn_size),
            }
        return named | {"ln_out.weight": (C,), "ln_out.bias": (C,), "head.weight": (self.vocab_size, C)}

    def has_value_residual(self, layer: int) -> bool:
        """Return whether a layer carries v0 v1 v2."""
        return layer > 0 or self.block0_value_residual

    def _attention(self, layer: int) -> dict[str, Shape]:
        C = self.n_embd
        vectors = ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a"]
        ranks = {"w": self.decay_rank, "a": self.rate_rank, "v": self.value_rank, "g": self.gate_rank}
        named: dict[str, Shape] = dict.fromkeys(vectors, (1, 1, C))
        for name, rank in ranks.items():
            named |= {f"{name}1": (C, rank), f"{name}2": (rank, C)}
        named["r_k"] = (self.n_head, self.head_size)
        named |= {f"{name}.weight": (C, C) for name in ("receptance", "key", "value", "output")}
        named |= {"ln_x.weight": (C,), "ln_x.bias": (C,)}
        if not self.has_value_residual(layer):
            named = {name: shape for name, shape in named.items() if name not in _VALUE_RESIDUAL}
        return named


def _suggested_rank(factor: float, dim: int) -> int:
    return max(32, round(factor * math.sqrt(dim) / 32) * 32)


def _count_blocks(shapes: Mapping[str, Shape]) -> int:
    layers = {int(match[1]) for match in map(_BLOCK.match, shapes) if match}
    gaps = sorted(set(range(len(layers))) - layers)
    if gaps:
        raise CheckpointError(
            f"block {gaps[0]} has no tensors, but block {max(layers)} has: the file is incomplete"
        )
    return len(layers)


def _matrix(shapes: Mapping[str, Shape], key: str) -> tuple[int, int]:
    if key not in shapes:
        if shapes.keys() >= _IDENTIFYING:
            raise CheckpointError(f"tensor {key!r} is missing: the file is incomplete")
        raise CheckpointError(
            f"no tensor {key!r} among {len(shapes)} tensors: expected the official RWKV-7 (x070) names; "
            "convert the file, or check that it is an RWKV-7 model"
        )
    shape = tuple(shapes[key])
    if len(shape) != 2:
        raise CheckpointError(f"tensor {key!r} has shape {shape}: expected two dimensions")
    return shape[0], shape[1]


def _compare(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    if missing:
        raise CheckpointError(f"{len(missing)} of {len(expected)} tensors are missing: {_some(missing)}")
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors do not belong to an RWKV-7 (x070) model: {_some(unknown)}"
        )
    for key, shape in expected.items():
        if tuple(found[key]) != shape:
            raise CheckpointError(
                f"tensor {key!r} has shape {tuple(found[key])}: expected {shape}, as the other tensors say"
            )


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
